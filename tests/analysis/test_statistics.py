"""Statistics against values worked by hand and against their slow twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import (
    difference,
    improvement_interval,
    interval,
    iqm,
    iqm_of_runs,
    least_squares,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile_band,
    resample,
)

shapes = st.tuples(st.integers(1, 12), st.integers(1, 7))


def test_iqm_by_hand() -> None:
    scores = np.array([[0.0, 0.1, 0.2, 0.3], [0.4, 0.5, 0.9, 1.0]])
    assert iqm(scores) == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)
    assert iqm_of_runs(scores) == pytest.approx((0.15 + 0.7) / 2)


@given(shapes, st.integers(0, 2**32 - 1))
def test_iqm_is_the_trimmed_mean(shape: tuple[int, int], seed: int) -> None:
    scores = np.random.default_rng(seed).random((3, *shape))
    known = [stats.trim_mean(sample, 0.25, axis=None) for sample in scores]
    np.testing.assert_allclose(iqm(scores), known, rtol=1e-12)  # summation order


def test_others_by_hand() -> None:
    scores = np.array([[0.0, 0.5, 1.2], [1.0, 0.7, 1.4]])
    assert mean(scores) == pytest.approx(0.8)
    assert median(scores) == pytest.approx(0.6)
    assert optimality_gap(scores) == pytest.approx((1.0 + 0.5 + 0 + 0 + 0.3 + 0) / 6)


@pytest.mark.parametrize("unit", ["run", "task"])
def test_resampling_keeps_tasks_apart(unit: str) -> None:
    scores = np.arange(5)[:, None] + 10 * np.arange(3.0)
    samples = resample(scores, np.random.default_rng(0), 200, unit)  # type: ignore[arg-type]
    assert samples.shape == (200, 5, 3)
    np.testing.assert_array_equal(samples // 10, np.broadcast_to(np.arange(3), samples.shape))
    whole_runs = bool((np.ptp(samples % 10, axis=-1) == 0).all())
    assert whole_runs == (unit == "run")


@pytest.mark.parametrize("method", ["t", "bca", "percentile"])
def test_the_same_generator_gives_the_same_interval(method: str) -> None:
    scores = np.random.default_rng(1).random((6, 4))
    first, second = (
        interval(scores, iqm, np.random.default_rng(7), resamples=200, method=method)  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert repr(first) == repr(second)  # p is NaN, which from Python 3.13 on makes two dataclasses differ
    assert first.low < first.estimate < first.high


def test_bca_is_scipys() -> None:
    scores = np.random.default_rng(2).random((9, 1)) ** 3
    ours = interval(scores, mean, np.random.default_rng(0), resamples=50_000, method="bca")
    known = stats.bootstrap(
        (scores[:, 0],), np.mean, n_resamples=50_000, method="BCa", random_state=np.random.default_rng(1)
    ).confidence_interval
    # Two runs of 50,000 resamples: the ends' own error is about 0.002.
    np.testing.assert_allclose((ours.low, ours.high), known, atol=0.006)


def test_one_seed_has_no_interval() -> None:
    found = interval(np.array([[0.5, 0.7]]), iqm, np.random.default_rng(0))
    assert found.estimate == pytest.approx(0.6)
    assert np.isnan([found.low, found.high]).all()
    assert found.note == "1 seed: no interval"


def test_equal_runs_say_so() -> None:
    found = interval(np.ones((5, 2)), iqm, np.random.default_rng(0))
    assert (found.low, found.high) == (1, 1)
    assert found.note == "all runs scored the same"


def test_bounds_cut_the_interval() -> None:
    found = interval(np.array([[0.2], [0.9], [1.0]]), mean, np.random.default_rng(0), bounds=(0, 1))
    assert found.high == 1


@settings(max_examples=20)
@given(st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_t_of_a_mean_is_students_interval(runs: int, seed: int) -> None:
    """The bootstrap only estimates the standard error, whose exact value a mean has in closed form."""
    scores = np.random.default_rng(seed).random((runs, 1))
    found = interval(scores, mean, np.random.default_rng(0), resamples=20_000)
    low, high = stats.t.interval(0.95, runs - 1, scores.mean(), stats.sem(scores[:, 0]))
    np.testing.assert_allclose((found.low, found.high), (low, high), atol=0.03 * (high - low))


def test_probability_of_improvement_counts_pairs() -> None:
    x, y = np.random.default_rng(0).integers(0, 4, (2, 6, 3)).astype(float)
    won = [
        (x[i, t] > y[j, t]) + (x[i, t] == y[j, t]) / 2 for t in range(3) for i in range(6) for j in range(6)
    ]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(won))


@pytest.mark.parametrize("unit", ["run", "task"])
def test_improvement_interval_is_that_of_resampled_runs(unit: str) -> None:
    """The slow way: draw the runs, count the pairs."""
    x, y = np.random.default_rng(0).random((2, 6, 3)) + np.array([[[0.2]], [[0]]])
    found = improvement_interval(
        x,
        y,
        np.random.default_rng(1),
        resamples=4_000,
        unit=unit,
        method="percentile",  # type: ignore[arg-type]
    )
    generator = np.random.default_rng(2)
    pairs = zip(*(resample(scores, generator, 4_000, unit) for scores in (x, y)), strict=True)  # type: ignore[arg-type]
    known = np.quantile([probability_of_improvement(a, b) for a, b in pairs], [0.025, 0.975])
    np.testing.assert_allclose((found.low, found.high), known, atol=0.03)  # the quantiles' own error


@pytest.mark.parametrize("unit", ["run", "task"])
def test_profile_band_is_that_of_resampled_runs(unit: str) -> None:
    scores = np.random.default_rng(0).random((5, 4))
    thresholds = np.array([0.1, 0.5, 0.9])
    profile, low, high = profile_band(
        scores, thresholds, np.random.default_rng(1), resamples=4_000, unit=unit, method="percentile"
    )  # type: ignore[arg-type]
    np.testing.assert_allclose(profile, [np.mean(scores > t) for t in thresholds])
    np.testing.assert_allclose(profile, performance_profile(scores, thresholds))
    samples = resample(scores, np.random.default_rng(2), 4_000, unit)  # type: ignore[arg-type]
    known = np.quantile(
        [performance_profile(sample, thresholds) for sample in samples], [0.025, 0.975], axis=0
    )
    np.testing.assert_allclose((low, high), known, atol=0.051)  # one score of twenty


def test_improvement_by_student_has_the_variance_in_closed_form() -> None:
    """That of the two projections of the table of wins (Hajek 1968), which a bootstrap would only estimate."""
    x, y = np.random.default_rng(0).random((7, 3)) + 0.2, np.random.default_rng(1).random((5, 3))
    table = np.mean([[(a > b) for b in y] for a in x], axis=-1)  # [7, 5]
    parts = np.array([table.mean(1).var(ddof=1) / 7, table.mean(0).var(ddof=1) / 5])
    freedom = parts.sum() ** 2 / (parts**2 / [6, 4]).sum()
    spread = np.sqrt(parts.sum()) * stats.t.ppf(0.975, freedom)
    found = improvement_interval(x, y, np.random.default_rng(2))
    assert found.estimate == pytest.approx(table.mean())
    known = (max(0, table.mean() - spread), min(1, table.mean() + spread))
    assert (found.low, found.high) == pytest.approx(known)


def test_improvement_of_runs_that_are_apart_is_exact() -> None:
    """Three pairs of runs, each drawn once, were all won: the exact interval of 3 of 3."""
    found = improvement_interval(np.ones((3, 2)), np.zeros((3, 2)), np.random.default_rng(0))
    assert (found.estimate, found.high, found.method) == (1, 1, "exact")
    assert found.low == pytest.approx(0.025 ** (1 / 3))


def test_runs_that_are_apart_are_tested_exactly() -> None:
    """By ranks, not by the spread of a few runs that happen to score alike; and no difference is beyond 1."""
    generator = np.random.default_rng(0)
    few = difference(np.full((3, 2), 0.9), np.full((3, 2), 0.8), mean, generator)
    assert (few.p, few.method) == (pytest.approx(2 / 20), "exact rank")
    x, y = np.linspace(0.8, 0.9, 5)[:, None], np.linspace(0.2, 0.3, 5)[:, None]
    many = difference(x, y, mean, generator)
    assert many.p == pytest.approx(stats.mannwhitneyu(x[:, 0], y[:, 0], method="exact").pvalue)
    wide = difference(np.array([[1.0], [0.5]]), np.array([[0.0], [0.4]]), mean, generator, bounds=(-1, 1))
    assert -1 <= wide.low <= wide.high <= 1


def test_profile_band_by_student_is_students_interval() -> None:
    """At one threshold the profile is the mean over runs of each run's share above it."""
    scores = np.random.default_rng(0).random((5, 8))
    _, low, high = profile_band(scores, np.array([0.5]), np.random.default_rng(1))
    shares = (scores > 0.5).mean(1)
    known = np.clip(stats.t.interval(0.95, 4, shares.mean(), stats.sem(shares)), 0, 1)
    assert (low[0], high[0]) == pytest.approx(known)


