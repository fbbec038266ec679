"""D_J in samples per env step and parameters: planted laws, censored runs, refusals."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.time_laws import Censored, Times
from analysis.update_laws import UpdateLaw, UpdateTimes, update_law

ALPHA, BETA = 0.7, 0.5
SIGMAS = 128 * 2.0 ** np.arange(4)
SIZES = np.geomspace(4.6e5, 6.5e6, 3)


def planted(seeds: int, seed: int, noise: float, limit: float = np.inf, small: float = 3.0) -> UpdateTimes:
    """D_J = 1e6 (1 + 3 (sigma / 128)^-.7 + small (N / 4.6e5)^-.5) with a lognormal factor, seen up to `limit`."""
    size, sigma = (np.repeat(grid.ravel(), seeds) for grid in np.meshgrid(SIZES, SIGMAS))
    steps = 1e6 * (1 + 3 * (sigma / 128) ** -ALPHA + small * (size / SIZES[0]) ** -BETA)
    steps *= np.exp(noise * np.random.default_rng(seed).normal(size=len(size)))
    return UpdateTimes(sigma, Times(size, np.minimum(steps, limit), steps > limit))


def fitted(seen: UpdateTimes, resamples: int = 200) -> UpdateLaw:
    return update_law(seen, 0.5, np.random.default_rng(0), resamples=resamples)


def test_finds_the_law_without_noise() -> None:
    law = fitted(planted(2, 0, 0.004), resamples=20)
    assert law.law["sigma"].value == pytest.approx(ALPHA, abs=0.03)
    assert law.law["N"].value == pytest.approx(BETA, abs=0.03)
    assert law.least == pytest.approx(1e6, rel=0.06)
    assert law.steps(SIGMAS[:1], SIZES[:1])[0] == pytest.approx(7e6, rel=0.01)


def test_the_law_is_covered_with_a_quarter_of_the_runs_censored() -> None:
    laws = [fitted(planted(3, seed, 0.1, limit=5.5e6)) for seed in range(12)]
    assert 0 < np.mean([law.censored for law in laws]) < 18
    for name, truth in (("sigma", ALPHA), ("N", BETA)):
        assert sum(law.law[name].low <= truth <= law.law[name].high for law in laws) >= 10
    assert all(law.steps(SIGMAS[:1], SIZES[:1])[0] > 5.5e6 for law in laws)  # where every run was censored


def test_the_slopes_are_seen_where_the_law_is_open() -> None:
    """With noise of a quarter the least number of steps is not known: the law says so, the line still speaks."""
    law = fitted(planted(10, 0, 0.9))
    assert "is wider than 1" in law.refused("sigma")
    assert law.line["sigma"].low > 0
    assert law.line["N"].low > 0


def test_alpha_asks_for_as_many_seeds_as_it_is_covered_at() -> None:
    few, many = (fitted(planted(seeds, 0, 0.05), resamples=50) for seeds in (9, 10))
    assert few.refused("sigma") == "9 seeds of some variant, 10 needed"
    assert not few.refused("N")
    assert few.line["sigma"].low > 0
    assert not many.refused("sigma")


def test_where_size_does_nothing_nothing_is_claimed() -> None:
    laws = [fitted(planted(3, seed, 0.15, small=0.0), resamples=100) for seed in range(6)]
    assert sum(law.line["N"].clear for law in laws) <= 1
    assert sum(not law.refused("N") for law in laws) <= 1


@pytest.mark.parametrize(("kept", "reason"), [
    (lambda s: s.sigma < 300, "2 values of sigma, 3 needed"),
    (lambda s: s.times.size < 2e6, "2 widths, 3 needed"),
    (lambda s: (np.arange(len(s.sigma)) != 0), "1 seed of some variant, 2 needed"),
])  # fmt: skip
def test_too_little_is_refused(kept: Callable[[UpdateTimes], NDArray[np.bool_]], reason: str) -> None:
    seen = planted(2, 0, 0.1)
    keep, times = kept(seen), seen.times
    few = UpdateTimes(seen.sigma[keep], Times(times.size[keep], times.steps[keep], times.censored[keep]))
    assert fitted(few).refusal == reason


def test_where_under_half_reach_it_nothing_is_said() -> None:
    law = fitted(planted(2, 0, 0.1, limit=2.6e6))
    assert law.refusal.endswith("runs reach it, half needed")
    assert law.refused("sigma") == law.refusal


def test_the_loss_has_the_derivatives_it_says() -> None:
    loss = Censored(np.log([1.0, 2.0, 3.0]), np.array([False, True, True]))
    steps, tau, step = np.array([[1.4, 1.5, 4.0]]), np.array([1.3]), 1e-6
    _, pull, _, score, _ = loss.loss(steps, tau)
    by_steps = (loss.loss(steps + step, tau)[0] - loss.loss(steps - step, tau)[0]) / (2 * step)
    by_tau = (loss.loss(steps, tau + step)[0] - loss.loss(steps, tau - step)[0]) / (2 * step)
    np.testing.assert_allclose(pull, by_steps, rtol=1e-6)
    np.testing.assert_allclose(score, by_tau, rtol=1e-6)
