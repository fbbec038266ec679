"""Laws and how well they fit: failure, predictions, residuals, profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter
from numpy.typing import NDArray

from analysis.figures.style import (
    OKABE_ITO,
    PALE,
    colours,
    columns_of,
    legend_below,
    named,
    panel_axes,
    per_cent,
    shades_of,
    size_axis,
    styled,
    thousands,
    wrapped,
)


@dataclass(frozen=True)
class Band:
    """A curve with its band, [n] each."""

    sizes: NDArray[Any]
    middle: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]


@dataclass(frozen=True)
class Failure:
    """One panel: runs by size, and the laws over them where there are any."""

    sizes: NDArray[Any]
    rates: NDArray[Any]
    line: Band | None
    floor: Band | None


@styled
def failure(panels: Mapping[str, Failure], x: str = "parameters, actor + critics") -> Figure:
    """Failure against parameters on logarithmic axes: runs, and both laws in their bands."""
    figure, axes = panel_axes(len(panels), height=2.9, share_y=False)
    names: dict[str, Any] = {}
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        (names["run"],) = axis.plot(
            panel.sizes, panel.rates.clip(1e-4), "o", ms=4, color=PALE, alpha=0.8, mew=0
        )
        for band, colour, style, word in (
            (panel.line, OKABE_ITO[0], "-", "over the measured sizes"),
            (panel.floor, OKABE_ITO[1], (0, (5, 2)), "with a free floor"),
        ):
            if band is not None:
                (names[word],) = axis.plot(band.sizes, band.middle, color=colour, ls=style, lw=1.8)
                axis.fill_between(band.sizes, band.low, band.high, color=colour, alpha=0.15, lw=0)
        axis.set_yscale("log")
        seen = panel.rates.clip(1e-4)
        edge = (seen.max() / seen.min()) ** 0.15 * 1.02
        axis.set_ylim(seen.min() / edge, min(1.05, seen.max() * edge))
        axis.yaxis.set_major_formatter(FuncFormatter(per_cent))
        axis.yaxis.set_minor_formatter(FuncFormatter(per_cent if seen.max() < 8 * seen.min() else _nothing))
        axis.tick_params(axis="y", which="minor", labelsize=7.5)
        size_axis(axis)
        axis.set_title(wrapped(title, len(panels)), fontsize=9)
        axis.set_xlabel(x)
    for axis in axes[:: columns_of(len(panels))]:
        axis.set_ylabel("failure")
    legend_below(figure, names)
    return figure


def _nothing(value: float, _: Any) -> str:
    return ""


@dataclass(frozen=True)
class Predicted:
    """Success seen and predicted, [n] each, and which points the prediction did not know."""

    seen: NDArray[Any]
    predicted: NDArray[Any]
    left_out: NDArray[Any]


@styled
def extrapolation(groups: Mapping[str, Predicted]) -> Figure:
    """Predicted against seen success; hollow where the law was fitted without the point."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axis = figure.subplots()
    everything = np.concatenate([np.concatenate([g.seen, g.predicted]) for g in groups.values()])
    low, high = everything.min() - 0.02, everything.max() + 0.02
    axis.plot([low, high], [low, high], color=PALE, lw=1.2, ls=(0, (4, 3)))
    for (label, group), colour in zip(groups.items(), colours(list(groups)), strict=True):
        known = ~group.left_out
        axis.plot(
            group.seen[known], group.predicted[known], "o", ms=4, color=colour, alpha=0.5, mew=0, label=label
        )
        out = f"{label}, left out  (n = {int(group.left_out.sum())})"
        axis.plot(
            group.seen[group.left_out], group.predicted[group.left_out], "o", ms=6, mfc="none", mec=colour, mew=1.4,
            label=out,
        )  # fmt: skip
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("success seen")
    axis.set_ylabel("success predicted")
    legend_below(figure, named(axis))
    return figure


@styled
def profiles_of_fit(lines_of: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    """Against the exponent, how much worse a fit is over what its interval allows (1, dashed)."""
    figure, (axis,) = panel_axes(1, height=2.8)
    for number, (label, (grid, worse)) in enumerate(lines_of.items()):
        style = ("-", (0, (5, 2)), (0, (1, 1.5)))[number // len(OKABE_ITO) % 3]
        axis.plot(grid, worse, color=OKABE_ITO[number % len(OKABE_ITO)], ls=style, lw=1.5, label=label)
    axis.axhline(1, color=PALE, lw=1.2, ls=(0, (4, 3)))
    axis.set_ylim(0, 4)
    inside = np.concatenate([grid[worse <= 2] for grid, worse in lines_of.values()])
    axis.set_xlim(inside.min() - 0.01, inside.max() + 0.01)
    axis.set_xlabel("exponent")
    axis.set_ylabel("worse, over what is allowed")
    legend_below(figure, named(axis))
    return figure


@styled
def residuals(
    groups: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], x: str = "parameters, actor + critics"
) -> Figure:
    """Fitted minus seen, in logits, against parameters: a law that bends away from its points shows here."""
    figure, (axis,) = panel_axes(1, height=2.4)
    for (label, (sizes, values)), colour in zip(groups.items(), colours(list(groups)), strict=True):
        axis.plot(sizes, values, "o", ms=4, color=colour, alpha=0.7, label=f"{label}  (n = {len(values)})")
    axis.axhline(0, color=PALE, lw=1.2, ls=(0, (4, 3)))
    size_axis(axis)
    axis.set_xlabel(x)
    axis.set_ylabel("fitted - seen, logits")
    legend_below(figure, named(axis))
    return figure


@dataclass(frozen=True)
class StepsLine:
    """Env steps to a success of the runs of one size, [n] each, and the law through them."""

    label: str
    sigma: NDArray[Any]
    steps: NDArray[Any]
    censored: NDArray[Any]
    curve: tuple[NDArray[Any], NDArray[Any]]
    known: bool  # whether the law is identified


@styled
def steps_by_updates(panels: Mapping[str, Sequence[StepsLine]]) -> Figure:
    """Env steps against samples per env step on logarithmic axes; triangles are runs that stopped before."""
    figure, axes = panel_axes(len(panels), height=2.8, share_y=False)
    names: dict[str, Any] = {}
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        for line, colour in zip(group, shades_of(len(group)), strict=True):
            for own, marker in ((~line.censored, "o"), (line.censored, "^")):
                axis.plot(line.sigma[own], line.steps[own], marker, ms=4, color=colour, alpha=0.7, mew=0)
            style: Any = "-" if line.known else (0, (4, 3))
            (names[line.label],) = axis.plot(*line.curve, color=colour, lw=1.5, ls=style)
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks = np.unique(np.concatenate([line.sigma for line in group]))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(thousands))
        axis.set_xlabel("samples per env step")
        axis.set_title(wrapped(title, len(panels)), fontsize=9)
    for axis in axes[:: columns_of(len(panels))]:
        axis.set_ylabel("env steps to J")
    legend_below(figure, names)
    return figure
