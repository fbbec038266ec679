"""The law so far: how failure at the last evaluation falls with the parameters, from the runs that are over.

page/laws.json keeps it. It is fitted again only after another run is over, because importing scipy takes a third of a
second.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from slurm.state import read_json, write_json
from sweeps.page.curves import Curve
from sweeps.page.facts import Facts, Variant

FORMAT = 2  # of page/laws.json; another number if another law is fitted or said in other words


@dataclass(frozen=True)
class Law:
    """The law of one benchmark. The line is the power law without a floor, with its pointwise 95 % interval."""

    benchmark: str
    runs: int  # that are over
    of_runs: int  # in the sweep
    points: Sequence[Sequence[float]]  # parameters and failure of each run
    line: Sequence[Sequence[float]]  # parameters, failure, low, high; empty if the fit was refused
    words: str


def laws(facts: Facts) -> list[Law]:
    """One law for each benchmark that has several sizes, in the order of the sweep."""
    groups: dict[str, list[tuple[Variant, list[Curve]]]] = defaultdict(list)
    for variant, curves in facts.variants:
        groups[variant.benchmark].append((variant, curves))
    several = {name: group for name, group in groups.items() if len({v.parameters for v, _ in group}) > 1}
    ended = [(v, [curve.success[-1:] for curve in curves if curve.ended]) for v, curves in facts.variants]
    made_from = hashlib.sha256(f"{FORMAT} {ended}".encode()).hexdigest()
    path = facts.sweep / "page" / "laws.json"
    known = read_json(path) or {}
    if known.get("made_from") == made_from:
        return [Law(**law) for law in known["laws"]]
    found = [law for name, group in several.items() if (law := _law(name, group))]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"made_from": made_from, "laws": [asdict(law) for law in found]})
    return found


def _law(benchmark: str, group: Sequence[tuple[Variant, list[Curve]]]) -> Law | None:
    import numpy as np

    from analysis.scaling_laws import Points
    from analysis.slopes import slopes

    ended = [
        (variant, number, 1 - curve.success[-1])
        for number, (variant, curves) in enumerate(group)
        for curve in curves
        if curve.ended and curve.success
    ]
    if not ended:
        return None
    parameters = np.array([variant.parameters for variant, _, _ in ended])
    failure = np.array([value for _, _, value in ended])
    trials = np.array([variant.episodes * variant.tasks for variant, _, _ in ended])
    strata = np.array([number for _, number, _ in ended])
    line = slopes("slope", Points({"parameters": parameters}, 1 - failure, trials, strata, single_runs=True))
    of_runs = sum(variant.runs for variant, _ in group)
    known = f"{len(ended):,} of {of_runs:,} runs"
    if line.refusal:
        words = f"no law yet from {known}: {line.refusal}"
        drawn = []
    else:
        a = line.exponents["parameters"]
        doubt = line.refused("parameters")
        words = (
            f"failure goes as N^-a with a = {a.value:z.3f} ({interval_words(a.low, a.high)}), from {known}"
        )
        words += f"; not established: {doubt}" if doubt else ""
        at = np.geomspace(parameters.min(), parameters.max(), 24)
        low, high = line.band(parameters=at)
        drawn = list(
            zip(at.tolist(), line.failure(parameters=at).tolist(), low.tolist(), high.tolist(), strict=True)
        )
    least = 0.5 / (trials + 1)  # as the fit counts a run without a failure
    points = list(zip(parameters.tolist(), np.maximum(failure, least).tolist(), strict=True))
    return Law(benchmark, len(ended), of_runs, points, drawn, words)


def interval_words(low: float, high: float) -> str:
    """The interval of an exponent by significant digits, so that an end near 0 keeps its sign."""
    return f"95 % interval {low:z.2g} to {high:z.2g}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`: 1, 2 and 5 times powers of ten, or even steps if the two are close."""
    if high < 8 * low:
        step = next(step for step in _round_numbers((high - low) / 6, high) if step >= (high - low) / 6)
        return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [value for value in _round_numbers(low, high) if low <= value <= high]


def _round_numbers(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
