"""`mtsac`: the MLP over [input, one-hot] with one head for all tasks. `sac` has the same network (see mtrl.systems)."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.config import NetworkSettings
from mtrl.networks.layers import Backend, Linear
from mtrl.networks.trunk import Trunk


class SharedHead(Trunk):
    """[input, task] -> hidden layers -> Linear(w -> o), U(+-head_bound), which every task shares."""

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
        self.head = Linear(members, shape.width, outputs, generator, head_bound)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D] of the tasks [B]."""
        output: Tensor = self.head(self.hidden(x, task)[1])
        return output
