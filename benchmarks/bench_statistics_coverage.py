"""How often intervals hold the truth, and how often an effect is claimed where there is none. Takes half an hour.

    python benchmarks/bench_statistics_coverage.py [--sweeps 200] [--case NAME] [--json PATH]

Scores: each run has an ability of its own (normal on the logit scale: the tasks of a run go together), each of 10
tasks a difficulty, and 50 episodes are counted per task. Laws: planted_laws.py. Nominal coverage is .95. With --case
only those cases run, and the JSON file keeps what it has of the others.

A row has, for each number that a law reports: `covered`, the share of its intervals that hold the truth, of those
that the report shows; `shown`, the share that it shows, the others being refused. Shares named `... claimed` are of
sentences: false ones where the row's name says that there is nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import planted_laws as planted
from numpy.typing import NDArray
from scipy import special

from analysis.data_laws import fit_curves
from analysis.exact_tests import rate_trend_p
from analysis.models import MODELS
from analysis.scaling_laws import fit, floor_interval
from analysis.slopes import critic_minus_actor, slopes
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
from analysis.time_laws import time_law
from analysis.update_laws import update_law

TASKS, EPISODES = 10, 50
RUN_SPREAD = 0.3  # of a run's ability, in logits
METHODS: tuple[tuple[Method, Unit], ...] = (
    ("t", "run"),
    ("bca", "run"),
    ("percentile", "run"),
    ("percentile", "task"),
)
WIDEST = 1.0  # interval of an exponent of curves that the report still shows
Array = NDArray[Any]
Shares = dict[str, float]


class Tally:
    """Shares of what happened, by name, over many sweeps."""

    def __init__(self) -> None:
        self.seen: dict[str, list[bool]] = {}

    def note(self, name: str, happened: bool) -> None:
        self.seen.setdefault(name, []).append(bool(happened))

    def interval(self, name: str, found: Any, truth: float, refusal: str = "") -> None:
        """An interval with `low` and `high`, and why the report would not show it."""
        self.note(f"{name} shown", not refusal)
        if not refusal:
            self.note(f"{name} covered", found.low <= truth <= found.high)

    def shares(self) -> Shares:
        return {name: round(float(np.mean(values)), 3) for name, values in self.seen.items()}


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


def line_coverage(
    failure: Array, seeds: int, sweeps: int, generator: np.random.Generator, spread: Any = planted.SPREAD
) -> Shares:
    """Of failure rates at five sizes: the slope over them, whose truth is the line through the rates without noise."""
    tally, sizes = Tally(), {"parameters": planted.SIZES}
    truth = -float(np.polyfit(np.log(planted.SIZES), np.log(failure), 1)[0])
    for _ in range(sweeps):
        line = slopes("slope", planted.points(failure, sizes, seeds, generator, spread))
        found, refusal = line.exponents["parameters"], line.refused("parameters")
        if abs(truth) > 1e-9:
            tally.interval("slope", found, truth, refusal)
        else:
            tally.note("slope claimed", not refusal)
    return tally.shares()


def floor_coverage(
    failure: Array,
    exponent: float | None,
    floor: float | None,
    seeds: int,
    sweeps: int,
    generator: np.random.Generator,
) -> Shares:
    """The law with a free floor. `exponent` or `floor` is None where the truth has none."""
    tally = Tally()
    for _ in range(sweeps):
        seen = planted.points(failure, {"parameters": planted.SIZES}, seeds, generator)
        law = fit(MODELS["power"], seen, generator)
        low, high = floor_interval(law, seen)
        tally.note("floor claimed", low > 0)
        if floor is not None:
            tally.note("floor covered", low <= floor <= high)
        if exponent is None:
            tally.note("asymptotic exponent shown", law.exponents[0].identified)
        else:
            tally.interval("asymptotic exponent", law.exponents[0], exponent, law.exponents[0].refusal)
    return tally.shares()


def task_coverage(interaction: float, seeds: int, sweeps: int, generator: np.random.Generator) -> Shares:
    """N^-.22 T^.56, the paper's form, or with an exponent of N that falls with log T."""
    tally = Tally()
    truth = planted.tasks_multiply(0.22, 0.56, interaction)
    for _ in range(sweeps):
        seen = planted.points(*truth, seeds, generator)
        wide = slopes("interaction", seen)
        tally.note("interaction claimed", not wide.refused("interaction"))
        if interaction:
            tally.interval(
                "interaction", wide.exponents["interaction"], interaction, wide.refused("interaction")
            )
        else:
            law = slopes("tasks", seen)
            for name, known in (("parameters", 0.22), ("growth with tasks", 0.56)):
                tally.interval(name, law.exponents[name], known, law.refused(name))
    return tally.shares()


