"""Success and other scores against size, or along any other scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from analysis.figures.style import (
    BENCHMARK_COLOURS,
    DIVERGED,
    PALE,
    PAPER,
    benchmark_of,
    colours,
    columns_of,
    legend_below,
    named,
    panel_axes,
    random_policy,
    shades_of,
    size_axis,
    styled,
    success_axis,
    thousands,
    wrapped,
)


@dataclass(frozen=True)
class Series:
    """Points of one line: sizes, scores, and where known their intervals and a fitted curve."""

    label: str
    sizes: NDArray[Any]
    scores: NDArray[Any]
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None
    curve: tuple[NDArray[Any], NDArray[Any]] | None = None
    dots: tuple[NDArray[Any], NDArray[Any]] | None = None  # single runs
    crosses: tuple[NDArray[Any], NDArray[Any]] | None = None  # of these, the diverged ones
    runs: NDArray[Any] | None = None  # curves of single runs [runs, n]: thin lines in place of a band


@styled
def success_against_parameters(
    panels: Mapping[str, Sequence[Series]],
    *,
    random: Mapping[str, float] | None = None,
    x: str = "parameters, actor + critics",
) -> Figure:
    """Success against parameters, a panel per title; `random` has the random policy's success by title."""
    names: dict[str, Any] = {}
    dashed: dict[str, Any] = {}
    figure, axes = panel_axes(len(panels), height=3.3, share_y=True)
    labels = list(dict.fromkeys(series.label for group in panels.values() for series in group))
    palette = dict(zip(labels, colours(labels), strict=True))
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        for series in group:
            _points(axis, series, palette[series.label])
        dashed |= random_policy(axis, (random or {}).get(title, np.nan))
        axis.set_title(wrapped(title, len(panels)))
        size_axis(axis)
        axis.set_xlabel(x)
        success_axis(axis)
        names |= named(axis)
    legend_below(figure, names | dashed)
    for axis in axes[:: columns_of(len(panels))]:
        axis.set_ylabel("success")
    return figure


def _points(axis: Axes, series: Series, colour: str) -> None:
    if series.dots:
        axis.plot(*series.dots, ".", color=colour, alpha=0.45, ms=5, mew=0)
    if series.crosses and len(series.crosses[0]):
        axis.plot(*series.crosses, "x", color=DIVERGED, ms=6, mew=1.5, label="diverged run")
    style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 5}
    if series.low is not None and series.high is not None and np.isfinite(series.low).any():
        below, above = series.scores - series.low, series.high - series.scores
        axis.errorbar(series.sizes, series.scores, np.nan_to_num([below, above]), ls="", lw=1.2, **style)
        axis.plot([], [], label=series.label, ls="", **style)
    else:
        axis.plot(
            series.sizes, series.scores, ls="" if series.curve else "-", lw=1, label=series.label, **style
        )
    if series.curve:
        axis.plot(*series.curve, color=colour, lw=1.4)


def spread(axis: Axes, series: Series, colour: str) -> None:
    """The band of a line, or its runs as thin lines."""
    if series.runs is not None:
        thin(axis, series.sizes, series.runs, colour)
    elif series.low is not None and series.high is not None:
        axis.fill_between(series.sizes, series.low, series.high, color=colour, alpha=0.15, lw=0)


def thin(axis: Axes, x: NDArray[Any], curves: NDArray[Any], colour: str) -> None:
    """Single runs [runs, n] as thin lines."""
    paths = [np.stack([x, curve], axis=-1)[np.isfinite(curve)] for curve in curves]
    axis.add_collection(LineCollection(paths, colors=colour, linewidths=0.6, alpha=0.7))


@styled
def lines(
    panels: Mapping[str, Sequence[Series]], *, x: str, y: str, log: bool = True, dots: bool = True
) -> Figure:
    """One panel per title, one line per series, with a band where it has an interval; x on a log scale."""
    figure, axes = panel_axes(len(panels), height=2.8)
    palette = _palette([series.label for group in panels.values() for series in group])
    names: dict[str, Any] = {}
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        for series in group:
            colour = palette[series.label]
            style = "o-" if dots else "-"
            axis.plot(series.sizes, series.scores, style, ms=4, color=colour, label=series.label, lw=1.5)
            spread(axis, series, colour)
        axis.set_title(wrapped(title, len(panels)))
        axis.set_xlabel(x)
        if log:
            _log_axis(axis, sorted({float(size) for series in group for size in series.sizes}))
        else:
            axis.xaxis.set_major_formatter(FuncFormatter(thousands))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        names |= named(axis)
    if names:
        legend_below(figure, names)
    for axis in axes[:: columns_of(len(panels))]:
        axis.set_ylabel(y)
    return figure


def _palette(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label: shades where many lines are in order, else colours that are told apart."""
    labels = list(dict.fromkeys(labels))
    ordered = len(labels) > 3 and not any(benchmark_of(label) in BENCHMARK_COLOURS for label in labels)
    shades = shades_of(len(labels)) if ordered else colours(labels)
    return {
        label: PALE if label.startswith(PAPER) else shade for label, shade in zip(labels, shades, strict=True)
    }


def _log_axis(axis: Axes, sizes: Sequence[float]) -> None:
    """A log scale that names the sizes themselves where they are few."""
    size_axis(axis)
    if len(sizes) <= 7:
        axis.set_xticks(
            sizes, [thousands(float(f"{size:.3g}")) if size >= 1e4 else f"{size:g}" for size in sizes]
        )


@dataclass(frozen=True)
class Rate:
    """A share with its interval at each size, [n] each."""

    label: str
    sizes: NDArray[Any]
    shares: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]


@styled
def rates(panels: Mapping[str, Sequence[Rate]], *, x: str, y: str) -> Figure:
    """Shares of runs with their intervals against size, a panel per title."""
    figure, axes = panel_axes(len(panels), height=2.6, share_y=True)
    names: dict[str, Any] = {}
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        for rate, colour in zip(group, colours([rate.label for rate in group]), strict=True):
            ends = [rate.shares - rate.low, rate.high - rate.shares]
            names[rate.label] = axis.errorbar(
                rate.sizes, rate.shares, ends, fmt="o-", ms=5, lw=1, elinewidth=1.4, color=colour
            )
        size_axis(axis)
        success_axis(axis)
        axis.set_title(wrapped(title, len(panels)))
        axis.set_xlabel(x)
    for axis in axes[:: columns_of(len(panels))]:
        axis.set_ylabel(y)
    legend_below(figure, names)
    return figure
