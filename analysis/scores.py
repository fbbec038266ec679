"""The score of a run: its success at the last evaluation, over the last three, or the mean height of its curve.

Choose the kind before you look at the results.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.curves import curve_area

Score = Literal["last", "last3", "height"]
Array = NDArray[np.floating[Any]]

WORDS: dict[Score, str] = {
    "last": "success at the last evaluation",
    "last3": "mean success over the last three evaluations",
    "height": "mean height of the learning curve",
}
EVALUATIONS = {"last": 1, "last3": 3}  # a score is the mean of so many evaluations; `height` uses all


def scores(kind: Score, curves: Array, steps: NDArray[np.int64]) -> Array:
    """The scores [runs, tasks] of curves [runs, evaluations, tasks] at `steps` [evaluations].

    A missing value (NaN) counts as the last known value before it. So a curve that ends early, like a diverged run's,
    keeps its last height to the end. A task without any value stays NaN.
    """
    filled = _filled(curves)
    if kind == "height" and len(steps) > 1:
        return curve_area(steps.astype(float), np.moveaxis(filled, 1, 2))
    return np.asarray(filled[:, -EVALUATIONS.get(kind, 1) :].mean(1))


def evaluations(kind: Score, planned: int) -> int:
    """How many of the `planned` evaluations a score is the mean of."""
    return min(planned, EVALUATIONS.get(kind, planned))


def _filled(curves: Array) -> Array:
    """The curves with missing values replaced by the last known value before them, or by the first known value."""
    known = np.isfinite(curves)
    places = np.arange(curves.shape[1])[None, :, None]
    latest = np.maximum.accumulate(np.where(known, places, -1), axis=1)
    first = known.argmax(1)[:, None, :]
    return np.take_along_axis(curves, np.where(latest < 0, first, latest), 1)
