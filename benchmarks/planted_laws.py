"""Sweeps whose truth is known, as the laws of analysis/ see them: points, curves, steps to success.

Every run has an ability of its own, normal on the logit scale, and each score is counted from 500 episodes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.collapse import collapsed
from analysis.data_laws import Curves, log_spaced
from analysis.scaling_laws import Points
from analysis.time_laws import Times
from analysis.update_laws import UpdateTimes
from analysis.variants import Variant

Array = NDArray[Any]
EPISODES = 500
SPREAD = 0.3  # of a run's ability, logits
SIZES = np.geomspace(2e5, 1e8, 5)
SMALLEST = SIZES[0]
EVALUATIONS = 50
FADES = 0.7  # correlation of one evaluation's error with the next
EXPONENTS = {"additive": (0.42, 0.82), "bounded": (0.29, 1.2)}  # of parameters and of env steps
COLLAPSED_AT = np.array([0.0, 0.06, 0.12, 0.18, 0.25])  # share of runs that collapse, by size


def points(
    failure: Array, sizes: dict[str, Array], seeds: int, generator: np.random.Generator, spread: Any = SPREAD
) -> Points:
    """So many runs of each variant; `spread` of their abilities, one for all or one per variant."""
    strata = np.repeat(np.arange(len(failure)), seeds)
    noise = np.broadcast_to(spread, failure.shape)[strata] * generator.normal(size=len(strata))
    success = (
        generator.binomial(EPISODES, special.expit(special.logit(1 - failure[strata]) + noise)) / EPISODES
    )
    trials = np.full(len(strata), EPISODES)
    return Points({k: s[strata] for k, s in sizes.items()}, success, trials, strata, single_runs=True)


def tasks_multiply(
    exponent: float, growth: float, interaction: float = 0.0
) -> tuple[Array, dict[str, Array]]:
    """Failure .1 (N / N0)^-(exponent + interaction log(T / 10)) (T / 10)^growth over sizes and 10, 25, 50 tasks."""
    size, tasks = (grid.ravel() for grid in np.meshgrid(SIZES, [10.0, 25, 50]))
    bend = exponent + interaction * np.log(tasks / 10)
    return 0.1 * (size / SMALLEST) ** -bend * (tasks / 10) ** growth, {"parameters": size, "tasks": tasks}


def actor_and_critic(actor: float, critic: float) -> tuple[Array, dict[str, Array]]:
    """Failure on a 5 x 5 grid of sizes, by the two elasticities."""
    a, c = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 3e7, 5), np.geomspace(1e5, 3e7, 5)))
    return 0.3 * (a / 1e5) ** -actor * (c / 1e5) ** -critic, {"actor": a, "critic": c}


def with_collapses(
    failure: Array, share: Array, seeds: int, generator: np.random.Generator
) -> tuple[Points, Array]:
    """Points of runs of which a share, by size, falls to 5% of its success late; and which are found to be lost."""
    found = points(failure, {"parameters": SIZES}, seeds, generator)
    assert found.strata is not None
    fell = generator.random(len(found)) < share[found.strata]
    ends = np.where(fell, 0.05 * found.success, found.success)
    lost = np.concatenate(
        [_lost(found.success[found.strata == s], ends[found.strata == s]) for s in range(len(SIZES))]
    )
    return Points(found.sizes, ends, found.trials, found.strata, single_runs=True), lost


def _lost(before: Array, ends: Array) -> Array:
    curves = np.stack([before * 0.5, before, before, before, ends], axis=1)[..., None]
    runs = len(ends)
    variant = SimpleNamespace(
        scores=ends[:, None], curves=curves, finished=np.ones(runs, bool), diverged_runs=np.zeros(runs, bool),
        score_episodes=EPISODES, task_count=1,
    )  # fmt: skip
    return collapsed(cast(Variant, variant))


def curves(
    form: str, seeds: int, generator: np.random.Generator, spread: Any = 0.25, noise: float = 0.15
) -> Curves:
    """Learning curves over 2e7 env steps whose evaluations go together: an ability per run, errors that fade."""
    steps = np.arange(1, EVALUATIONS + 1) * 2e7 / EVALUATIONS
    kept = log_spaced(EVALUATIONS)
    a, b = EXPONENTS[form]
    parts = []
    for number, size in enumerate(np.repeat(SIZES, seeds)):
        if form == "additive":
            failure = 0.05 * (size / 7e6) ** -a + 0.1 * (steps / 5e6) ** -b
        else:
            least = 0.1 * (size / 7e6) ** -a
            failure = least + (1 - least) / (1 + (steps * (size / 7e6) ** 0.1 / 1.5e6) ** b)
        fresh = np.sqrt(1 - FADES**2) * noise * generator.normal(size=EVALUATIONS)
        error = np.zeros(EVALUATIONS)
        for place in range(EVALUATIONS):
            error[place] = FADES * error[place - 1] + fresh[place]
        of_run = np.broadcast_to(spread, SIZES.shape)[number // seeds] * generator.normal()
        logits = special.logit(failure.clip(1e-3, 0.999)) + of_run + error
        seen = generator.binomial(EPISODES, special.expit(logits[kept])) / EPISODES
        ones = np.ones(len(kept))
        parts.append((size * ones, steps[kept], seen, number * ones, 1e4 * size * ones))
    size, steps, failure, number, cost = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Curves(size, steps, failure, number.astype(np.int64), cost, EPISODES)


def times(exponent: float, seeds: int, generator: np.random.Generator) -> Times:
    """D_J = 2e6 (N / 1e6)^-exponent with a lognormal factor; about two fifths of the runs are censored."""
    size = np.repeat(SIZES, seeds)
    steps = 2e6 * (size / 1e6) ** -exponent * np.exp(0.25 * generator.normal(size=len(size)))
    limit = 2e6 * (SIZES.max() / 1e6) ** (-0.2 * exponent)
    return Times(size, np.minimum(steps, limit), steps > limit)


def update_times(alpha: float, beta: float, seeds: int, generator: np.random.Generator) -> UpdateTimes:
    """D_J = 1e6 (1 + 3 (sigma / 128)^-alpha + 3 (N / N0)^-beta) as grid=utd has it: 4 sigmas by 3 sizes.

    With a lognormal factor; about a quarter of the runs are censored. An exponent of 0 takes its term away.
    """
    sigmas, sizes = 128 * 2.0 ** np.arange(4), np.geomspace(4.6e5, 6.5e6, 3)
    size, sigma = (np.repeat(grid.ravel(), seeds) for grid in np.meshgrid(sizes, sigmas))
    by_sigma = 3 * (sigma / sigmas[0]) ** -alpha if alpha else 0
    by_size = 3 * (size / sizes[0]) ** -beta if beta else 0
    without = 1e6 * (1 + by_sigma + by_size)
    steps = without * np.exp(0.15 * generator.normal(size=len(size)))
    limit = np.quantile(without, 0.75)
    return UpdateTimes(sigma, Times(size, np.minimum(steps, limit), steps > limit))
