"""`moore` (Hendawy et al. 2024): experts made orthogonal row by row, mixed with weights of the row's task."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.networks.layers import Blueprint, Mlp, Network, he_uniform, uniform

EPSILON = 1e-8  # added to the norms that are divided by


class Moore(Network):
    """Experts whose outputs are made orthogonal and mixed for the row's task, and a linear head per task.

    `experts` MLPs of the observation -> Gram-Schmidt over their outputs u -> tanh(sum_n W[task, n] u_n) -> the head.
    `depth` counts the experts' linear layers; the last has no ReLU.
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        critics, settings, generator = plan.critics, plan.settings, plan.generator
        self.backend, self.experts = plan.backend, settings.experts
        self.expert = Mlp(
            critics * settings.experts, (plan.inputs, *[settings.width] * settings.depth), generator
        )
        self.mixture = he_uniform(critics, plan.tasks, settings.experts, generator=generator)
        self.head_kernel = uniform(
            plan.head_bound, critics, plan.tasks, settings.width, plan.outputs, generator=generator
        )
        self.head_bias = uniform(plan.head_bound, critics, plan.tasks, plan.outputs, generator=generator)

    @property
    def hidden_layers(self) -> int:
        return len(self.expert.linear)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D], each from the head of its own task [B]."""
        mixed = self.features(x, task)[-1]
        output: Tensor = self.kernels.head_gather(mixed, self.head_kernel, self.head_bias, task)
        return output

    def features(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """The experts' hidden layers after their ReLU, [E, B, experts W] each, then the tanh [E, B, W]."""
        critics = len(self.mixture)
        y, hidden = self.expert(x, self.kernels)
        basis = orthonormalize(y.unflatten(0, (critics, self.experts)))
        weight = self.mixture.index_select(1, task)
        mixed = torch.einsum("ebn,enbw->ebw", weight, basis).tanh()
        each = [h.unflatten(0, (critics, self.experts)).transpose(1, 2).flatten(2) for h in hidden]
        return [*each, mixed]


def orthonormalize(x: Tensor) -> Tensor:
    """Gram-Schmidt over the experts of x [E, experts, B, W], for each row by itself; the same shape.

    Each expert's vector loses its projection on all experts before it, and is divided by its norm + 1e-8.
    """
    basis: list[Tensor] = []
    for v in x.unbind(1):
        if basis:
            before = torch.stack(basis, 1)
            along = torch.einsum("enbw,ebw->enb", before, v)
            v = v - torch.einsum("enb,enbw->ebw", along, before)
        basis.append(v / (torch.linalg.vector_norm(v, dim=-1, keepdim=True) + EPSILON))
    return torch.stack(basis, 1)
