"""Estimates with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.style import OKABE_ITO, PALE, styled


@dataclass(frozen=True)
class Row:
    """A line of a forest: an estimate with its interval and, where there are, the single runs."""

    label: str
    estimate: float
    low: float
    high: float
    dots: NDArray[Any] | None = None
    colour: str = OKABE_ITO[0]


@styled
def forest(rows: Sequence[Row], *, label: str, line: float | None = None) -> Figure:
    """Estimates with their intervals, one below the other; `line` marks what means no effect."""
    figure = Figure(figsize=(8.6, 0.7 + 0.3 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(rows):
        if row.dots is not None:
            heights = place + np.linspace(-0.25, 0.25, len(row.dots))  # apart, so that none hides another
            axis.plot(row.dots, heights, "o", color=row.colour, mfc="none", ms=4, mew=0.9, zorder=3)
        axis.plot([row.low, row.high], [place, place], color=row.colour, lw=2.6, solid_capstyle="butt")
        axis.plot(row.estimate, place, "o", color=row.colour, ms=6)
    if line is not None:
        axis.axvline(line, color=PALE, lw=1.2, ls=(0, (4, 3)))
    axis.set_yticks(range(len(rows)), [row.label for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(label)
    return figure
