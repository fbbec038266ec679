"""Exact tests against values worked by hand and SciPy's."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.exact_tests import binomial_interval, fisher_p, holm, p_words, rate_trend_p, trend_p


@given(st.integers(0, 12), st.integers(1, 12))
def test_the_exact_interval_of_a_rate(count: int, trials: int) -> None:
    count = min(count, trials)
    known = stats.binomtest(count, trials).proportion_ci(method="exact")
    assert binomial_interval(count, trials) == pytest.approx((known.low, known.high))


@given(st.integers(0, 20), st.integers(1, 20), st.integers(0, 20), st.integers(1, 20))
def test_fishers_test(won: int, trials: int, others_won: int, others: int) -> None:
    won, others_won = min(won, trials), min(others_won, others)
    table = [[won, trials - won], [others_won, others - others_won]]
    known = stats.fisher_exact(table, alternative="greater").pvalue
    assert fisher_p(won, trials, others_won, others) == pytest.approx(known, rel=1e-9)


def test_a_trend_of_rates_is_exact() -> None:
    """Of two groups it is Fisher's test; of more, a count of all ways, here by brute force."""
    assert rate_trend_p([0, 4], [5, 5]) == pytest.approx(
        stats.fisher_exact([[0, 5], [4, 1]]).pvalue / 2  # both ways are as strong as the one seen
    )
    assert rate_trend_p([0, 0, 0], [5, 5, 5]) == 1
    counts, trials = [0, 1, 3], [3, 3, 4]
    places = np.repeat(np.arange(3), trials)
    sums = [places[list(lost)].sum() for lost in itertools.combinations(range(10), 4)]
    seen = abs(sum(place * k for place, k in enumerate(counts)) - np.mean(sums))
    away = np.abs(sums - np.mean(sums)) - seen
    known = np.mean(away > 1e-9) + np.mean(np.abs(away) <= 1e-9) / 2
    assert rate_trend_p(counts, trials) == pytest.approx(known)


def test_a_trend_of_values() -> None:
    """By all orders of six values, ties included; and beyond 60 values by the normal limit."""
    places, values = np.array([0, 0, 1, 1, 2, 2.0]), np.array([1, 2, 2, 4, 5, 6.0])
    ranks = stats.rankdata(values)
    products = [abs((places - 1) @ (ranks[list(order)] - 3.5)) for order in itertools.permutations(range(6))]
    known = np.mean(np.array(products) >= abs((places - 1) @ (ranks - 3.5)) - 1e-9)
    assert trend_p(places, values, np.random.default_rng(0), resamples=20_000) == pytest.approx(
        known, abs=0.01
    )
    generator = np.random.default_rng(1)
    many = generator.normal(size=80)
    assert trend_p(np.arange(80), many, generator) == pytest.approx(
        stats.spearmanr(np.arange(80), many).pvalue, abs=0.02
    )


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.04, "p = .040"), (0.0009, "p < .001"), (0.001, "p = .001"), (0.9996, "p = 1"), (1.0, "p = 1")],
)
def test_no_p_is_written_as_zero(p: float, words: str) -> None:
    assert p_words(p) == words
