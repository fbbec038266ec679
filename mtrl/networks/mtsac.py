"""`mtsac`: the MLP over [input, one-hot] with one head for all tasks. `sac` has the same network (see mtrl.systems)."""

from __future__ import annotations

from torch import Tensor

from mtrl.networks.layers import Blueprint, Linear
from mtrl.networks.trunk import Trunk


class SharedHead(Trunk):
    """[input, task] -> hidden layers -> one linear head for all tasks, which starts from U(+-head_bound)."""

    def __init__(self, plan: Blueprint) -> None:
        super().__init__(plan)
        self.head = Linear(plan.critics, plan.settings.width, plan.outputs, plan.generator, plan.head_bound)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D] of the tasks [B]."""
        output: Tensor = self.head(self.hidden(x, task)[1])
        return output