def test_difference_of_means_is_welchs() -> None:
    x, y = np.random.default_rng(0).random((8, 1)), 2 * np.random.default_rng(1).random((5, 1))
    found = difference(x, y, mean, np.random.default_rng(2), resamples=40_000)
    known = stats.ttest_ind(x[:, 0], y[:, 0], equal_var=False).confidence_interval()
    np.testing.assert_allclose(
        (found.low, found.high), (known.low, known.high), atol=0.02
    )  # bootstrap's error
    assert found.p == pytest.approx(stats.ttest_ind(x[:, 0], y[:, 0], equal_var=False).pvalue, rel=0.05)
    paired = difference(x[:5], y, mean, np.random.default_rng(2), paired=True, resamples=40_000)
    known = stats.ttest_rel(x[:5, 0], y[:, 0]).confidence_interval()
    np.testing.assert_allclose((paired.low, paired.high), (known.low, known.high), atol=0.02)
    with pytest.raises(ValueError, match="8 runs cannot be paired with 5"):
        difference(x, y, mean, np.random.default_rng(2), paired=True)


def test_slopes_are_scipys() -> None:
    x, noise = np.random.default_rng(0).normal(size=(2, 30))
    (found,) = least_squares(x[:, None], 2 * x + noise)
    known = stats.linregress(x, 2 * x + noise)
    spread = known.stderr * stats.t.ppf(0.975, 28)
    assert found.estimate == pytest.approx(known.slope)
    assert (found.low, found.high) == pytest.approx((known.slope - spread, known.slope + spread))


def test_slopes_hold_one_another_still() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(200, 1)) + generator.normal(size=(200, 2))  # they go together
    first, second = least_squares(x, x @ [1.0, -0.5] + 0.1 * generator.normal(size=200))
    assert first.estimate == pytest.approx(1, abs=0.03)  # four standard errors
    assert second.estimate == pytest.approx(-0.5, abs=0.03)
    with pytest.raises(ValueError, match="do not determine"):
        least_squares(x[:, [0, 0]], x[:, 0])
