"""The losses of multi-task SAC (Haarnoja et al. 2018) as the paper uses them. E critics, B batch rows."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def td_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    log_prob: Tensor,
    temperature: Tensor,
    discount: Tensor,
) -> Tensor:
    """y = r + discount (1 - d) (min_e Q_e - temperature log pi), [B].

    Haarnoja et al. 2018. next_q is [E, B]; the others are [B]. No gradient flows through y. d is `terminated`: after a
    truncation the value still counts. `discount` is that of the next value: gamma ** n after an n-step return.
    """
    return reward + discount * (1 - terminated) * (next_q.amin(0) - temperature * log_prob)


def actor_loss(log_prob: Tensor, q: Tensor, temperature: Tensor, reduction: str = "min") -> Tensor:
    """temperature log pi - Q of each row, [B]; q is [E, B], Q its minimum or mean over critics.

    The gradient of the minimum goes to the first critic that attains it.
    """
    return temperature * log_prob - (q.min(dim=0).values if reduction == "min" else q.mean(0))


def temperature_weights(log_temperature: Tensor) -> Tensor:
    """T softmax(-log temperature), [T]: tasks that still explore weigh less (soft modularization; Yang et al. 2020)."""
    return len(log_temperature) * (-log_temperature).softmax(0)


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Mean of -log temperature (log pi + target entropy), all [B]; only log_temperature is differentiated."""
    return -(log_temperature * (log_prob.detach() + target_entropy)).mean()
