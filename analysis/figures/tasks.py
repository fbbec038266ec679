"""Success by task: a small panel for each task, of 1 or of 50."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.style import PALE, ends, legend_below, shades_of, styled, thousands
from analysis.variants import Variant, short_name

MOST_COLUMNS = 6
HIGH, WIDE = 0.62, 0.9  # of a panel's cell
INCHES = 1.02  # of a row


@styled
def tasks(
    variants: Sequence[Variant], scale: Callable[[Variant], float], label: str, *, most: int = MOST_COLUMNS
) -> Figure:
    """Success against env steps, a panel per task of one benchmark, a line per variant: the mean over its runs.

    `scale` times env steps per task is what stands along x, named `label`. All panels share one axes, since an axes of
    its own for each of 50 tasks takes seconds to draw.
    """
    names = variants[0].tasks
    columns = min(most, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(8.6, 0.9 + INCHES * rows), layout="constrained")
    axis = figure.subplots()
    corners = np.array([divmod(place, columns)[::-1] for place in range(len(names))]) * [1, -1.0]
    ordered = sorted(variants, key=lambda variant: variant.parameters["total"])
    widest = max(float(v.known_curves()[0].max(initial=0)) * scale(v) for v in ordered) or 1.0
    _frames(axis, corners, [short_name(name) for name in names], thousands(float(f"{widest:.2g}"), None))
    random = np.mean([variant.random for variant in ordered], axis=0)
    known = np.isfinite(random)
    at = corners[known] + np.stack([np.zeros(known.sum()), HIGH * random[known]], axis=1)
    right = np.array([WIDE, 0])
    axis.add_collection(
        LineCollection([[p, p + right] for p in at], colors=PALE, linewidths=0.9, linestyles=[(0, (3, 2))])
    )
    lines: dict[str, Any] = {}
    for variant, colour in zip(ordered, shades_of(len(ordered)), strict=True):
        x, y = _joined(variant, corners, scale(variant) / widest)
        (lines[variant.name],) = axis.plot(x, y, color=colour, lw=1.1)
    axis.set_xlim(-0.16, columns)
    axis.set_ylim(corners[:, 1].min() - 0.12, 1)
    axis.set_axis_off()
    lines = ends(lines)
    if known.any():
        (lines["random policy"],) = axis.plot([], [], color=PALE, lw=0.9, ls=(0, (3, 2)))
    legend_below(figure, lines)
    figure.suptitle(f"success from 0 to 100% against {label}", fontsize=8.5, x=0.02, ha="left")
    return figure


def _joined(variant: Variant, corners: NDArray[Any], scale: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The mean curves of all tasks as one line, broken between panels."""
    curves = variant.curves
    seen = (variant.env_steps >= 0) & np.isfinite(curves).any((0, 2))
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(curves[:, seen]).sum(0)
        means = np.where(counts, np.nansum(curves[:, seen], axis=0) / np.where(counts, counts, 1), np.nan)
    steps = variant.env_steps[seen] / variant.task_count * scale
    gap = np.full((1, len(corners)), np.nan)
    x = np.concatenate([corners[:, 0] + WIDE * steps[:, None], gap])
    y = np.concatenate([corners[:, 1] + HIGH * means, gap])
    return x.T.ravel(), y.T.ravel()


def _frames(axis: Axes, corners: NDArray[Any], names: Sequence[str], end: str) -> None:
    """The lower and left edge of each panel, its task's name, and numbers at the outer panels."""
    lines = [[(x, y + HIGH), (x, y), (x + WIDE, y)] for x, y in corners]
    axis.add_collection(LineCollection(lines, colors=PALE, linewidths=0.6))
    for (x, y), name in zip(corners, names, strict=True):
        title = "\n".join(textwrap.wrap(name.replace("-", "- "), 22)[:2]).replace("- ", "-")
        axis.text(x, y + HIGH + 0.04, title, fontsize=6.5, va="bottom", linespacing=1.0)
        if not x:
            for value in (0, 1):
                axis.text(-0.02, y + HIGH * value, f"{value:.0%}", fontsize=6, ha="right", va="center")
    for x, y in corners[-min(len(corners), int(corners[:, 0].max()) + 1) :]:
        axis.text(x, y - 0.03, "0", fontsize=6, ha="left", va="top")
        axis.text(x + WIDE, y - 0.03, end, fontsize=6, ha="right", va="top")
