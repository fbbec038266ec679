"""Learning curves against values worked by hand and the nearest rising curve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from analysis.curves import curve_area, isotonic, plateau, steps_to


def test_curves_by_hand() -> None:
    steps = np.array([0.0, 10, 30, 40])
    curves = np.array([[0.0, 0.5, 0.5, 1.0], [0.2, 0.2, 0.2, 0.2]])
    np.testing.assert_allclose(curve_area(steps, curves), [(2.5 + 10 + 7.5) / 40, 0.2])
    np.testing.assert_allclose(steps_to(0.75, steps, curves), [35, np.inf])
    np.testing.assert_allclose(steps_to(0.2, steps, curves), [4, 0])


def test_plateau() -> None:
    steps = np.arange(50.0)
    assert plateau(steps, np.minimum(steps / 20, 1)) == pytest.approx(24, abs=2)
    assert plateau(steps, steps / 50) == np.inf
    assert plateau(steps, np.ones(50)) == 4


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_rising_curve_is_the_nearest(length: int, seed: int) -> None:
    curves = np.random.default_rng(seed).normal(size=(3, length))
    known = np.stack([optimize.isotonic_regression(curve).x for curve in curves])
    np.testing.assert_allclose(isotonic(curves), known, atol=1e-12)
