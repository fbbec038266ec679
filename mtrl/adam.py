"""Adam over one flat vector per network, with the joint clip before it and the Polyak average after it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mtrl import ops

BETA1, BETA2 = 0.9, 0.999
ALIGNMENT = 16  # floats: each parameter starts on a cache line


def flatten(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor, list[int]]:
    """Moves the parameters into one flat vector and their gradients into another. The parameters become views.

    Returns both vectors, and the index in them at which each parameter starts: a multiple of ALIGNMENT. Gaps hold
    zeros.
    """
    starts, size = [], 0
    for parameter in parameters:
        starts.append(size)
        size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
    value = torch.zeros(size, device=parameters[0].device)
    gradient = torch.zeros_like(value)
    for start, parameter in zip(starts, parameters, strict=True):
        place = slice(start, start + parameter.numel())
        value[place] = parameter.detach().reshape(-1)
        parameter.data = value[place].view(parameter.shape)
        parameter.grad = gradient[place].view(parameter.shape)
    return value, gradient, starts


class Adam:
    """Adam (Kingma & Ba 2015), AdamW where `weight_decay` is above 0 (Loshchilov & Hutter 2019).

    `value` and `gradient` are flat vectors of the same size. The gradient is scaled so that its norm is at most `clip`;
    the weight decay is not part of that norm.
    """

    def __init__(
        self,
        value: Tensor,
        gradient: Tensor,
        *,
        lr: float,
        eps: float,
        clip: float,
        backend: str,
        weight_decay: float = 0.0,
    ) -> None:
        self.value, self.gradient = value, gradient
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)
        self.steps = 0
        self._counter: Tensor | None = None
        self.lr, self.eps, self.clip, self.backend = lr, eps, clip, backend
        self.weight_decay = weight_decay

    def step(self, target: Tensor | None = None, polyak: float = 0.0) -> Tensor:
        """Takes one step on `value`, then target += polyak (value - target).

        Returns the norm of the gradient before the clip, a 0-d tensor.
        """
        self.steps += 1
        if self.backend == "core":
            return torch.as_tensor(self._core_step(target, polyak))
        # A single-precision sum over a million squares is wrong in the fourth digit.
        norm: Tensor = torch.linalg.vector_norm(self.gradient, dtype=torch.float64).float()
        gradient = self.gradient * (self.clip / norm).clamp(max=1.0)
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.lerp_(gradient.square(), 1 - BETA2)
        scale = (self.square / (1 - BETA2**self.steps)).sqrt_().add_(self.eps)
        self.value.mul_(1 - self.lr * self.weight_decay)
        self.value.addcdiv_(self.mean, scale, value=-self.lr / (1 - BETA1**self.steps))
        if target is not None:
            target.lerp_(self.value, polyak)
        return norm

    @torch.no_grad()
    def update_norm(self) -> float:
        """The norm of the latest step's change of `value`, computed from the moments; NaN before the first step."""
        if self.steps == 0:
            return math.nan
        scale = (self.square / (1 - BETA2**self.steps)).sqrt_().add_(self.eps)
        update = self.mean / scale
        update *= self.lr / (1 - BETA1**self.steps)
        # The decay acted on the value before the step: value = (1 - decay) before - update.
        if decay := self.lr * self.weight_decay:
            update += (self.value + update) * (decay / (1 - decay))
        return float(torch.linalg.vector_norm(update, dtype=torch.float64))

    def count_on(self, counter: Tensor) -> None:
        """From now on a step counts on `counter`, int64 [1] on a GPU, which a CUDA graph can do.

        The caller keeps it equal to `steps`.
        """
        self._counter = counter

    def flat(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """The arguments of `mtrl.ops.SacUpdate` for one optimiser: its vectors, and the number of the next step."""
        return self.value, self.gradient, self.mean, self.square, self.steps + 1

    def _core_step(self, target: Tensor | None, polyak: float) -> float | Tensor:
        moments = (self.mean, self.square)
        betas = (BETA1, BETA2)
        return ops.adam_polyak(
            self.value,
            self.gradient,
            moments,
            target,
            self.lr,
            betas,
            self.eps,
            self.weight_decay,
            self.clip,
            polyak,
            self.steps if self._counter is None else self._counter,
        )

    def reset(self) -> None:
        """Sets the moments and the number of steps to zero."""
        self.mean.zero_()
        self.square.zero_()
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.clone(), "square": self.square.clone(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = int(state["steps"])
