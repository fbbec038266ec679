"""The paper's simple baseline, `mtmhsac`: an MLP over [input, one-hot] with one linear head per task."""

from __future__ import annotations

from torch import Tensor

from mtrl.networks.layers import Blueprint, uniform
from mtrl.networks.trunk import Trunk


class MultiHead(Trunk):
    """[input, task] -> hidden layers -> one linear head per task; a row uses its own task's.

    Heads start from U(+-head_bound).
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__(plan)
        critics, settings = plan.critics, plan.settings
        self.shape = {
            "critics": critics,
            "inputs": plan.inputs,
            "outputs": plan.outputs,
            "tasks": plan.tasks,
            "width": settings.width,
            "depth": settings.depth,
        }
        self.head_kernel = uniform(
            plan.head_bound, critics, plan.tasks, settings.width, plan.outputs, generator=plan.generator
        )
        self.head_bias = uniform(plan.head_bound, critics, plan.tasks, plan.outputs, generator=plan.generator)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D], each from the head of its own task [B]."""
        _, hidden = self.hidden(x, task)
        output: Tensor = self.kernels.head_gather(hidden, self.head_kernel, self.head_bias, task)
        return output