def elasticity_coverage(
    actor: float, critic: float, seeds: int, sweeps: int, generator: np.random.Generator
) -> Shares:
    """A 5 x 5 grid of actor and critic sizes."""
    tally = Tally()
    for _ in range(sweeps):
        line = slopes(
            "elasticities", planted.points(*planted.actor_and_critic(actor, critic), seeds, generator)
        )
        tally.interval("actor", line.exponents["actor"], actor, line.refused("actor"))
        tally.interval("critic", line.exponents["critic"], critic, line.refused("critic"))
        gap = critic_minus_actor(line)
        if actor == critic:
            tally.note("different claimed", gap.clear)
        else:
            tally.note("critic larger claimed", gap.low > 0)
    return tally.shares()


def collapse_coverage(share: Array, seeds: int, sweeps: int, generator: np.random.Generator) -> Shares:
    """Runs that collapse: the slope of the others, and whether the rate is said to change with size."""
    tally, failure = Tally(), 0.3 * (planted.SIZES / planted.SMALLEST) ** -0.3
    for _ in range(sweeps):
        seen, lost = planted.with_collapses(failure, share, seeds, generator)
        others = seen.where(~lost)
        line = slopes("slope", others)
        if not line.refusal:
            tally.interval(
                "slope of the others", line.exponents["parameters"], 0.3, line.refused("parameters")
            )
        assert seen.strata is not None
        p = rate_trend_p(np.bincount(seen.strata, lost).astype(int).tolist(), [seeds] * len(planted.SIZES))
        tally.note("rate changes with size claimed", p < 0.05)
    return tally.shares()


def curve_coverage(
    form: str, seeds: int, sweeps: int, generator: np.random.Generator, spread: Any = 0.25
) -> Shares:
    """Laws of learning curves: a of parameters and b of env steps."""
    tally = Tally()
    for _ in range(sweeps):
        law = fit_curves(planted.curves(form, seeds, generator, spread), form, generator)
        for letter, name, known in zip("ab", ("parameters", "steps"), planted.EXPONENTS[form], strict=True):
            found = law.exponent(name)
            refusal = "" if found.clear and found.high - found.low <= WIDEST else "open"
            tally.interval(letter, found, known, refusal)
    return tally.shares()


def time_coverage(exponent: float, seeds: int, sweeps: int, generator: np.random.Generator) -> Shares:
    """The law of D_J in size, two fifths of the runs censored; refused where more than half are."""
    tally = Tally()
    for _ in range(sweeps):
        law = time_law(planted.times(exponent, seeds, generator), 0.5)
        if exponent:
            tally.interval("exponent", law.exponent, exponent, law.refusal)
        elif law.exponent:
            tally.note("exponent claimed", law.exponent.clear)
    return tally.shares()


def update_coverage(
    alpha: float, beta: float, seeds: int, sweeps: int, generator: np.random.Generator
) -> Shares:
    """The law of D_J in samples per env step and size, and what its line claims where size does nothing."""
    tally = Tally()
    for _ in range(sweeps):
        law = update_law(planted.update_times(alpha, beta, seeds, generator), 0.5, generator)
        tally.note("refused", bool(law.refusal))
        if law.refusal:
            continue
        for name, letter, truth in (("sigma", "alpha", alpha), ("N", "beta", beta)):
            if truth:
                tally.interval(letter, law.law[name], truth, law.refused(name))
                tally.note(f"slope of {name} claimed", law.line[name].low > 0)
            else:
                tally.note(f"{letter} claimed", not law.refused(name))
                tally.note(f"slope of {name} claimed", law.line[name].clear)
    return tally.shares()


