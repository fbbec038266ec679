"""Adam over one flat vector per network, with the joint clip before it and the Polyak average after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BETA1, BETA2 = 0.9, 0.999
ALIGNMENT = 16  # floats: each parameter starts on a cache line


def flatten(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Moves the parameters into one vector and their gradients into a second; both. Gaps hold zeros."""
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
    return value, gradient


class Adam:
    """Adam (Kingma & Ba 2015) with the gradient scaled so that its norm is at most `clip`."""

    def __init__(self, value: Tensor, gradient: Tensor, *, lr: float, eps: float, clip: float) -> None:
        self.value, self.gradient = value, gradient
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)
        self.steps = 0
        self.lr, self.eps, self.clip = lr, eps, clip

    def step(self, target: Tensor | None = None, polyak: float = 0.0) -> Tensor:
        """One update of `value`, then target += polyak (value - target); the norm before the clip, 0-d."""
        self.steps += 1
        norm: Tensor = torch.linalg.vector_norm(self.gradient)
        gradient = self.gradient * (self.clip / norm).clamp(max=1.0)
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.lerp_(gradient.square(), 1 - BETA2)
        scale = (self.square / (1 - BETA2**self.steps)).sqrt_().add_(self.eps)
        self.value.addcdiv_(self.mean, scale, value=-self.lr / (1 - BETA1**self.steps))
        if target is not None:
            target.lerp_(self.value, polyak)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.clone(), "square": self.square.clone(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = int(state["steps"])
