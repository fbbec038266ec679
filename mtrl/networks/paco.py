"""`paco` (Sun et al. 2022): every weight is a mixture of K parameter sets, with weights of the row's task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtrl.networks.layers import Blueprint, Network, TaskLinear, he_uniform, uniform


class Paco(Network):
    """w = Linear(one-hot) in R^K, K = `experts`; each layer y = sum_k w_k (W_k x + b_k), ReLU after hidden ones.

    The K sets are mixed once per task, instead of their outputs once per row. So a layer is computed like the heads of
    `mtmhsac`: each row with its own task's kernel.
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        critics, settings, generator = plan.critics, plan.settings, plan.generator
        self.backend = plan.backend
        sets, width, depth = settings.experts, settings.width, settings.depth
        self.mixture = TaskLinear(critics, plan.tasks, sets, generator)
        into = [plan.inputs] + [width] * (depth - 1)
        self.kernel = nn.ParameterList(
            [he_uniform(critics, sets, i, width, generator=generator) for i in into]
            + [uniform(plan.head_bound, critics, sets, width, plan.outputs, generator=generator)]
        )
        self.bias = nn.ParameterList(
            [torch.zeros(critics, sets, width) for _ in into]
            + [uniform(plan.head_bound, critics, sets, plan.outputs, generator=generator)]
        )

    @property
    def hidden_layers(self) -> int:
        return len(self.kernel) - 1

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D] of the tasks [B]."""
        return self._layer(-1, self.features(x, task)[-1], task)

    def features(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Activations of each hidden layer after its ReLU, each [E, B, W]."""
        hidden: list[Tensor] = []
        h = x.expand(len(self.kernel[0]), -1, -1)
        for i in range(self.hidden_layers):
            h = self._layer(i, h, task).relu()
            hidden.append(h)
        return hidden

    def _layer(self, i: int, x: Tensor, task: Tensor) -> Tensor:
        """Layer i of x [E, B, D], each row with its own task's mixture of the parameter sets."""
        weight = self.mixture.every()
        kernel = torch.einsum("etk,ekdo->etdo", weight, self.kernel[i])
        bias = torch.einsum("etk,eko->eto", weight, self.bias[i])
        output: Tensor = self.kernels.head_gather(x, kernel, bias, task)
        return output
