"""Our learning curves beside the paper's published curves of the same benchmark and width, with intervals.

The paper publishes the IQM of 10 seeds, not the seeds. The spread of its seeds is known at one step, from a figure's
band (paper/early_mt10.csv), and is assumed for the curve's other steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import figures, paper
from analysis.exact_tests import p_number, p_words
from analysis.figures import Series
from analysis.report import Drawing, Table
from analysis.statistics import Drawn, Interval, difference_of, draw, iqm_of_runs
from analysis.variants import PLAIN, Variant, short_name

IQM_EFFICIENCY = 0.885  # variance of a mean over that of an IQM, of 10 normal values
SEEDS_NEEDED = 2


@dataclass(frozen=True)
class Published:
    """The paper's curve of one benchmark and width."""

    steps: np.ndarray  # env steps, summed over tasks
    success: np.ndarray
    seeds: int
    spread: float  # standard deviation between seeds

    def error(self) -> float:
        """The standard error of the published IQMs."""
        return float(self.spread / np.sqrt(self.seeds * IQM_EFFICIENCY))


@dataclass(frozen=True)
class Beside:
    """The success of one variant and of the paper, at the steps that both have."""

    name: str
    steps: np.ndarray
    ours: tuple[Interval, ...]
    theirs: tuple[Interval, ...]
    differences: tuple[Interval, ...]  # ours minus theirs

    @property
    def sentence(self) -> str:
        """A sentence about whether the two differ at the last step."""
        a, b, gap = self.ours[-1], self.theirs[-1], self.differences[-1]
        verb = "differs from" if self.differs else "does not differ from"
        sides = f"IQM {_words(a)}, n = {a.runs}, against {_words(b)}, n = {b.runs}"
        return (
            f"{self.name}, at {self.steps[-1] / 1e6:g}M env steps: our success {verb} the paper's: {sides}; difference "
            f"{_words(gap, sign='+')} (95% intervals; Welch's t test, {p_words(gap.p)})."
        )

    @property
    def differs(self) -> bool:
        """Whether the two differ at the last step, at p < 0.05."""
        return self.differences[-1].p < 0.05


def published() -> dict[tuple[str, int], Published]:
    """{(benchmark, width): the paper's early curve}, where the spread of its seeds is known."""
    found = {}
    for benchmark, rows in paper.by_benchmark("early_mt10").items():
        for width in dict.fromkeys(int(row["width"]) for row in rows):
            own = [row for row in rows if int(row["width"]) == width]
            steps, success = (
                np.array([float(row[name]) for row in own]) for name in ("env_steps", "success_iqm")
            )
            spread = next(float(row["seed_sd"]) for row in own if row["seed_sd"])
            found[benchmark, width] = Published(steps, success, int(own[0]["seeds"]), spread)
    return found


def beside(found: Sequence[Variant], generator: np.random.Generator) -> list[Beside]:
    """The plain variants beside the paper, for each benchmark and width of which the paper publishes a curve."""
    known = published()
    made = []
    for variant in found:
        theirs = known.get((variant.benchmark, variant.width or 0))
        if theirs is None or variant.system != PLAIN or len(variant.seeds) < SEEDS_NEEDED:
            continue
        if compared := _beside(variant, theirs, generator):
            made.append(compared)
    return made


def _beside(variant: Variant, theirs: Published, generator: np.random.Generator) -> Beside | None:
    curves = variant.curves[variant.finished].mean(-1)  # [runs, evaluations]
    places = [(at, np.flatnonzero(variant.env_steps == step)) for at, step in enumerate(theirs.steps)]
    both = [(at, int(here[0])) for at, here in places if len(here) and np.isfinite(curves[:, here[0]]).all()]
    if not both:
        return None
    ours = [draw(curves[:, [e]], iqm_of_runs, generator) for _, e in both]
    error = theirs.error() ** 2
    paper = [Drawn(float(theirs.success[at]), error, theirs.seeds, np.nan, np.nan) for at, _ in both]
    name = f"{short_name(variant.benchmark)}, {variant.name}"
    return Beside(
        name,
        theirs.steps[[at for at, _ in both]],
        tuple(each.interval(bounds=(0, 1)) for each in ours),
        tuple(each.interval(bounds=(0, np.inf)) for each in paper),
        tuple(map(difference_of, ours, paper)),
    )


def sentences(found: Sequence[Beside]) -> tuple[list[str], list[str]]:
    """Which of them differ from the paper, and which are not shown to."""
    return (
        [each.sentence for each in found if each.differs],
        [each.sentence for each in found if not each.differs],
    )


def items(found: Sequence[Beside]) -> list[Table | Drawing]:
    """A figure with both curves, and a table of their differences; nothing if there are none."""
    if not found:
        return []
    panels = {
        each.name: [
            _series(f"{words}  (n = {curve[-1].runs})", each.steps, curve)
            for words, curve in (("ours", each.ours), (figures.PAPER, each.theirs))
        ]
        for each in found
    }
    rows = [
        [each.name, f"{step / 1e6:g}M", _words(a), _words(b), _words(gap, sign="+"), p_number(gap.p)]
        for each in found
        for step, a, b, gap in zip(each.steps, each.ours, each.theirs, each.differences, strict=True)
    ]
    caption = (
        "Our IQM of success and the paper's, each with its 95% interval. The spread of the paper's seeds is known at "
        "one step from its figure's band, and taken for all. p is of one step by itself."
    )
    header = ["variant", "env steps", "ours", "the paper", "difference", "p"]
    drawing = figures.lines(panels, x="env steps", y="success", log=False)
    return [
        Drawing("beside_the_paper", "Beside the paper's curve", caption, drawing),
        Table("The same in numbers.", header, rows, texts=(0,)),
    ]


def _series(label: str, steps: np.ndarray, curve: Sequence[Interval]) -> Series:
    middle, low, high = (
        np.array([getattr(each, name) for each in curve]) for name in ("estimate", "low", "high")
    )
    return Series(label, steps, middle, low, high)


def _words(found: Interval, sign: str = "") -> str:
    return f"{found.estimate:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"
