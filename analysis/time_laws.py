"""Env steps to success J: D_J, where a run's rising curve reaches J, and its law in size.

A run that never reaches J is censored: its D_J is beyond its last step. The law log D_J = c - b log N is fitted by
censored normal regression (Tobit; expectation-maximisation of Schmee and Hahn 1979), its interval by leaving out each
run in turn (jackknife) with Student's quantile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.models import Array
from analysis.sandwich import Estimate
from analysis.statistics import isotonic

WIDTHS_NEEDED = 4
SEEDS_NEEDED = 2
ROUNDS = 200


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
    x = np.column_stack([np.ones(runs), np.log(times.size.mean()) - np.log(times.size)])
    keep = np.concatenate([np.ones((1, runs)), 1 - np.eye(runs)])  # all runs, then each left out
    exponents = censored_regression(x, np.log(times.steps), times.censored, keep)[:, 1]
    apart = exponents[1:]
    error = float(np.sqrt((runs - 1) / runs * np.sum((apart - apart.mean()) ** 2)))
    freedom = float(max(1, runs - lost - 2))
    spread = error * float(special.stdtrit(freedom, 0.975))
    value = float(exponents[0])
    p = float(2 * special.stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return TimeLaw(success, runs, lost, Estimate(value, value - spread, value + spread, p, freedom))


def censored_regression(x: Array, y: Array, censored: NDArray[np.bool_], weights: Array) -> Array:
    """Numbers [samples, p] of y on x [n, p] where y of a censored point is a lower bound; weights are [samples, n]."""
    normal = np.linalg.inv(np.einsum("sn,np,nq->spq", weights, x, x))
    filled = np.tile(y, (len(weights), 1))
    variance = np.full(len(weights), y.var() + 1e-12)
    for _ in range(ROUNDS):
        numbers = np.einsum("spq,sq->sp", normal, (weights * filled) @ x)
        middle = numbers @ x.T
        if not censored.any():
            break
        deviation = np.sqrt(variance)[:, None]
        away = (y - middle) / deviation
        hazard = np.exp(-(away**2) / 2 - special.log_ndtr(-away)) / np.sqrt(2 * np.pi)
        filled = np.where(censored, middle + deviation * hazard, y)
        square = np.where(censored, variance[:, None] * (1 + away * hazard), (y - middle) ** 2)
        variance = (weights * square).sum(-1) / weights.sum(-1) + 1e-12
    return np.asarray(numbers)
