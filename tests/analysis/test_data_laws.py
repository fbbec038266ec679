"""Laws in parameters and env steps against planted curves and closed forms."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from analysis.data_laws import (
    ADDITIVE,
    BOUNDED,
    Curves,
    agree,
    costs,
    fit_curves,
    growth,
    log_spaced,
    optimum,
)
from analysis.time_laws import Times, first_reached, time_law

ROOT = Path(__file__).resolve().parents[2]
SIZES = np.geomspace(4.6e5, 1e8, 5)
TRUTH = {"additive": (0.42, 0.82), "bounded": (0.29, 1.2)}


def planted(
    form: str, seeds: int, seed: int, noise: float = 0.15, run: float = 0.25, evaluations: int = 50
) -> Curves:
    """Curves whose evaluations go together: an ability per run, and errors that fade over evaluations."""
    generator = np.random.default_rng(seed)
    steps = np.arange(1, evaluations + 1) * 2e7 / evaluations
    parts = []
    for number, size in enumerate(np.repeat(SIZES, seeds)):
        if form == "additive":
            failure = 0.05 * (size / 7e6) ** -0.42 + 0.1 * (steps / 5e6) ** -0.82
        else:
            least = 0.1 * (size / 7e6) ** -0.29
            failure = least + (1 - least) / (1 + (steps * (size / 7e6) ** 0.1 / 1.5e6) ** 1.2)
        error = np.zeros(evaluations)
        for place in range(evaluations):
            error[place] = 0.7 * error[place - 1] + np.sqrt(1 - 0.49) * noise * generator.normal()
        logits = special.logit(failure.clip(1e-3, 0.999)) + run * generator.normal() + error
        kept = log_spaced(evaluations)
        count = len(kept)
        parts.append((
            np.full(count, size), steps[kept], special.expit(logits)[kept], np.full(count, number),
            np.full(count, 1e4 * size),
        ))  # fmt: skip
    size, steps, failure, number, cost = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Curves(size, steps, failure, number, cost, 1e5)


@pytest.mark.parametrize("model", [ADDITIVE, BOUNDED], ids=lambda model: model.name)
def test_the_derivative_is_that_of_the_law(model) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    theta, x = generator.uniform(-0.9, -0.1, (1, 5)), generator.uniform(-1, 1, (6, 2))
    theta[:, 0] = -2  # the bounded law is cut where p passes 1
    slope = model.law(theta, x)[1][0]
    for place in range(5):
        step = np.zeros(5)
        step[place] = 1e-6
        known = (model.law(theta + step, x)[0] - model.law(theta - step, x)[0])[0] / 2e-6
        np.testing.assert_allclose(slope[place], known, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("form", ["additive", "bounded"])
def test_finds_the_law_without_noise(form: str) -> None:
    law = fit_curves(planted(form, 2, 0, noise=0, run=0), form, np.random.default_rng(0))
    assert (law.exponent("parameters").value, law.exponent("steps").value) == pytest.approx(
        TRUTH[form], rel=0.02
    )


@pytest.mark.parametrize("form", ["additive", "bounded"])
def test_both_exponents_are_covered(form: str) -> None:
    """30 sweeps of 5 sizes and 3 seeds whose evaluations go together; 95% nominal."""
    held = []
    for seed in range(30):
        law = fit_curves(planted(form, 3, seed), form, np.random.default_rng(0))
        for name, truth in zip(("parameters", "steps"), TRUTH[form], strict=True):
            found = law.exponent(name)
            held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.87  # two standard deviations of 60 below .95


def test_evaluations_twice_narrow_nothing() -> None:
    curves = planted("additive", 3, 0)
    twice = curves.where(np.repeat(np.arange(len(curves.size)), 2))
    widths = []
    for each in (curves, twice):
        found = fit_curves(each, "additive", np.random.default_rng(0)).exponent("steps")
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_the_best_size_grows_as_the_closed_form_says() -> None:
    """N* goes as C^(b / (a + b)) where an env step costs as N."""
    curves = planted("additive", 2, 0, noise=0, run=0)
    law = fit_curves(curves, "additive", np.random.default_rng(0))
    first, second = (optimum(law, curves, budget).log_size.value for budget in (1e17, 1e18))
    a, b = TRUTH["additive"]
    assert (second - first) / np.log(10) == pytest.approx(b / (a + b), rel=0.02)
    assert growth(law, curves).value == pytest.approx(b / (a + b), rel=0.02)
    assert costs(curves).power == pytest.approx(1)


def test_beyond_the_grid_is_refused() -> None:
    curves = planted("additive", 2, 0)
    law = fit_curves(curves, "additive", np.random.default_rng(0))
    assert optimum(law, curves, 1e22).refusal.startswith("the best size is at or beyond the largest")
    assert optimum(law, curves, 1e12).refusal.startswith("the best size is at or below the smallest")
    inside = optimum(law, curves, 2e17)
    assert inside.refusal == ""
    assert agree(inside, inside)


def test_few_widths_and_seeds_are_refused() -> None:
    curves = planted("additive", 2, 0)
    assert curves.refusal() == ""
    assert curves.where(curves.size < 2e7).refusal() == "3 widths, 4 needed"
    assert curves.where(curves.run != 0).refusal() == "1 seed at some width, 2 needed"


@pytest.mark.parametrize(("benchmark", "known"), [("MT10", (0.42, 0.82)), ("MT50", (0.30, 0.58))])
def test_the_papers_curves(benchmark: str, known: tuple[float, float]) -> None:
    """By actor parameters; worked out apart from this code: .42 and .82, .28 and .59; .17 logits."""
    with (ROOT / "analysis" / "paper" / "success_by_width.csv").open(newline="") as file:
        sizes = {row["width"]: float(row["actor_parameters"]) for row in csv.DictReader(file)
                 if row["benchmark"] == benchmark}  # fmt: skip
    with (ROOT / "analysis" / "paper" / "learning_curves.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    size = np.array([sizes[row["width"]] for row in rows])
    steps, success = (np.array([float(row[name]) for row in rows]) for name in ("env_steps", "success_iqm"))
    curves = Curves(size, steps, 1 - success, np.unique(size, return_inverse=True)[1], 1e4 * size, 5_000)
    law = fit_curves(curves, "additive", np.random.default_rng(0))
    assert (law.exponent("parameters").value, law.exponent("steps").value) == pytest.approx(known, abs=0.02)
    assert law.rms == pytest.approx(0.165, abs=0.015)


def test_a_curve_reaches_a_height_where_its_rising_curve_does() -> None:
    curves = np.array([[0.1, 0.6, 0.2, 0.7, 0.9], [0.1, 0.2, 0.2, 0.3, np.nan]])
    steps = np.array([1.0, 2, 4, 8, 16])
    found, censored = first_reached(curves, steps, 0.55)
    assert 4 < found[0] < 8  # the first crossing, at 2, was luck
    assert censored.tolist() == [False, True]
    assert found[1] == pytest.approx(8)


def times(seed: int, limit: float, noise: float = 0.25) -> Times:
    """D_J = 2e6 (N / 1e6)^-.3 with a lognormal factor, seen up to `limit` env steps."""
    generator = np.random.default_rng(seed)
    size = np.repeat(SIZES, 5)
    steps = 2e6 * (size / 1e6) ** -0.3 * np.exp(noise * generator.normal(size=len(size)))
    return Times(size, np.minimum(steps, limit), steps > limit)


def test_the_law_of_censored_steps_is_covered() -> None:
    held = []
    for seed in range(40):
        law = time_law(times(seed, 1.5e6), 0.5)
        assert law.exponent is not None
        held.append(law.exponent.low <= 0.3 <= law.exponent.high)
    assert np.mean(held) >= 0.87


def test_runs_that_all_took_as_long_show_no_effect() -> None:
    alike = replace(times(0, 1e9), steps=np.full(5 * len(SIZES), 1e6))
    exponent = time_law(alike, 0.5).exponent
    assert exponent is not None
    assert (exponent.value, exponent.p) == (0, 1)  # not what rounding makes of them


def test_leaving_censored_runs_out_would_be_wrong() -> None:
    """The exponent of the runs that reached J alone is too small: those that did not are the slow ones."""
    several = [times(seed, 1.5e6) for seed in range(10)]
    whole = np.mean([time_law(each, 0.5).exponent.value for each in several])  # type: ignore[union-attr]
    seen = [np.polyfit(np.log(t.size[~t.censored]), np.log(t.steps[~t.censored]), 1)[0] for t in several]
    assert abs(whole - 0.3) < 0.03
    assert -np.mean(seen) < 0.25


def test_where_under_half_reach_it_nothing_is_said() -> None:
    law = time_law(times(0, 4e5), 0.5)
    assert law.exponent is None
    assert "half needed" in law.refusal
