"""Exact tests and intervals: rates, ranks, many comparisons at once, and how a p is written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.floating[Any]]


def binomial_interval(count: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a rate of which `count` of `trials` were seen; Clopper and Pearson 1934."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, trials - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, trials - count, 1 - tail)) if count < trials else 1.0
    return low, high


def trend_p(
    places: Array, values: Array, generator: np.random.Generator, *, resamples: int = 10_000
) -> float:
    """How likely a rank correlation as strong between places [n] and values [n] is where there is none, two-sided.

    Spearman's, among shuffled values; beyond 60 of them by its normal limit.
    """
    a, b = (_ranks(each) - (len(each) + 1) / 2 for each in (places, values))
    seen = abs(float(a @ b))
    if len(a) > 60:
        scale = np.sqrt((a @ a) * (b @ b) / (len(a) - 1))
        return float(2 * special.ndtr(-seen / scale)) if scale else 1.0
    shuffled = generator.permuted(np.tile(b, (resamples, 1)), axis=1) @ a
    return float((1 + (np.abs(shuffled) >= seen * (1 - 1e-9)).sum()) / (1 + resamples))


def _ranks(values: Array) -> Array:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


@cache
def fisher_p(won: int, trials: int, others_won: int, others: int) -> float:
    """The chance that of so many successes in all at least `won` fall on the first `trials`; Fisher's, one-sided."""
    successes, everything = won + others_won, trials + others
    k = np.arange(won, min(trials, successes) + 1)
    log_ways = _log_ways(trials, k) + _log_ways(others, successes - k) - _log_ways(everything, successes)
    return float(min(1.0, np.exp(log_ways[np.isfinite(log_ways)]).sum()))


def _log_ways(n: int, k: Any) -> Any:
    """log of n over k; minus infinity where k is not from 0 to n."""
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - np.asarray(k) + 1)


def rate_trend_p(counts: Sequence[int], trials: Sequence[int]) -> float:
    """How likely a trend of rates over ordered groups as strong as that of `counts` of `trials` is by chance.

    Two-sided, from Cochran and Armitage's statistic, the sum of the groups' places, over every way in which as many
    could be spread over the groups. Ways that are just as strong count half (mid-p; Lancaster 1961): with a few runs
    the exact p claims far less often than its level says, and finds as little. 1 where none or all were counted.
    """
    ways = {(0, 0): 1.0}  # (counted so far, sum of places) -> number of ways
    for place, n in enumerate(trials):
        chances = [float(special.comb(n, k, exact=True)) for k in range(n + 1)]
        more: dict[tuple[int, int], float] = {}
        for (done, total), way in ways.items():
            for k, chance in enumerate(chances[: sum(counts) - done + 1]):
                key = (done + k, total + place * k)
                more[key] = more.get(key, 0.0) + way * chance
        ways = more
    here = {total: way for (done, total), way in ways.items() if done == sum(counts)}
    middle = sum(total * way for total, way in here.items()) / sum(here.values())
    seen = abs(sum(place * k for place, k in enumerate(counts)) - middle)
    away = {total: abs(total - middle) - seen for total in here}
    stronger = sum(way for total, way in here.items() if away[total] > 1e-9)
    alike = sum(way for total, way in here.items() if abs(away[total]) <= 1e-9)
    return float((stronger + alike / 2) / sum(here.values())) if len(here) > 1 else 1.0


def holm(p: Array) -> Array:
    """p values [k] of k comparisons made together, corrected so that one false claim among them is rare; Holm 1979."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p, dtype=float)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def p_number(p: float) -> str:
    """p as `.012`, `< .001` or `1`."""
    return "< .001" if p < 0.001 else f"{p:.3f}"[1:] if p < 0.9995 else "1"


def p_words(p: float) -> str:
    """p as `p = .012` or `p < .001`."""
    return f"p {p_number(p)}" if p < 0.001 else f"p = {p_number(p)}"
