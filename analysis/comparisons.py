"""Pairs of variants compared: differences with intervals, corrected for how many are made; table and figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import figures
from analysis.figures import OKABE_ITO, Row
from analysis.report import Drawing, Table
from analysis.statistics import (
    Interval,
    difference,
    holm,
    improvement_interval,
    interval,
    iqm_of_runs,
)

LEVEL = 0.05  # p, after correction, below which a claim is supported

Scores = NDArray[np.float64]  # [runs, tasks]


@dataclass(frozen=True)
class Comparison:
    """One claim that runs can be asked about; a positive difference is as claimed."""

    claim: str
    found: Interval  # of the difference of IQMs
    improvement: Interval  # P(a run of the first beats one of the second on the same task)
    p: float  # corrected for all comparisons made together
    overlap: bool  # of the two variants' own intervals

    @property
    def supported(self) -> bool:
        return self.found.estimate > 0 and self.p < LEVEL

    @property
    def sentence(self) -> str:
        """The claim with its numbers, and whether the two variants' own intervals overlap."""
        low, high = self.found.low, self.found.high
        line = f"{self.claim}: {self.found.estimate:+.3f} ({low:+.3f} to {high:+.3f}, {p_words(self.p)})"
        if self.supported:
            return line + (
                ", though the two intervals overlap." if self.overlap else "; the intervals are apart."
            )
        return line + ("; the intervals overlap." if self.overlap else ".")

    def summary(self) -> dict[str, object]:
        """Everything to keep, for JSON."""
        return {
            "claim": self.claim, "difference": self.found.estimate, "low": self.found.low, "high": self.found.high,
            "p_holm": self.p, "supported": self.supported, "intervals_overlap": self.overlap,
        }  # fmt: skip


def comparisons(
    pairs: Sequence[tuple[str, Scores, Scores]], generator: np.random.Generator
) -> list[Comparison]:
    """(claim, scores, scores of what it is said to beat), every run in, corrected together after Holm."""
    if not pairs:
        return []
    found = [difference(x, y, iqm_of_runs, generator, resamples=10_000) for _, x, y in pairs]
    corrected = holm(np.array([each.p for each in found]))
    made = []
    for (claim, x, y), each, p in zip(pairs, found, corrected, strict=True):
        a, b = (interval(scores, iqm_of_runs, generator, bounds=(0, 1)) for scores in (x, y))
        overlap = a.low <= b.high and b.low <= a.high
        made.append(Comparison(claim, each, improvement_interval(x, y, generator), float(p), overlap))
    return made


def table(compared: Sequence[Comparison], caption: str) -> Table:
    rows = [
        [
            c.claim,
            f"{c.found.estimate:+.3f}  ({c.found.low:+.3f} to {c.found.high:+.3f})",
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
    header = ["claim", "difference, 95% interval", "p (Holm)", "P(better)", "own intervals", "verdict"]
    return Table(caption, header, rows, texts=(0, 4, 5))


def drawing(compared: Sequence[Comparison], name: str, title: str) -> Drawing:
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


def p_number(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}"[1:] if p < 0.9995 else "1"


def p_words(p: float) -> str:
    return f"p {p_number(p)}" if p < 0.001 else f"p = {p_number(p)}"
