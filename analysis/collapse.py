"""Runs that collapsed or diverged: which, how often by size, and in words.

A run has collapsed when it ends below half of what it had, or of what its variant's other runs have, beyond chance. It
had nothing to lose where that is less than a quarter: then low success is no collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics import binomial_interval, fisher_p, rate_trend_p
from analysis.variants import Variant

SHARE = 0.5  # of what it had, below which a run has collapsed
LEAST = 0.25  # success that there must have been
CHANCE = 0.001  # p, of Fisher's test on episodes, that is not taken for chance
WINDOW = 3  # evaluations whose mean counts as what a run had
TREND = 0.05


@dataclass(frozen=True)
class Lost:
    """Collapsed and diverged runs of one size."""

    name: str
    size: int  # parameters
    count: int
    runs: int

    @property
    def interval(self) -> tuple[float, float]:
        return binomial_interval(self.count, self.runs)


def collapsed(variant: Variant) -> NDArray[np.bool_]:
    """Which finished runs collapsed or diverged. [finished runs]"""
    ends = variant.scores.mean(-1)
    had = np.maximum(_best(variant), _of_the_others(ends))
    episodes = variant.score_episodes * variant.task_count
    lost = (ends < SHARE * had) & (had >= LEAST)
    for run in np.flatnonzero(lost):
        lost[run] = _beyond_chance(ends[run], had[run], episodes)
    return np.asarray(lost | variant.diverged_runs[variant.finished])


def _best(variant: Variant) -> NDArray[np.float64]:
    """The highest mean of a few evaluations in a row of each finished run; 0 where there are fewer."""
    curves = variant.curves[variant.finished].mean(-1)
    if curves.shape[1] < WINDOW:
        return np.zeros(len(curves))
    windows = np.lib.stride_tricks.sliding_window_view(curves, WINDOW, axis=1).mean(-1)
    return np.asarray(np.where(np.isfinite(windows), windows, 0).max(1))


def _of_the_others(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of the other runs' scores, of 3 runs or more."""
    if len(ends) < 3:
        return np.zeros(len(ends))
    return np.array([np.median(np.delete(ends, run)) for run in range(len(ends))])


def _beyond_chance(end: float, had: float, episodes: int) -> bool:
    won, before = round(end * episodes), round(had * episodes)
    return fisher_p(before, episodes, won, episodes) < CHANCE


def lost_by_size(group: Sequence[Variant]) -> list[Lost]:
    """Collapsed and diverged runs of each variant of a group, smallest first."""
    found = [Lost(v.name, v.parameters["total"], int(collapsed(v).sum()), len(v.seeds)) for v in group]
    return sorted(found, key=lambda lost: lost.size)


def sentences(where: str, group: Sequence[Variant]) -> list[str]:
    """How many runs of the group collapsed or diverged, by size with exact intervals, and whether size matters."""
    lost = lost_by_size(group)
    total, runs = sum(each.count for each in lost), sum(each.runs for each in lost)
    if not total:
        return []
    shown = []
    for each in lost:
        if each.count:
            low, high = each.interval
            shown.append(f"{each.name}: {each.count} of {each.runs} ({low:.0%} to {high:.0%})")
    line = (
        f"{where}: {total} of {runs} runs collapsed or diverged (95% intervals, exact): {'; '.join(shown)}."
    )
    if len(lost) < 2:
        return [line]
    p = rate_trend_p([each.count for each in lost], [each.runs for each in lost])
    places = np.arange(len(lost))
    up = np.cov(places, [each.count / each.runs for each in lost])[0, 1] > 0
    said = (
        f"the rate {'rises' if up else 'falls'} with size (exact trend test, p = {p:.3f})"
        if p < TREND
        else f"whether the rate changes with size is open (exact trend test, p = {p:.2f})"
    )
    return [line, f"{where}: {said}."]