Case = Callable[[int, int, np.random.Generator], Shares]  # of seeds, sweeps and a generator
RATIO = planted.SIZES / planted.SMALLEST
POWER = 0.3 * RATIO**-0.3
FLOOR = 0.05 + 0.25 * RATIO**-0.4
PLATEAU = np.array([0.3, 0.2, 0.15, 0.15, 0.15])
NOTHING = np.full(5, 0.2)
UNEQUAL = np.geomspace(0.1, 0.7, 5)  # spreads of runs, smallest size first

CASES: dict[str, Case] = {
    "score: iqm": lambda *x: score_coverage(iqm, *x),
    "score: iqm of runs": lambda *x: score_coverage(iqm_of_runs, *x),
    "score: mean": lambda *x: score_coverage(mean, *x),
    "score: improvement": improvement_coverage,
    "slope: power law": lambda *x: line_coverage(POWER, *x),
    "slope: seeds vary more the larger": lambda *x: line_coverage(POWER, *x, UNEQUAL),
    "slope: floor": lambda *x: line_coverage(FLOOR, *x),
    "slope: plateau": lambda *x: line_coverage(PLATEAU, *x),
    "slope: no effect": lambda *x: line_coverage(NOTHING, *x),
    "floor: floor of .05": lambda *x: floor_coverage(FLOOR, 0.4, 0.05, *x),
    "floor: no floor": lambda *x: floor_coverage(POWER, 0.3, 0.0, *x),
    "floor: plateau": lambda *x: floor_coverage(PLATEAU, None, 0.15, *x),
    "floor: no effect": lambda *x: floor_coverage(NOTHING, None, None, *x),
    "tasks: multiply": lambda *x: task_coverage(0.0, *x),
    "tasks: interaction of -.1": lambda *x: task_coverage(-0.1, *x),
    "elasticities: .15, .45": lambda *x: elasticity_coverage(0.15, 0.45, *x),
    "elasticities: .3, .3": lambda *x: elasticity_coverage(0.3, 0.3, *x),
    "collapse: the wider the more": lambda *x: collapse_coverage(planted.COLLAPSED_AT, *x),
    "collapse: a tenth of each size": lambda *x: collapse_coverage(np.full(5, 0.1), *x),
    "curves: additive": lambda *x: curve_coverage("additive", *x),
    "curves: bounded": lambda *x: curve_coverage("bounded", *x),
    "curves: additive, seeds vary more the larger": lambda *x: curve_coverage("additive", *x, UNEQUAL),
    "steps to J: censored": lambda *x: time_coverage(0.3, *x),
    "steps to J: no effect": lambda *x: time_coverage(0.0, *x),
    "steps to J by updates": lambda *x: update_coverage(0.7, 0.5, *x),
    "steps to J by updates: no effect of size": lambda *x: update_coverage(0.7, 0.0, *x),
}


@click.command()
@click.option("--sweeps", default=200, show_default=True)
@click.option(
    "--case", "names", multiple=True, type=click.Choice(list(CASES)), help="Only these.  [default: all]"
)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(sweeps: int, names: tuple[str, ...], path: Path | None) -> None:
    rows = json.loads(path.read_text()) if path and path.exists() and names else []
    for name in names or CASES:
        rows = [row for row in rows if row["case"] != name]
        for seeds in (3, 5, 10):
            shares = CASES[name](seeds, sweeps, np.random.default_rng([list(CASES).index(name), seeds]))
            rows.append({"case": name, "seeds": seeds, "sweeps": sweeps, **shares})
            words = "  ".join(f"{what} {share:.3f}" for what, share in shares.items())
            click.echo(f"{name:46} {seeds:3} seeds  {words}")
            if path:
                path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
