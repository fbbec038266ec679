"""Env steps to success J: D_J, where a run's rising curve reaches J, and its law in size.

A run that never reaches J is censored: its D_J is beyond its last step. The law log D_J = c - b log N is fitted by
censored normal regression (Tobin 1958), its interval by leaving out each run in turn (jackknife) with Student's
quantile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.curves import isotonic
from analysis.models import EACH, Array, Model, Rows, minimise
from analysis.sandwich import Estimate
from analysis.slopes import ROUNDING
from analysis.variants import Variant

WIDTHS_NEEDED = 4
SEEDS_NEEDED = 2


@dataclass(frozen=True)
class Times:
    """D_J of runs [n]: env steps, or the last step where the run is censored."""

    size: Array  # parameters
    steps: Array
    censored: NDArray[np.bool_]


@dataclass(frozen=True)
class TimeLaw:
    """The law of D_J, or why there is none."""

    success: float  # J
    runs: int
    censored: int
    exponent: Estimate | None  # b: D_J falls as N^-b
    refusal: str = ""


def first_reached(curves: Array, steps: Array, success: float) -> tuple[Array, NDArray[np.bool_]]:
    """For curves [runs, evaluations]: env steps at which the isotonic curve reaches `success`, and which never do.

    Between evaluations linearly in log steps. NaN evaluations at the end of a curve count for nothing.
    """
    found, censored = np.empty(len(curves)), np.zeros(len(curves), bool)
    for run, curve in enumerate(curves):
        known = np.isfinite(curve)
        rising, logs = isotonic(curve[known]), np.log(steps[known])
        place = int(np.searchsorted(rising, success))
        if place == len(rising):
            found[run], censored[run] = logs[-1], True
        elif place == 0 or rising[place] == rising[place - 1]:
            found[run] = logs[place]
        else:
            share = (success - rising[place - 1]) / (rising[place] - rising[place - 1])
            found[run] = logs[place - 1] + share * (logs[place] - logs[place - 1])
    return np.exp(found), censored


def times_of(group: Sequence[Variant], success: float) -> Times:
    """D_J of the finished runs of variants, summed over tasks; runs without any evaluation are left out."""
    size, steps, censored = [], [], []
    for variant in group:
        at, curves = variant.known_curves()
        curves = curves[variant.finished]
        curves = curves[np.isfinite(curves).any(1)]
        found, never = first_reached(curves, at * variant.task_count, success)
        size.append(np.full(len(found), float(variant.parameters["total"])))
        steps.append(found)
        censored.append(never)
    return Times(np.concatenate(size), np.concatenate(steps), np.concatenate(censored))


def time_law(times: Times, success: float, *, seeds: int = SEEDS_NEEDED) -> TimeLaw:
    """The law of D_J in size; refused where under half the runs reach J, or there are too few widths or seeds."""
    runs, lost = len(times.steps), int(times.censored.sum())
    sizes, counts = np.unique(times.size, return_counts=True)
    refusal = ""
    if len(sizes) < WIDTHS_NEEDED:
        refusal = f"{len(sizes)} width{'' if len(sizes) == 1 else 's'}, {WIDTHS_NEEDED} needed"
    elif counts.min() < seeds:
        refusal = f"{counts.min()} seed at some width, {seeds} needed"
    elif 2 * lost > runs:
        refusal = f"{runs - lost} of {runs} runs reach it, half needed"
    if refusal:
        return TimeLaw(success, runs, lost, None, refusal)
    x = np.log(times.size.mean()) - np.log(times.size)
    (exponent,) = censored_lines(x[:, None], np.log(times.steps), times.censored)
    return TimeLaw(success, runs, lost, exponent)


def censored_lines(x: Array, y: Array, censored: NDArray[np.bool_]) -> list[Estimate]:
    """The slopes of y [n] on the columns of x [n, k], with jackknife intervals; a censored y is a lower bound."""
    runs = len(y)
    x = np.column_stack([np.ones(runs), x])
    keep = np.concatenate([np.ones((1, runs)), 1 - np.eye(runs)])  # all runs, then each left out
    numbers = censored_regression(x, y, censored, keep)[:, 1:]
    apart = numbers[1:] - numbers[1:].mean(0)
    errors = np.sqrt((runs - 1) / runs * np.sum(apart**2, axis=0))
    freedom = float(max(1, runs - int(censored.sum()) - x.shape[1]))
    return [
        _student(float(value), float(error), freedom) for value, error in zip(numbers[0], errors, strict=True)
    ]


def _student(value: float, error: float, freedom: float) -> Estimate:
    value, error = (0.0 if abs(number) < ROUNDING else number for number in (value, error))
    spread = error * float(special.stdtrit(freedom, 0.975))
    p = float(2 * special.stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return Estimate(value, value - spread, value + spread, p, freedom)


def censored_regression(x: Array, y: Array, censored: NDArray[np.bool_], weights: Array) -> Array:
    """Numbers [samples, p] of y on x [n, p] where y of a censored point is a lower bound; weights are [samples, n]."""
    normal = np.einsum("sn,np,nq->spq", weights, x, x, optimize=True)
    numbers = np.linalg.solve(normal, ((weights * y) @ x)[..., None])[..., 0]
    if not censored.any():
        return numbers
    limits = np.full(x.shape[1], np.inf)
    line = Model("line", (), ("",) * len(limits), {}, tuple(-limits), tuple(limits), 0, _line)
    precision = -2 * np.log((y - x @ numbers[0]).std() + 1e-6)
    start = np.column_stack([numbers, np.full(len(weights), precision)])
    return minimise(line, x, Censored(y, censored), start, weights=weights)[0][:, :-1]


def _line(theta: Array, x: Array) -> tuple[Array, Array]:
    """exp(x theta) [samples, n] and its derivatives [samples, p, n]."""
    steps = np.exp(theta @ x.T)
    return steps, steps[:, None] * x.T


@dataclass(frozen=True)
class Censored:
    """The loss of predicted D_J by the normal log likelihood; of a censored run, that it is slower. See models.Loss."""

    logs: Array  # [n], of D_J seen
    censored: NDArray[np.bool_]
    extra: int = 1  # the log precision

    def loss(self, predicted: Array, log_precision: Array | None, rows: Rows = EACH) -> tuple[Array, ...]:
        assert log_precision is not None
        steps = predicted[:, rows]
        root = np.exp(log_precision / 2)[:, None]
        away = (np.log(steps) - self.logs) * root
        hazard = np.exp(-(away**2) / 2 - special.log_ndtr(away)) / np.sqrt(2 * np.pi)
        loss = np.where(self.censored, -special.log_ndtr(away), (away**2 - log_precision[:, None]) / 2)
        pull = np.where(self.censored, -hazard, away) * root / steps
        curvature = np.where(self.censored, hazard * (away + hazard), 1) * (root / steps) ** 2
        score = np.where(self.censored, -hazard * away, away**2 - 1) / 2
        return loss, pull, curvature, score, np.maximum(score**2, np.where(self.censored, 0, 0.5))
