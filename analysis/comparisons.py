"""Comparisons of pairs of variants: differences with intervals, corrected for their number; a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import figures
from analysis.exact_tests import holm, p_number, p_words
from analysis.figures import OKABE_ITO, Row
from analysis.report import Drawing, Table
from analysis.statistics import Interval, difference_of, draw, improvement_interval, iqm_of_runs, run_means

RESAMPLES = 4_000  # behind each difference
LEVEL = 0.05  # p, after correction, below which a claim is supported

Scores = NDArray[np.float64]  # [runs, tasks]


@dataclass(frozen=True)
class Pair:
    """A claim to test: that the runs of the first side score higher than those of the second."""

    where: str  # what both sides share: MT10
    better: str  # width 1024
    worse: str
    scores: Scores  # [runs, tasks] of the first side
    others: Scores

    @property
    def claim(self) -> str:
        """The claim in words."""
        return (
            f"{self.where}: {self.better} above {self.worse}"
            if self.where
            else f"{self.better} above {self.worse}"
        )


@dataclass(frozen=True)
class Comparison:
    """A tested claim. A positive difference agrees with it."""

    pair: Pair
    sides: tuple[Interval, Interval]  # the IQM of either
    found: Interval  # of the difference of IQMs
    improvement: Interval  # P(a run of the first beats one of the second on the same task)
    p: float  # corrected for all comparisons made together
    together: int  # comparisons made together

    @property
    def claim(self) -> str:
        """The claim in words."""
        return self.pair.claim

    @property
    def overlap(self) -> bool:
        """Whether the two sides' own intervals overlap."""
        a, b = self.sides
        return bool(a.low <= b.high and b.low <= a.high)

    @property
    def supported(self) -> bool:
        """Whether the runs support the claim: a positive difference, and a corrected p below LEVEL."""
        return self.found.estimate > 0 and self.p < LEVEL

    @property
    def sentence(self) -> str:
        """A sentence for a paper: IQMs, n, difference, interval, test, correction."""
        a, b = self.sides
        corrected = f" after Holm's correction for {self.together} comparisons" if self.together > 1 else ""
        before = f"{self.pair.where}, " if self.pair.where else ""
        return (
            f"{before}{self.pair.better} against {self.pair.worse}: IQM of success {a.estimate:.3f} (n = {a.runs}) "
            f"against {b.estimate:.3f} (n = {b.runs}), difference {self.found.estimate:+.3f} (95% interval "
            f"{self.found.low:+.3f} to {self.found.high:+.3f}; {self.found.method} test, {p_words(self.p)}{corrected})."
        )

    def summary(self) -> dict[str, object]:
        """The comparison as JSON."""
        return {
            "claim": self.claim, "sentence": self.sentence, "iqm": [side.estimate for side in self.sides],
            "runs": [side.runs for side in self.sides], "difference": self.found.estimate, "low": self.found.low,
            "high": self.found.high, "test": self.found.method, "p_holm": self.p, "supported": self.supported,
            "intervals_overlap": self.overlap,
        }  # fmt: skip


def comparisons(pairs: Sequence[Pair], generator: np.random.Generator) -> list[Comparison]:
    """The comparison of each pair, of all runs, with Holm's correction for all pairs together."""
    if not pairs:
        return []
    of = {id(scores): scores for pair in pairs for scores in (pair.scores, pair.others)}
    drawn = {
        key: draw(run_means(scores), iqm_of_runs, generator, resamples=RESAMPLES)
        for key, scores in of.items()
    }  # once for each side, however many pairs it is in
    sides = [(drawn[id(pair.scores)], drawn[id(pair.others)]) for pair in pairs]
    found = [difference_of(x, y, bounds=(-1, 1)) for x, y in sides]
    corrected = holm(np.array([each.p for each in found]))
    return [
        Comparison(
            pair,
            (x.interval(bounds=(0, 1)), y.interval(bounds=(0, 1))),
            each,
            improvement_interval(pair.scores, pair.others, generator),
            float(p),
            len(pairs),
        )
        for pair, (x, y), each, p in zip(pairs, sides, found, corrected, strict=True)
    ]


def table(compared: Sequence[Comparison], caption: str) -> Table:
    """A table with a row for each comparison."""
    rows = [
        [
            c.claim,
            f"{c.found.estimate:+.3f}  ({c.found.low:+.3f} to {c.found.high:+.3f})",
            c.found.method,
            p_number(c.p),
            f"{c.improvement.estimate:.2f}"
            + (
                ""
                if np.isnan(c.improvement.low)
                else f"  ({c.improvement.low:.2f} – {c.improvement.high:.2f})"
            ),
            "overlap" if c.overlap else "apart",
            "supported" if c.supported else "not supported",
        ]
        for c in compared
    ]
    header = [
        "claim",
        "difference, 95% interval",
        "test",
        "p (Holm)",
        "P(better)",
        "own intervals",
        "verdict",
    ]
    return Table(caption, header, rows, texts=(0, 2, 5, 6))


def drawing(compared: Sequence[Comparison], name: str, title: str) -> Drawing:
    """A forest plot of the differences; `name` is that of its files."""
    rows = [
        Row(f"{c.claim}  (n = {c.found.runs})", c.found.estimate, c.found.low, c.found.high,
            colour=OKABE_ITO[2] if c.supported else OKABE_ITO[1])
        for c in compared
    ]  # fmt: skip
    caption = (
        "Differences of IQMs with 95% intervals (each by itself), n runs at least on either side. Green: supported "
        f"after correction for all {len(compared)} comparisons; orange: not. The dashed line is no difference."
    )
    return Drawing(name, title, caption, figures.forest(rows, label="difference in success", line=0))
