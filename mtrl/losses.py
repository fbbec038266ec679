"""The losses of multi-task SAC (Haarnoja et al. 2018) as the paper uses them. E members, B batch rows."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def soft_target(
    reward: Tensor, terminated: Tensor, next_q: Tensor, log_prob: Tensor, temperature: Tensor, discount: float
) -> Tensor:
    """y = r + discount (1 - d) (min_e Q_e - temperature log pi), [B].

    next_q is [E, B]; the others are [B]. No gradient flows through y. d is termination only:
    truncation bootstraps.
    """
    return reward + discount * (1 - terminated) * (next_q.amin(0) - temperature * log_prob)


def critic_loss(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over members and rows of weight (Q - y)^2; q is [E, B], target and importance weight [B]."""
    return (weight * (q - target).square()).mean()


def actor_loss(log_prob: Tensor, q: Tensor, temperature: Tensor) -> Tensor:
    """Mean of temperature log pi - min_e Q_e; q is [E, B], the others [B].

    The gradient of the minimum goes to the first member that attains it.
    """
    return (temperature * log_prob - q.min(dim=0).values).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Mean of -log temperature (log pi + target entropy), all [B]; only log_temperature is differentiated."""
    return -(log_temperature * (log_prob.detach() + target_entropy)).mean()
