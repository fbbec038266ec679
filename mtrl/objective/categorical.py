"""Distributions over fixed values, for critics that learn a distribution instead of a number.

K atoms are spaced evenly from the least to the greatest value; a value outside counts as the nearer end. B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expectation(probability: Tensor, atoms: Tensor) -> Tensor:
    """The mean of distributions [..., K] over the atoms [K]: [...]."""
    return probability @ atoms


def project(probability: Tensor, position: Tensor, atoms: Tensor) -> Tensor:
    """Distributions [B, K] on the atoms, from masses `probability` [B, M] at the places `position` [B, M].

    A mass is divided between the two atoms beside it, the nearer one getting more (C51; Bellemare et al. 2017, eq. 7).
    This keeps the mean of masses that lie within the support.
    """
    last = len(atoms) - 1
    place = ((position - atoms[0]) * (last / (atoms[-1] - atoms[0]))).clamp(0, last)
    lower = place.floor().clamp(max=last - 1)
    upper_share = place - lower
    index = lower.nan_to_num().long()  # a NaN becomes a mass of NaN, not a place outside
    result = torch.zeros((len(place), len(atoms)), dtype=probability.dtype, device=probability.device)
    result.scatter_add_(1, index, probability * (1 - upper_share))
    return result.scatter_add_(1, index + 1, probability * upper_share)


def two_hot(value: Tensor, atoms: Tensor) -> Tensor:
    """Distributions [B, K] of mean `value` [B] on at most two neighbouring atoms (Schrittwieser et al. 2020)."""
    return project(torch.ones_like(value).unsqueeze(1), value.unsqueeze(1), atoms)


def hl_gauss(value: Tensor, atoms: Tensor, sigma: float) -> Tensor:
    """Distributions [B, K]: a Gaussian about `value` [B], integrated over the bin of each atom and normalised.

    Farebrother et al. 2024, who use sigma = 0.75; its unit is a bin. A bin extends half way to the neighbouring atoms.
    """
    width = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    edges = torch.cat((atoms - width / 2, atoms[-1:] + width / 2))
    centre = value.clamp(atoms[0], atoms[-1]).unsqueeze(1)
    below = torch.special.ndtr((edges - centre) / (sigma * width))
    mass: Tensor = below.diff(dim=1) / (below[:, -1:] - below[:, :1])
    return mass
