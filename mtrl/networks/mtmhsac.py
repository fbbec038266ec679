"""The paper's simple baseline, `mtmhsac`: an MLP over [input, one-hot] with one linear head per task."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.config import NetworkSettings
from mtrl.networks.layers import Backend, uniform
from mtrl.networks.trunk import Trunk


class MultiHead(Trunk):
    """[input, task] -> hidden layers -> N heads Linear(w -> o), of which a row meets its own. Heads are
    U(+-head_bound)."""

    def __init__(
        self,
        *,
        members: int,
        inputs: int,
        tasks: int,
        outputs: int,
        shape: NetworkSettings,
        head_bound: float,
        generator: torch.Generator,
        backend: Backend = "torch",
    ) -> None:
        super().__init__(
            members=members, inputs=inputs, tasks=tasks, shape=shape, generator=generator, backend=backend
        )
        self.shape = {
            "members": members,
            "inputs": inputs,
            "outputs": outputs,
            "tasks": tasks,
            "width": shape.width,
            "depth": shape.depth,
        }
        self.head_kernel = uniform(head_bound, members, tasks, shape.width, outputs, generator=generator)
        self.head_bias = uniform(head_bound, members, tasks, outputs, generator=generator)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D], each from the head of its own task [B]."""
        _, hidden = self.hidden(x, task)
        output: Tensor = self.kernels.own_head(hidden, self.head_kernel, self.head_bias, task)
        return output
