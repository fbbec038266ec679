"""How much of a network is still alive: dormant neurons, effective rank, weight norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DORMANT_THRESHOLD = 0.1  # of the layer's mean activation (Sokar et al. 2023, tau; the paper's value)
SRANK_TAIL = 0.01  # delta of Kumar et al. 2021
SRANK_ROWS = 1024  # rows used at most: the cost grows with the cube


@torch.no_grad()
def dormant(hidden: Tensor, threshold: float = DORMANT_THRESHOLD) -> Tensor:
    """Which of W neurons are dormant, bool [W], from activations [B, W].

    Dormant: mean |activation| at most `threshold` times the mean over the layer's neurons.
    """
    activity = hidden.abs().mean(0)
    return activity <= threshold * activity.mean()


@torch.no_grad()
def srank(hidden: Tensor, tail: float = SRANK_TAIL) -> float:
    """The least k whose k largest singular values hold 1 - tail of their sum, for activations [B, W].

    From at most 1,024 rows, evenly spaced; by the eigenvalues of the smaller Gram matrix in float64.
    0 if all is zero, NaN if something is not finite.
    """
    if not hidden.isfinite().all():
        return math.nan
    spaced = hidden[:: -(-len(hidden) // SRANK_ROWS)].double()
    gram = spaced @ spaced.T if spaced.shape[0] < spaced.shape[1] else spaced.T @ spaced
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    total = singular.sum()
    if total == 0:
        return 0
    return 1 + int((singular.cumsum(0) / total < 1 - tail).sum())


@torch.no_grad()
def weight_norm(module: nn.Module) -> float:
    """The Euclidean norm of all parameters together."""
    return float(sum(p.double().square().sum() for p in module.parameters()) ** 0.5)
