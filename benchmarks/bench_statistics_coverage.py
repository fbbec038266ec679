"""How often intervals hold the truth, and how often laws are claimed where there is none: minutes of simulation.

    python benchmarks/bench_statistics_coverage.py [--sweeps 100] [--json PATH]

Synthetic runs: each run has an ability of its own (normal on the logit scale: the tasks of a run go together), each of
10 tasks a difficulty, and 50 episodes are counted per task. Nominal coverage is .95; the bar is .90, and .05 for
false claims.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.models import MODELS, Likelihood
from analysis.scaling_laws import CLAIM, Points, critic_against_actor, fit
from analysis.statistics import (
    Method,
    Statistic,
    Unit,
    improvement_interval,
    interval,
    iqm,
    iqm_of_runs,
    mean,
    probability_of_improvement,
)

TASKS, EPISODES = 10, 50
RUN_SPREAD = 0.3  # of a run's ability, in logits
METHODS: tuple[tuple[Method, Unit], ...] = (
    ("t", "run"),
    ("bca", "run"),
    ("percentile", "run"),
    ("percentile", "task"),
)
Array = NDArray[Any]


def runs(rate: Array, generator: np.random.Generator, spread: float = RUN_SPREAD) -> Array:
    """Success [runs, tasks] of runs whose expected success is `rate` [runs]."""
    difficulty = np.linspace(-1, 1, TASKS)
    ability = special.logit(rate)[:, None] + generator.normal(0, spread, (len(rate), 1))
    own = generator.normal(0, 0.3, (len(rate), TASKS))
    return generator.binomial(EPISODES, special.expit(ability + difficulty + own)) / EPISODES


def score_coverage(
    statistic: Statistic, seeds: int, sweeps: int, generator: np.random.Generator
) -> dict[str, float]:
    """Share of intervals that hold the statistic of very many runs, by method."""
    hits: dict[str, list[bool]] = {}
    for rate in (0.3, 0.7, 0.93):
        truth = float(statistic(runs(np.full(40_000, rate), generator)))
        for _ in range(sweeps):
            scores = runs(np.full(seeds, rate), generator)
            for method, unit in METHODS:
                found = interval(scores, statistic, generator, method=method, unit=unit, resamples=1_000)
                hits.setdefault(f"{method}, by {unit}", []).append(found.low <= truth <= found.high)
    return {name: round(float(np.mean(values)), 3) for name, values in hits.items()}


def improvement_coverage(seeds: int, sweeps: int, generator: np.random.Generator) -> dict[str, float]:
    """Share of intervals of the probability of improvement that hold its value over very many runs, by method."""
    hits: dict[str, list[bool]] = {}
    for rates in ((0.7, 0.7), (0.72, 0.68), (0.8, 0.7)):
        many = [runs(np.full(2_000, rate), generator) for rate in rates]
        truth = probability_of_improvement(*many)
        for _ in range(sweeps):
            x, y = (runs(np.full(seeds, rate), generator) for rate in rates)
            for method in ("t", "percentile"):
                found = improvement_interval(x, y, generator, method=method, resamples=1_000)  # type: ignore[arg-type]
                if np.isfinite(found.low):
                    hits.setdefault(f"{method}, by run", []).append(found.low <= truth <= found.high)
    return {name: round(float(np.mean(values)), 3) for name, values in hits.items()}


def sweep_points(
    failure: Array, sizes: dict[str, Array], seeds: int, generator: np.random.Generator
) -> Points:
    cells = np.repeat(np.arange(len(failure)), seeds)
    # Every task of a run is equally hard here: the mean over tasks of unlike ones is not the law's failure rate.
    ability = special.logit(1 - failure[cells]) + generator.normal(0, RUN_SPREAD, len(cells))
    success = generator.binomial(EPISODES * TASKS, special.expit(ability)) / (EPISODES * TASKS)
    trials = np.full(len(cells), EPISODES * TASKS)
    return Points({name: size[cells] for name, size in sizes.items()}, success, trials, cells)


def exponent_coverage(
    likelihood: Likelihood, seeds: int, sweeps: int, generator: np.random.Generator
) -> dict[str, float]:
    """Of power laws at six sizes: how often the exponent's interval holds it, and how often one is identified."""
    sizes = np.geomspace(2e5, 1e8, 6)
    held, identified, claimed = [], [], []
    for _ in range(sweeps):
        true = 0.03 + 0.25 * (sizes / 2e5) ** -0.4
        found = fit(MODELS["power"], sweep_points(true, {"parameters": sizes}, seeds, generator), generator,
                    likelihood=likelihood, tries=8)  # fmt: skip
        held.append(found.exponents[0].low <= 0.4 <= found.exponents[0].high)
        identified.append(found.identified)
        nothing = sweep_points(np.full(6, 0.25), {"parameters": sizes}, seeds, generator)
        claimed.append(fit(MODELS["power"], nothing, generator, likelihood=likelihood, tries=8).identified)
    return {
        "coverage": float(np.mean(held)),
        "identified": float(np.mean(identified)),
        "identified where there is no effect": float(np.mean(claimed)),
    }


def critic_claims(
    likelihood: Likelihood, seeds: int, sweeps: int, generator: np.random.Generator
) -> dict[str, float]:
    """On a 5 x 5 grid: how often the critic's exponent is claimed to be larger, where it is not and where it is."""
    axis = np.geomspace(1e5, 3e7, 5)
    actor, critic = (grid.ravel() for grid in np.meshgrid(axis, axis))
    rates = {}
    for name, exponent in (("equal", 0.35), ("critic larger", 0.7)):
        claims = []
        for _ in range(sweeps):
            true = 0.03 + 0.1 * (actor / 1e5) ** -0.35 + 0.2 * (critic / 1e5) ** -exponent
            points = sweep_points(true, {"actor": actor, "critic": critic}, seeds, generator)
            found = fit(MODELS["actor_critic"], points, generator, likelihood=likelihood, tries=8)
            claims.append(critic_against_actor(points, found, generator) >= CLAIM)
        rates[f"critic > actor claimed, {name}"] = float(np.mean(claims))
    return rates


@click.command()
@click.option("--sweeps", default=100, show_default=True)
@click.option("--likelihood", "likelihoods", multiple=True, default=["logit"], show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(sweeps: int, likelihoods: tuple[Likelihood, ...], path: Path | None) -> None:
    generator = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []

    def add(case: str, seeds: int, values: dict[str, float]) -> None:
        lines.append({"case": case, "seeds": seeds, "sweeps": sweeps, **values})
        click.echo(
            f"{case:28} {seeds:3} seeds  "
            + "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        )

    for seeds in (3, 5, 10):
        for name, statistic in (("iqm", iqm), ("iqm of runs", iqm_of_runs), ("mean", mean)):
            add(name, seeds, score_coverage(statistic, seeds, sweeps, generator))
        add("improvement", seeds, improvement_coverage(seeds, sweeps, generator))
        for likelihood in likelihoods:
            add(f"power law, {likelihood}", seeds, exponent_coverage(likelihood, seeds, sweeps, generator))
            add(f"actor and critic, {likelihood}", seeds, critic_claims(likelihood, seeds, sweeps, generator))
    if path:
        path.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
