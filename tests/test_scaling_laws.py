"""Fits against known laws and scipy, and the refusal to say what the data do not."""

import numpy as np
import pytest
from scipy import optimize, special

from analysis.scaling_laws import MODELS, Fit, fit, minimise

WIDE = np.geomspace(1e5, 1e8, 8)


def power(sizes: np.ndarray, floor: float, coefficient: float, exponent: float) -> np.ndarray:
    return floor + coefficient * (sizes / 1e6) ** -exponent


def fitted(sizes: np.ndarray, success: np.ndarray, model: str = "power", trials: float = 1e9) -> Fit:
    return fit(MODELS[model], [sizes], success, np.full(len(success), trials), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("floor", "coefficient", "exponent"), [(0.05, 0.2, 0.4), (0.2, 0.1, 0.9), (0.01, 0.3, 0.15)]
)
def test_finds_the_law_that_made_the_points(floor: float, coefficient: float, exponent: float) -> None:
    found = fitted(WIDE, 1 - power(WIDE, floor, coefficient, exponent))
    assert found.exponents[0].estimate == pytest.approx(exponent, rel=1e-3)
    assert found.floor == pytest.approx(floor, rel=1e-2)
    assert found.identified
    np.testing.assert_allclose(found.failure(WIDE), power(WIDE, floor, coefficient, exponent), rtol=1e-4)


def test_two_terms_are_told_apart() -> None:
    actor, critic = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 1e8, 6), np.geomspace(1e5, 1e8, 6))
    )
    success = 1 - (0.03 + power(actor, 0, 0.05, 0.2) + power(critic, 0, 0.1, 0.6))
    found = fit(MODELS["actor_critic"], [actor, critic], success, np.full(36, 1e9), np.random.default_rng(0))
    assert [e.estimate for e in found.exponents] == pytest.approx([0.2, 0.6], rel=0.01)


def test_the_minimum_is_scipys() -> None:
    generator = np.random.default_rng(3)
    y = special.logit(power(WIDE, 0.05, 0.2, 0.4)) + generator.normal(0, 0.1, len(WIDE))
    x = (np.log(WIDE) - np.log(WIDE).mean())[:, None]
    starts = np.column_stack(
        [generator.uniform(-5, -2, 16), generator.uniform(-4, -2, 16), generator.uniform(0.1, 0.5, 16)]
    )
    _, losses = minimise(MODELS["power"], x, y, starts)

    def residual(theta: np.ndarray) -> np.ndarray:
        return special.logit(MODELS["power"].predict(theta[None], x)[0][0]) - y

    known = min(2 * optimize.least_squares(residual, start).cost for start in starts)
    assert losses.min() == pytest.approx(known, rel=1e-6)


def test_the_derivative_is_that_of_the_prediction() -> None:
    model = MODELS["actor_critic"]
    theta = np.random.default_rng(0).uniform(-1, 1, (1, 5))
    x = np.random.default_rng(1).uniform(-1, 1, (4, 2))
    slope = model.predict(theta, x)[1][0]
    for number in range(5):
        step = np.zeros(5)
        step[number] = 1e-6
        known = (model.predict(theta + step, x)[0] - model.predict(theta - step, x)[0])[0] / 2e-6
        np.testing.assert_allclose(slope[:, number], known, rtol=1e-6)  # central difference


@pytest.mark.parametrize("sizes", [1, 2, 3])
def test_few_sizes_are_refused(sizes: int) -> None:
    found = fitted(np.tile(WIDE[:sizes], 5), np.full(5 * sizes, 0.5))
    word = "size" if sizes == 1 else "sizes"
    assert not found.identified
    assert found.reason == f"{sizes} {word}, 4 needed"


def test_few_points_are_refused() -> None:
    actor = np.array([1e5, 1e6, 1e7, 1e8])
    found = fit(MODELS["actor_critic"], [actor, actor], np.full(4, 0.5), np.ones(4), np.random.default_rng(0))
    assert found.reason == "4 points, 6 needed"


@pytest.mark.parametrize("seed", range(5))
def test_data_without_signal_are_refused(seed: int) -> None:
    success = special.expit(np.random.default_rng(seed).normal(0.5, 0.3, len(WIDE)))
    found = fitted(WIDE, success)
    assert not found.identified
    assert "constant" in found.reason or "wider than 1" in found.reason


def test_all_or_nothing_success_can_be_fitted() -> None:
    found = fitted(WIDE, np.array([0, 0, 0, 0, 1, 1, 1, 1.0]), trials=20)
    assert np.isfinite(found.rmse)


def test_the_same_generator_gives_the_same_fit() -> None:
    success = 1 - power(WIDE, 0.05, 0.2, 0.4)
    assert fitted(WIDE, success) == fitted(WIDE, success)


def test_a_summary_is_json() -> None:
    import json

    text = json.dumps(fitted(WIDE[:3], np.full(3, 0.5)).summary(), allow_nan=False)
    assert json.loads(text)["reason"] == "3 sizes, 4 needed"
