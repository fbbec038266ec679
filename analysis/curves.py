"""Learning curves: their mean height, when they reach a score, whether they still move."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def curve_area(steps: Array, curves: Array) -> Array:
    """The mean height of curves [..., evaluations] over steps [evaluations], by the trapezoid rule. Returns [...]."""
    widths = np.diff(steps)
    middles = (curves[..., 1:] + curves[..., :-1]) / 2
    return np.asarray((middles * widths).sum(-1) / widths.sum())


def steps_to(threshold: float, steps: Array, curves: Array) -> Array:
    """Steps at which curves [..., evaluations] first reach `threshold`, between evaluations linearly; inf for never."""
    reached = curves >= threshold
    first = reached.argmax(-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(curves, at[..., None], -1)[..., 0] for at in (before, first))
    share = np.where(high > low, (threshold - low) / np.where(high > low, high - low, 1), 1.0)
    crossing = steps[before] + share.clip(0, 1) * (steps[first] - steps[before])
    return np.asarray(np.where(reached.any(-1), crossing, np.inf))


def isotonic(curves: Array) -> Array:
    """The rising curves [..., evaluations] nearest to `curves` by squares; pool adjacent violators.

    The value at each place is the largest, over starts before it, of the smallest mean up to an end after it.
    """
    n = curves.shape[-1]
    sums = np.concatenate([np.zeros((*curves.shape[:-1], 1)), np.cumsum(curves, axis=-1)], axis=-1)
    start, end = np.arange(n)[:, None], np.arange(1, n + 1)
    means = (sums[..., None, 1:] - sums[..., :-1, None]) / np.where(end > start, end - start, 1)
    means = np.where(end > start, means, np.inf)  # [..., start, end]
    least = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]  # over ends from each on
    rising = np.where(end > start, least, -np.inf)
    return np.asarray(rising.max(-2))


def plateau(steps: Array, curve: Array, *, tolerance: float = 0.02, window: int = 5) -> float:
    """Steps from which on the curve [evaluations], smoothed over `window`, stays within `tolerance` of its last value.

    inf when that holds only for the last fifth or less: the curve still moves, and longer training may change it.
    """
    smooth = np.convolve(curve, np.full(window, 1 / window), mode="valid")
    outside = np.flatnonzero(np.abs(smooth - smooth[-1]) > tolerance)
    first = int(outside[-1]) + 1 if len(outside) else 0
    settled = len(smooth) - first > max(1, len(smooth) // 5)
    return float(steps[first + window - 1]) if settled else np.inf
