"""Statistics of success over runs and tasks, on plain arrays [..., runs, tasks].

Every random draw comes from a given generator. A statistic maps [..., runs, tasks] to [...], so that thousands of
bootstrap samples are one call. The unit that is drawn again is the run: the tasks of a multi-task run share one
network, so their scores are not independent. `unit="task"` draws the runs of each task independently instead, as
rliable does (Agarwal et al. 2021); that is right where each task has runs of its own, and too narrow where it has not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.exact_tests import binomial_interval

Array = NDArray[np.floating[Any]]
Statistic = Callable[[Array], Array]
Unit = Literal["run", "task"]
Method = Literal["t", "bca", "percentile"]
ROUNDING = 1e-24  # a variance below is that of rounding
ONE_SEED = "1 seed: no interval"
ALIKE = "all runs scored the same"
EXACT_FROM = 4  # runs of each from which the exact test of two groups that are apart can show something


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
    p: float = float("nan")  # of a difference: how likely one so large is where there is none, two-sided


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
    return iqm(run_means(scores))


def run_means(scores: Array) -> Array:
    """Each run's mean over tasks, [..., runs, 1]. What looks at nothing else is drawn much faster from it."""
    return np.asarray(scores.mean(-1, keepdims=True))


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
    if method == "t" or len(scores) < 2:
        drawn = draw(scores, statistic, generator, resamples=resamples, unit=unit)
        return drawn.interval(confidence=confidence, bounds=bounds, method=method)
    samples = statistic(resample(scores, generator, resamples, unit))
    estimate = float(statistic(scores))
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        levels = _bca_levels(samples, estimate, scores, statistic, levels)
    low, high = np.clip(np.quantile(samples, levels), *bounds).tolist()
    return Interval(estimate, low, high, len(scores), confidence, method, ALIKE if low == high else "")


@dataclass(frozen=True)
class Drawn:
    """A statistic of some runs and its variance, that of bootstrap samples times n / (n - 1); NaN for one run."""

    estimate: float
    variance: float
    runs: int
    lowest: float  # of the runs' means over tasks
    highest: float

    def interval(
        self,
        *,
        confidence: float = 0.95,
        bounds: tuple[float, float] = (-np.inf, np.inf),
        method: Method = "t",
    ) -> Interval:
        """The statistic with Student's interval."""
        if self.runs < 2:
            return Interval(self.estimate, np.nan, np.nan, self.runs, confidence, method, ONE_SEED)
        low, high, _ = _student(self.estimate, [(self.variance, self.runs)], confidence, bounds)
        return Interval(self.estimate, low, high, self.runs, confidence, method, ALIKE if low == high else "")

    def is_apart(self, other: Drawn) -> bool:
        """Whether every run of one, by its mean over tasks, is above every run of the other."""
        return self.lowest > other.highest or other.lowest > self.highest


def draw(
    scores: Array,
    statistic: Statistic,
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    unit: Unit = "run",
) -> Drawn:
    """`statistic` of scores [runs, tasks] with its variance over bootstrap samples."""
    n, means = len(scores), scores.mean(-1)
    samples = statistic(resample(scores, generator, resamples, unit)) if n > 1 else np.array([np.nan])
    variance = float(np.var(samples)) * n / max(n - 1, 1)
    return Drawn(float(statistic(scores)), variance, n, float(means.min()), float(means.max()))


def resample(scores: Array, generator: np.random.Generator, resamples: int, unit: Unit = "run") -> Array:
    """Bootstrap samples [resamples, runs, tasks] of scores [runs, tasks]: whole runs, or runs for each task alone."""
    runs, tasks = scores.shape
    if unit == "run":
        return scores[generator.integers(runs, size=(resamples, runs), dtype=np.int32)]
    rows = generator.integers(runs, size=(resamples, runs, tasks), dtype=np.int32)
    rows *= tasks
    rows += np.arange(tasks, dtype=np.int32)
    return np.take(scores, rows)


