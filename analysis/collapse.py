"""Runs that collapsed or diverged: which ones, how often by size, and sentences about them.

A run collapsed if its score is less than half of its own earlier success, or of its variant's other runs' scores, by
more than chance. If that success was below a quarter, the run had nothing to lose and did not collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.exact_tests import binomial_interval, fisher_p, p_words, rate_trend_p
from analysis.variants import Variant

SHARE = 0.5  # a run below this share of its earlier success collapsed
LEAST = 0.25  # the earlier success must be at least this
CHANCE = 0.001  # and Fisher's test on episodes must give a smaller p
WINDOW = 3  # the earlier success is the mean of so many evaluations in a row
TREND = 0.05  # p below which the rate is said to change with size


@dataclass(frozen=True)
class Lost:
    """Collapsed and diverged runs of one size."""

    name: str
    size: int  # parameters
    count: int
    runs: int

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95% interval of the rate of lost runs."""
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
    """Each finished run's highest mean of WINDOW evaluations in a row; 0 if it has fewer. [finished runs]"""
    curves = variant.curves[variant.finished].mean(-1)
    if curves.shape[1] < WINDOW:
        return np.zeros(len(curves))
    windows = np.lib.stride_tricks.sliding_window_view(curves, WINDOW, axis=1).mean(-1)
    return np.asarray(np.where(np.isfinite(windows), windows, 0).max(1))


def _of_the_others(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each run the median of the other runs' scores; 0 if there are fewer than 3 runs. [runs]"""
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
    """Sentences: how many runs of the group collapsed or diverged, by size, and whether the rate changes with size.

    `where` names the group. Nothing if no run collapsed or diverged.
    """
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
    clear = f"the rate {'rises' if up else 'falls'} with size"
    said = clear if p < TREND else "whether the rate changes with size is open"
    return [line, f"{where}: {said} (Cochran-Armitage trend, mid-{p_words(p)})."]
