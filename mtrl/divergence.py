"""When a run has diverged: a number that is not finite, or Q or a loss beyond its limit (section `divergence`)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mtrl.results import Divergence


def find_divergence(
    vector_step: int, metrics: Mapping[str, float], limits: Mapping[str, float]
) -> Divergence | None:
    """The worst sign in `metrics`: first what is not finite, then what exceeds its limit; None where all is well.

    limits are those of `Config.divergence_limits`: "q" is for `q_mean` and `q_max`, "loss" for every `*_loss`. Any
    other metric only has to be finite.
    """
    exceeding = None
    for name, value in metrics.items():
        limit = _limit(name, limits)
        if not math.isfinite(value):
            return Divergence(vector_step, name, value, limit)
        if abs(value) > limit and exceeding is None:
            exceeding = Divergence(vector_step, name, value, limit)
    return exceeding


def _limit(name: str, limits: Mapping[str, float]) -> float:
    if name in ("q_mean", "q_max"):
        return limits["q"]
    return limits["loss"] if name.endswith("_loss") else math.inf
