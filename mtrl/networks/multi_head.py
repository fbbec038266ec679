"""The paper's simple baseline, `mtmhsac`: an MLP over [input, one-hot] with one linear head per task."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mtrl import ops
from mtrl.networks import plain

Backend = Literal["core", "torch"]


class MultiHead(nn.Module):
    """`members` multi-head MLPs of one shape, side by side: a critic ensemble, or an actor (one member).

    Hidden kernels are He-uniform over the fan-in with the one-hot counted, hidden biases 0, heads
    U(+-head_bound). The one-hot never enters a matrix product: the rows of the first kernel that it would
    pick are `task_row`. Every number comes from `generator` (CPU), so a seed gives the same network on any device.
    """

    def __init__(
        self,
        *,
        members: int,
        inputs: int,
        tasks: int,
        outputs: int,
        width: int,
        depth: int,
        head_bound: float,
        generator: torch.Generator,
        backend: Backend = "torch",
    ) -> None:
        super().__init__()
        self.backend = backend
        self.shape = {
            "members": members,
            "inputs": inputs,
            "outputs": outputs,
            "tasks": tasks,
            "width": width,
            "depth": depth,
        }

        def uniform(bound: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        first = math.sqrt(6 / (inputs + tasks))
        hidden = math.sqrt(6 / width)
        self.task_row = uniform(first, members, tasks, width)
        self.kernel = nn.ParameterList(
            [uniform(first, members, inputs, width)]
            + [uniform(hidden, members, width, width) for _ in range(depth - 1)]
        )
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(members, width)) for _ in range(depth)])
        self.head_kernel = uniform(head_bound, members, tasks, width, outputs)
        self.head_bias = uniform(head_bound, members, tasks, outputs)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D], each from the head of its own task [B]."""
        layers = ops if self.backend == "core" else plain
        output: Tensor = layers.own_head(self.features(x, task)[-1], self.head_kernel, self.head_bias, task)
        return output

    def features(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Activations of each hidden layer after its ReLU, each [E, B, W]."""
        layers = ops if self.backend == "core" else plain
        hidden = [layers.ensemble_linear(x, self.kernel[0], self.bias[0], self.task_row, task)]
        for kernel, bias in zip(self.kernel[1:], self.bias[1:], strict=True):
            hidden.append(layers.ensemble_linear(hidden[-1], kernel, bias))
        return hidden
