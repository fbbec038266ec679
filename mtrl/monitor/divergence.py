"""When a run has diverged: a number that is not finite, or Q or a loss beyond its limit (section `divergence`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from mtrl.config import Config
from mtrl.results import Divergence

log = logging.getLogger(__name__)


class DivergedError(ArithmeticError):
    """The run has diverged and must end here; the run file has recorded it already."""


class DivergenceGuard:
    """Decides whether a run has diverged, and whether it must end.

    `record` is called with the first sign of divergence and whether the run trains on; with None when a run continues
    from before it.
    """

    def __init__(self, config: Config, record: Callable[[Divergence | None, bool], None]) -> None:
        self._limits = config.divergence_limits
        self._trains_on = config.divergence.action == "continue"
        self._record = record
        self.divergence: Divergence | None = None  # the first sign of it

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Checks metrics of a run after `step` vector steps. Raises DivergedError if the run must end.

        A number that is not finite always ends it: networks that compute with it can neither act nor learn.
        """
        found = find_divergence(step, metrics, self._limits)
        if found is None:
            return
        ends = not (self._trains_on and math.isfinite(found.value))
        if self.divergence is None or ends:
            self.divergence = self.divergence or found
            self._record(self.divergence, not ends)
            log.warning("%s%s", found, "" if ends else "; training continues")
        if ends:
            raise DivergedError(str(found))

    def state_dict(self) -> dict[str, Any]:
        return {"divergence": None if self.divergence is None else list(self.divergence)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.divergence = state["divergence"] and Divergence(*state["divergence"])
        self._record(self.divergence, True)


def find_divergence(
    vector_step: int, metrics: Mapping[str, float], limits: Mapping[str, float]
) -> Divergence | None:
    """The first metric that is not finite; else the first that exceeds its limit; None if there is neither.

    limits are those of `Config.divergence_limits`: "q" is for `q_mean` and `q_max`, "loss" for every `*_loss`. Any
    other metric only has to be finite.
    """
    exceeding, least = None, min(limits.values())
    for name, value in metrics.items():
        if abs(value) <= least:  # nearly always, and every step asks
            continue
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