def difference(
    x: Array,
    y: Array,
    statistic: Statistic,
    generator: np.random.Generator,
    *,
    paired: bool = False,
    resamples: int = 2_000,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """statistic(x) - statistic(y) for scores x [runs, tasks] and y [runs, tasks], with its interval, cut at `bounds`.

    Paired, run i of x and run i of y are drawn together (as when they share a seed that matters) and there must be as
    many of each; else it is difference_of of the two.
    """
    if not paired:
        sides = (draw(scores, statistic, generator, resamples=resamples) for scores in (x, y))
        return difference_of(*sides, confidence=confidence, bounds=bounds)
    n = len(x)
    if n != len(y):
        raise ValueError(f"{n} runs cannot be paired with {len(y)}; give as many of each")
    estimate = float(statistic(x) - statistic(y))
    if n < 2:
        return Interval(estimate, np.nan, np.nan, n, confidence, "t", ONE_SEED)
    rows = generator.integers(n, size=(resamples, n), dtype=np.int32)
    variance = float(np.var(statistic(x[rows]) - statistic(y[rows]))) * n / (n - 1)
    low, high, p = _student(estimate, [(variance, n)], confidence, bounds)
    return Interval(estimate, low, high, n, confidence, "paired t", ALIKE if variance <= ROUNDING else "", p)


def difference_of(
    x: Drawn, y: Drawn, *, confidence: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Interval:
    """The difference of two statistics by Welch's test, its interval cut at `bounds`.

    Where every run of one is above every run of the other and there are 4 or more of each, or no spread at all, p is
    that of the exact rank test.
    """
    estimate, fewest = x.estimate - y.estimate, min(x.runs, y.runs)
    if fewest < 2:
        return Interval(estimate, np.nan, np.nan, fewest, confidence, "t", ONE_SEED)
    parts = [(x.variance, x.runs), (y.variance, y.runs)]
    low, high, p = _student(estimate, parts, confidence, bounds)
    alike, method = x.variance + y.variance <= ROUNDING, "Welch's t"
    if x.is_apart(y) and (fewest >= EXACT_FROM or alike):
        p, method = exact_p(x.runs, y.runs), "exact rank"
    return Interval(estimate, low, high, fewest, confidence, method, ALIKE if alike else "", p)


def exact_p(n: int, m: int) -> float:
    """The chance, two-sided, that n runs lie all above or all below m others that are drawn as they are."""
    return float(2 / special.comb(n + m, n))


def minimum_difference(spread: float, runs: int, *, confidence: float = 0.95) -> float:
    """The least difference of two means that Welch's test calls one, of `runs` each whose standard deviation is
    `spread`."""
    return float(spread * np.sqrt(2 / runs) * special.stdtrit(2 * (runs - 1), (1 + confidence) / 2))


def probability_of_improvement(x: Array, y: Array) -> float:
    """P(a run of x beats a run of y on the same task), mean over tasks; a tie counts half. x, y are [runs, tasks]."""
    return float(_wins(x, y).mean())


def improvement_interval(
    x: Array,
    y: Array,
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
    unit: Unit = "run",
    method: Literal["t", "percentile"] = "t",
) -> Interval:
    """The probability of improvement with its interval.

    method "t" adds the variance from drawing x's runs and that from drawing y's, both in closed form, with Welch's
    degrees of freedom, cut at 0 and 1; "percentile" is rliable's and draws: a bootstrap sample is a count of how often
    each run was drawn, so all samples are two matrix products.
    """
    n, m = len(x), len(y)
    wins = _wins(x, y)  # [tasks, n, m]
    estimate = float(wins.mean())
    if min(n, m) < 2:
        return Interval(estimate, np.nan, np.nan, min(n, m), confidence, method, ONE_SEED)
    if unit == "run":
        wins = wins.mean(0, keepdims=True)
    if method == "percentile":
        drawn, others = (_draw_counts(generator, len(wins), runs, resamples) for runs in (n, m))
        samples = ((drawn @ wins) * others).sum(-1).mean(0) / (n * m)
        low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(estimate, float(low), float(high), min(n, m), confidence, method)
    parts = [(float(_variance_of_mean(wins.mean(2))), n), (float(_variance_of_mean(wins.mean(1))), m)]
    if sum(variance for variance, _ in parts) <= ROUNDING:
        return _without_spread(estimate, min(n, m), confidence)
    low, high, _ = _student(estimate, parts, confidence, (0, 1))
    return Interval(estimate, low, high, min(n, m), confidence, method)


def _without_spread(estimate: float, pairs: int, confidence: float) -> Interval:
    """Where every run of one does alike against every run of the other: exact, from pairs of runs, each drawn once."""
    if estimate not in (0, 1):
        note = "every run of one does as well against every run of the other: no interval"
        return Interval(estimate, np.nan, np.nan, pairs, confidence, "t", note)
    low, high = binomial_interval(round(estimate * pairs), pairs, confidence=confidence)
    return Interval(estimate, low, high, pairs, confidence, "exact")


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Share of (run, task) pairs that score above each threshold. scores [runs, tasks], thresholds [k] -> [k]."""
    return np.asarray((scores[..., None] > thresholds).mean((0, 1)))


def profile_band(
    scores: Array,
    thresholds: Array,
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    confidence: float = 0.95,
    unit: Unit = "run",
    method: Literal["t", "percentile"] = "t",
) -> tuple[Array, Array, Array]:
    """The performance profile with its pointwise band: (profile, low, high), each [k].

    method "t" is Student's interval, cut at 0 and 1, NaN for one run; "percentile" is rliable's and draws.
    """
    runs = len(scores)
    above = (scores.T[..., None] > thresholds).astype(float)  # [tasks, runs, k]
    profile = np.asarray(above.mean((0, 1)))
    parts = above if unit == "task" else above.mean(0, keepdims=True)
    if method == "percentile":
        samples = (_draw_counts(generator, len(parts), runs, resamples) @ parts).mean(0) / runs
        low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return profile, low, high
    if runs < 2:
        return profile, np.full_like(profile, np.nan), np.full_like(profile, np.nan)
    spread = np.sqrt(_variance_of_mean(parts)) * special.stdtrit(runs - 1, (1 + confidence) / 2)
    return profile, (profile - spread).clip(0, 1), (profile + spread).clip(0, 1)


@dataclass(frozen=True)
class Slope:
    """A coefficient of a regression with its interval."""

    estimate: float
    low: float
    high: float


def least_squares(x: Array, y: Array, *, confidence: float = 0.95) -> list[Slope]:
    """The slopes of y [n] on the columns of x [n, k], with an intercept and Student intervals; one per column.

    Raises ValueError where the columns cannot be told apart or there are too few points.
    """
    design = np.column_stack([np.ones(len(y)), x])
    freedom = len(y) - design.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"{len(y)} points do not determine {design.shape[1]} numbers")
    inverse = np.linalg.inv(design.T @ design)
    numbers = inverse @ design.T @ y
    variance = np.sum((y - design @ numbers) ** 2) / freedom
    spread = np.sqrt(variance * np.diag(inverse)) * special.stdtrit(freedom, (1 + confidence) / 2)
    return [Slope(float(n), float(n - s), float(n + s)) for n, s in zip(numbers[1:], spread[1:], strict=True)]


def _wins(x: Array, y: Array) -> Array:
    """1 where run i of x beats run j of y, 1/2 for a tie. [tasks, n, m]"""
    a, b = x.T[:, :, None], y.T[:, None, :]
    return np.asarray((a > b) + 0.5 * (a == b))


def _draw_counts(generator: np.random.Generator, parts: int, runs: int, resamples: int) -> Array:
    """How often each run is drawn in as many draws as there are runs, for each part. [parts, resamples, runs]"""
    rows = generator.integers(runs, size=(parts * resamples, runs), dtype=np.int32)
    rows += (np.arange(parts * resamples, dtype=np.int32) * runs)[:, None]
    counts = np.bincount(rows.ravel(), minlength=rows.size)
    return counts.reshape(parts, resamples, runs).astype(float)


def _variance_of_mean(values: Array) -> Array:
    """Of the mean of values [parts, runs, ...] over both, where each part's runs are drawn on their own."""
    parts, runs = values.shape[:2]
    return np.asarray(values.var(1, ddof=1).sum(0) / (runs * parts**2))


def _student(
    estimate: float, parts: Sequence[tuple[float, int]], confidence: float, bounds: tuple[float, float]
) -> tuple[float, float, float]:
    """Interval and two-sided p of an estimate whose variance is a sum of (variance, runs), with Welch's freedom."""
    variances, freedoms = np.array([variance for variance, _ in parts]), np.array([n - 1 for _, n in parts])
    error = float(np.sqrt(variances.sum()))
    if error**2 <= ROUNDING:
        return estimate, estimate, 1.0
    freedom = error**4 / (variances**2 / freedoms).sum()
    spread = error * special.stdtrit(freedom, (1 + confidence) / 2)
    p = 2 * special.stdtr(freedom, -abs(estimate) / error)
    return float(max(estimate - spread, bounds[0])), float(min(estimate + spread, bounds[1])), float(p)


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
