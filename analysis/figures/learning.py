"""Curves over env steps: success by task, and other measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from analysis.figures.sizes import Series, spread, thin
from analysis.figures.style import (
    DIVERGED,
    MANY_LINES,
    columns_of,
    ends,
    legend_below,
    panel_axes,
    random_policy,
    shades_of,
    styled,
    success_axis,
    thousands,
    top_of,
    wrapped,
)
from analysis.variants import Variant, short_name

BAND_FROM = 3  # runs; a band of two would fill what lies between them
FEW_BANDS = 5  # lines; the bands of more would hide one another
FEW_TASKS = 4  # a benchmark of more shows the mean over its tasks


@styled
def learning_curves(
    variants: Sequence[Variant],
    scale: Callable[[Variant], float] = lambda variant: 1.0,
    label: str = "env steps per task",
) -> Figure:
    """Success against env steps per task, one line per variant: the mean over its runs, in a band that spans them.

    Two runs are thin lines, not a band. One panel per task, or, for a benchmark of many tasks, one panel of the mean
    over tasks. The dashed line is the uniform random policy. `scale` times the steps is what stands along x.
    """
    panels: list[tuple[str, int | None]] = []
    for variant in {variant.benchmark: variant for variant in variants}.values():
        places: list[int | None] = (
            [None] if len(variant.tasks) > FEW_TASKS else list(range(len(variant.tasks)))
        )
        panels += [(variant.benchmark, place) for place in places]
    figure, axes = panel_axes(len(panels), height=2.5)
    # the same name is the same colour in every panel, whatever its tasks add to it
    sizes: dict[str, int] = {}
    for variant in sorted(variants, key=lambda variant: variant.parameters["total"]):
        sizes.setdefault(variant.name, variant.parameters["total"])
    shades = dict(zip(sizes, shades_of(len(sizes)), strict=True))
    names: dict[str, Any] = {}
    dashed: dict[str, Any] = {}
    for axis, (benchmark, place) in zip(axes, panels, strict=True):
        group = [variant for variant in variants if variant.benchmark == benchmark]
        for variant in group:
            names[variant.name] = _curve(
                axis, variant, place, shades[variant.name], scale(variant), band=len(sizes) <= FEW_BANDS
            )
        random = float(
            np.mean([variant.random.mean() if place is None else variant.random[place] for variant in group])
        )
        dashed |= random_policy(axis, random)
        title = _panel_title(group[0], place, alone=len({name for name, _ in panels}) == 1)
        axis.set_title(wrapped(title, len(panels)), fontsize=9)
        axis.set_xlabel(label)
        axis.xaxis.set_major_formatter(FuncFormatter(thousands))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_xlim(left=0)
    top = top_of(max(axis.dataLim.ymax for axis in axes))
    for axis in axes:
        success_axis(axis, top)
    axes[0].set_ylabel("success")
    if len(names) > MANY_LINES:  # too many to name: the ends and the middle tell the order
        ordered = list(sizes)
        names = {
            f"{thousands(float(f'{sizes[name]:.2g}'), None)} parameters": Line2D([], [], color=shades[name])
            for name in (ordered[0], ordered[len(ordered) // 2], ordered[-1])
        }
    legend_below(figure, names | dashed)
    return figure


def _curve(axis: Axes, variant: Variant, place: int | None, colour: str, scale: float, *, band: bool) -> Any:
    steps, curves = variant.known_curves(place)
    steps = steps * scale
    (line,) = axis.plot(steps, np.nanmean(curves, axis=0), color=colour)
    if 1 < len(curves) < BAND_FROM and band:
        thin(axis, steps, curves, colour)
    elif len(curves) > 1 and band:
        axis.fill_between(steps, np.nanmin(curves, 0), np.nanmax(curves, 0), color=colour, alpha=0.15, lw=0)
    for curve in curves[variant.diverged_runs]:
        if len(ends := np.flatnonzero(np.isfinite(curve))):
            axis.plot(steps[ends[-1]], curve[ends[-1]], "x", color=DIVERGED, ms=6, mew=1.5)
    return line


def _panel_title(variant: Variant, place: int | None, *, alone: bool) -> str:
    """The panel's task, with its benchmark unless that is the figure's only one; or the benchmark."""
    if place is None:
        return variant.benchmark if "+" not in variant.benchmark else f"{len(variant.tasks)} tasks, mean"
    task = short_name(variant.tasks[place])
    return task if alone or len(variant.tasks) == 1 else f"{task} in {short_name(variant.benchmark)}"


@styled
def measures(panels: Mapping[str, Sequence[Series]], label: str = "env steps per task") -> Figure:
    """Curves over env steps, one panel per measure with a scale of its own; one legend for all."""
    figure, axes = panel_axes(len(panels), height=2.3, share_y=False)
    names: dict[str, Any] = {}
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        shades = shades_of(len(group))
        for series, colour in zip(group, shades, strict=True):
            (names[series.label],) = axis.plot(series.sizes, series.scores, color=colour, lw=1.5)
            spread(axis, series, colour)
        axis.set_title(wrapped(title, len(panels)), fontsize=8.5)
        axis.xaxis.set_major_formatter(FuncFormatter(thousands))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if axis.dataLim.ymin >= 0:
            axis.set_ylim(bottom=0)
        if title.startswith("dormant"):
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axis in axes[-columns_of(len(panels)) :]:
        axis.set_xlabel(label)
    legend_below(figure, ends(names))
    return figure
