"""Statistics against rliable, and the bootstrap of a scaling law against a loop of scipy.

    python benchmarks/bench_statistics.py [--quick] [--json PATH]

Run it in an environment of its own with benchmarks/requirements.txt: rliable needs pandas < 3. Scores are 10 runs x 50
tasks, 2,000 resamples, runs drawn per task as rliable does. Before anything is timed the two must agree: the
statistics to 1e-12, ends of intervals to the bootstrap's own error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from interleave import Case, run
from numpy.typing import NDArray
from rliable import library, metrics
from scipy import optimize

from analysis import statistics as ours
from analysis.models import MODELS, Model, Seen, minimise, starts

warnings.filterwarnings("ignore")  # arch warns of its own future
LAW = Model(
    "actor_critic", ("actor", "critic"), MODELS["actor_critic"].numbers, MODELS["actor_critic"].exponents,
    (-20, -20, 0, -20, 0), (5, 10, 4, 10, 4), 4, MODELS["actor_critic"].law,
)  # fmt: skip
DELTA = 1e-3  # of Huber's loss on log losses, as Hoffmann et al. 2022


def agree(x: NDArray[Any], y: NDArray[Any]) -> None:
    """Stops where a statistic is not rliable's."""
    pairs = [
        (ours.iqm(x), metrics.aggregate_iqm(x)),
        (ours.mean(x), metrics.aggregate_mean(x)),
        (ours.median(x), metrics.aggregate_median(x)),
        (ours.optimality_gap(x), metrics.aggregate_optimality_gap(x)),
        (ours.probability_of_improvement(x, y), metrics.probability_of_improvement(x, y)),
    ]
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    _, theirs = library.get_interval_estimates(
        {"x": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=2_000
    )
    mine = ours.interval(x, ours.iqm, np.random.default_rng(0), unit="task", method="percentile")
    np.testing.assert_allclose((mine.low, mine.high), theirs["x"][:, 0], atol=0.006)
    levels = np.linspace(0, 1, 21)
    profile, limits = library.create_performance_profile({"x": x}, levels, reps=2_000)
    band = ours.profile_band(
        x, levels, np.random.default_rng(0), resamples=2_000, unit="task", method="percentile"
    )
    np.testing.assert_allclose(band[0], profile["x"], atol=1e-12)
    np.testing.assert_allclose(band[1:], limits["x"], atol=0.008)
    _, theirs = library.get_interval_estimates({"xy": (x, y)}, metrics.probability_of_improvement, reps=200)
    mine = ours.improvement_interval(x, y, np.random.default_rng(0), unit="task", method="percentile")
    np.testing.assert_allclose((mine.low, mine.high), theirs["xy"][:, 0], atol=0.015)


def points() -> tuple[NDArray[Any], Seen]:
    """240 points of a Chinchilla-like law with noise."""
    generator = np.random.default_rng(0)
    x = np.stack([generator.uniform(-3, 3, 240), generator.uniform(-2, 2, 240)], axis=-1)
    loss = LAW.law(np.array([[0.6, -0.5, 0.35, -0.8, 0.37]]), x)[0][0] * np.exp(
        generator.standard_t(3, 240) * 0.004
    )
    return x, Seen(loss, np.ones(240), "log_huber", delta=DELTA)


def law_bootstrap(x: NDArray[Any], seen: Seen, best: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    # as analysis.scaling_laws does
    chunks = [weights[begin : begin + 50] for begin in range(0, len(weights), 50)]
    found = [minimise(LAW, x, seen, np.tile(best, (len(w), 1)), weights=w, tolerance=1e-7)[0] for w in chunks]
    return np.concatenate(found)


def scipy_bootstrap(x: NDArray[Any], seen: Seen, best: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """One L-BFGS-B after the other, with the derivative given: the usual code."""
    seen_log = np.log(seen.failed)

    def objective(theta: NDArray[Any], weight: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        terms = np.exp(
            np.stack(
                [np.full(len(x), theta[0]), theta[1] - theta[2] * x[:, 0], theta[3] - theta[4] * x[:, 1]]
            )
        )
        total = terms.sum(0)
        residual = np.log(total) - seen_log
        straight = np.abs(residual) > DELTA
        loss = np.where(straight, DELTA * (np.abs(residual) - DELTA / 2), residual**2 / 2)
        pull = weight * np.clip(residual, -DELTA, DELTA) / total
        slopes = [terms[0], terms[1], -terms[1] * x[:, 0], terms[2], -terms[2] * x[:, 1]]
        return float(loss @ weight), np.array([pull @ slope for slope in slopes])

    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-9}
    found = [
        optimize.minimize(objective, best, args=(w,), jac=True, method="L-BFGS-B", options=options)
        for w in weights
    ]
    return np.array([one.x for one in found])


def cases(quick: bool) -> Iterator[Case]:
    generator = np.random.default_rng(0)
    x, y = generator.random((10, 50)), generator.random((10, 50))
    agree(x, y)
    reps = 100 if quick else 2_000
    interval = partial(
        ours.interval, x, ours.iqm, np.random.default_rng(0), resamples=reps, unit="task", method="percentile"
    )
    theirs = partial(
        library.get_interval_estimates, {"x": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=reps
    )
    yield Case(f"IQM, {reps} resamples", "rliable", interval, theirs)

    levels = np.linspace(0, 1, 101)
    band = partial(
        ours.profile_band,
        x,
        levels,
        np.random.default_rng(0),
        resamples=reps,
        unit="task",
        method="percentile",
    )
    theirs = partial(library.create_performance_profile, {"x": x}, levels, reps=reps)
    yield Case(f"profile, {reps} resamples", "rliable", band, theirs)

    few = 20 if quick else 50  # rliable needs minutes for 2,000
    improvement = partial(
        ours.improvement_interval,
        x,
        y,
        np.random.default_rng(0),
        resamples=few,
        unit="task",
        method="percentile",
    )
    theirs = partial(
        library.get_interval_estimates, {"xy": (x, y)}, metrics.probability_of_improvement, reps=few
    )
    yield Case(f"improvement, {few} resamples", "rliable", improvement, theirs)

    at, seen = points()
    theta, losses = minimise(LAW, at, seen, starts(LAW, at, seen, generator, 64), steps=400)
    best = theta[losses.argmin()]
    number = 20 if quick else 400
    weights = generator.multinomial(240, np.full(240, 1 / 240), number).astype(float)
    mine, other = law_bootstrap(at, seen, best, weights), scipy_bootstrap(at, seen, best, weights)
    middle = np.median(np.abs(mine - other), axis=0)
    # both at the same optima, to a hundredth of the bootstrap's spread
    assert (middle < 0.01 * other.std(0)).all(), middle
    yield Case(
        f"Chinchilla law, {number} resamples",
        "scipy L-BFGS-B loop",
        partial(law_bootstrap, at, seen, best, weights),
        partial(scipy_bootstrap, at, seen, best, weights),
    )


if __name__ == "__main__":
    run(cases, runs=5, quick_runs=3)
