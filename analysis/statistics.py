"""Statistics of success over runs and tasks, on plain arrays [..., runs, tasks].

Every random draw comes from a given generator. A statistic maps [..., runs, tasks] to [...], so that thousands of
bootstrap samples are one call. The unit that is drawn again is the run: the tasks of a multi-task run share one
network, so their scores are not independent. `unit="task"` draws the runs of each task independently instead, as
rliable does (Agarwal et al. 2021); that is right where each task has runs of its own, and too narrow where it has not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.floating[Any]]
Statistic = Callable[[Array], Array]
Unit = Literal["run", "task"]
Method = Literal["t", "bca", "percentile"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; without one, `low` and `high` are NaN and `note` says why."""

    estimate: float
    low: float
    high: float
    runs: int
    confidence: float
    method: str
    note: str = ""


def iqm(scores: Array) -> Array:
    """The interquartile mean over runs and tasks together: the mean without the lowest and highest quarter.

    floor(n / 4) of the n scores are left out at each end, as in rliable. scores is [..., runs, tasks].
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    n = flat.shape[-1]
    out = n // 4
    if not out:
        return np.asarray(flat.mean(-1))
    return np.asarray(np.sort(flat, axis=-1)[..., out : n - out].mean(-1))


def iqm_of_runs(scores: Array) -> Array:
    """The interquartile mean over runs of each run's mean over tasks: the score that the paper reports."""
    return iqm(scores.mean(-1, keepdims=True))


def mean(scores: Array) -> Array:
    return np.asarray(scores.mean((-2, -1)))


def median(scores: Array) -> Array:
    """The median over tasks of each task's mean over runs, as in rliable."""
    return np.asarray(np.median(scores.mean(-2), axis=-1))


def optimality_gap(scores: Array, target: float = 1.0) -> Array:
    """By how much the scores fall short of `target` on average; what lies above it does not make up for the rest."""
    return np.asarray(target - np.minimum(scores, target).mean((-2, -1)))


def interval(
    scores: Array,
    statistic: Statistic,
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
    unit: Unit = "run",
    method: Method = "t",
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """`statistic` of scores [runs, tasks] with a bootstrap interval.

    method "t" takes the bootstrap's standard error, corrected for few runs, times Student's quantile, cut at
    `bounds`; "bca" is Efron's (1987); "percentile" is rliable's, and covers too rarely with ten runs or fewer.
    One run has no interval.
    """
    runs = scores.shape[0]
    estimate = float(statistic(scores))
    if runs < 2:
        return Interval(estimate, np.nan, np.nan, runs, confidence, method, "1 seed: no interval")
    samples = statistic(resample(scores, generator, resamples, unit))
    low, high = _ends(samples, estimate, scores, statistic, confidence, method)
    low, high = max(low, bounds[0]), min(high, bounds[1])
    note = "all runs scored the same" if low == high else ""
    return Interval(estimate, low, high, runs, confidence, method, note)


def resample(scores: Array, generator: np.random.Generator, resamples: int, unit: Unit = "run") -> Array:
    """Bootstrap samples [resamples, runs, tasks] of scores [runs, tasks]: whole runs, or runs for each task alone."""
    runs, tasks = scores.shape
    if unit == "run":
        return scores[generator.integers(runs, size=(resamples, runs), dtype=np.int32)]
    rows = generator.integers(runs, size=(resamples, runs, tasks), dtype=np.int32)
    rows *= tasks
    rows += np.arange(tasks, dtype=np.int32)
    return np.take(scores, rows)


def _ends(
    samples: Array, estimate: float, scores: Array, statistic: Statistic, confidence: float, method: Method
) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    if method == "t":
        runs = scores.shape[0]
        # A bootstrap sample of n runs varies as if the variance were divided by n, not n - 1.
        spread = samples.std() * np.sqrt(runs / (runs - 1)) * special.stdtrit(runs - 1, 1 - tail)
        return float(estimate - spread), float(estimate + spread)
    levels = np.array([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(samples, estimate, scores, statistic, levels)
    low, high = np.quantile(samples, levels)
    return float(low), float(high)


def _bca_levels(samples: Array, estimate: float, scores: Array, statistic: Statistic, levels: Array) -> Array:
    """The levels corrected for bias and acceleration; Efron 1987."""
    below = np.mean(samples < estimate) + np.mean(samples == estimate) / 2
    bias = special.ndtri(np.clip(below, 1 / (len(samples) + 1), len(samples) / (len(samples) + 1)))
    left_out = np.array([statistic(np.delete(scores, run, axis=0)) for run in range(len(scores))])
    deviation = left_out.mean() - left_out
    scale = np.sum(deviation**2) ** 1.5
    acceleration = np.sum(deviation**3) / (6 * scale) if scale > 0 else 0.0
    z = bias + special.ndtri(levels)
    return np.asarray(special.ndtr(bias + z / (1 - acceleration * z)))
