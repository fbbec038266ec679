"""The figures, as matplotlib `Figure`s of one style. Nothing here computes: what is drawn is handed in.

Axes and text have the colour INK, which `svg` turns into the colour of the page's text, so that one drawing reads in
light, in dark and in print. Data colours are the colour-blind safe set of Okabe and Ito (2008); sizes, being
ordered, run along a part of matplotlib's viridis that shows on white and on black.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from analysis.cells import Cell

P = ParamSpec("P")

INK = "#1b1c1d"  # a colour that nothing else has
FEW_TASKS = 4  # a benchmark of more shows the mean over its tasks
MANY_LINES = 10
PALE = "#8a8f98"  # lines of reference: reads on white and on black
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A000")
BENCHMARK_COLOURS = {"MT10": "#0072B2", "MT25": "#D55E00", "MT50": "#009E73"}

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": PALE,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: it can be searched and copied
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """`draw` under STYLE, and matplotlib's own settings as they were afterwards."""

    @wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **options)

    return drawn


@styled
def learning_curves(cells: Sequence[Cell]) -> Figure:
    """Success against env steps per task, one line per cell: the mean over its runs, in a band that spans them.

    One panel per task, or, for a benchmark of many tasks, one panel of the mean over tasks. The dashed line is the
    uniform random policy.
    """
    panels: list[tuple[str, int | None]] = []
    for cell in {cell.benchmark: cell for cell in cells}.values():
        places: list[int | None] = [None] if len(cell.tasks) > FEW_TASKS else list(range(len(cell.tasks)))
        panels += [(cell.benchmark, place) for place in places]
    figure, axes = _panels(len(panels), height=2.5)
    sizes: dict[
        str, int
    ] = {}  # the same name is the same colour in every panel, whatever its tasks add to it
    for cell in sorted(cells, key=lambda cell: cell.parameters["total"]):
        sizes.setdefault(cell.name, cell.parameters["total"])
    shades = dict(zip(sizes, _shades(len(sizes)), strict=True))
    names: dict[str, Any] = {}
    for axis, (benchmark, place) in zip(axes, panels, strict=True):
        group = [cell for cell in cells if cell.benchmark == benchmark]
        for cell in group:
            names[f"width {cell.name}"] = _curve(axis, cell, place, shades[cell.name])
        random = [cell.random.mean() if place is None else cell.random[place] for cell in group]
        _reference(axis, float(np.mean(random)), "random policy")
        axis.set_title(_panel_title(group[0], place), fontsize=9)
        _success_axis(axis)
        axis.set_xlabel("env steps per task")
        axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_xlim(left=0)
    axes[0].set_ylabel("success")
    if len(names) > MANY_LINES:  # too many to name: the ends and the middle tell the order
        ordered = list(sizes)
        names = {
            f"{_thousands(float(f'{sizes[name]:.2g}'), None)} parameters": Line2D([], [], color=shades[name])
            for name in (ordered[0], ordered[len(ordered) // 2], ordered[-1])
        }
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=min(5, len(names)))
    return figure


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


@styled
def success_against_parameters(
    ours: Sequence[Series], paper: Sequence[Series], *, random: Mapping[str, float] | None = None
) -> Figure:
    """Success against parameters: this study on the left, the paper's curve beside it on the same scale."""
    groups = [group for group in (ours, paper) if group]
    figure, axes = _panels(len(groups), height=3.3, share_y=True)
    for axis, group in zip(axes, groups, strict=True):
        mine = group is ours
        for number, series in enumerate(group):
            colour = BENCHMARK_COLOURS.get(series.label, OKABE_ITO[number % len(OKABE_ITO)])
            _points(axis, series, colour)
        if mine and random:
            for label, value in random.items():
                colour = OKABE_ITO[[series.label for series in ours].index(label) % len(OKABE_ITO)]
                axis.axhline(value, color=colour, lw=1, ls=(0, (4, 3)), alpha=0.8)
            axis.plot([], [], color=PALE, lw=1, ls=(0, (4, 3)), label="random policy")
        axis.set_title("this study" if mine else "the paper (multi-head MLP)")
        axis.set_xscale("log")
        axis.set_xlabel("parameters, actor + critics")
        _success_axis(axis)
        axis.legend(loc="lower right", fontsize=8)
    axes[0].set_ylabel("success at the last evaluation")
    return figure


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
            axis.plot(row.dots, np.full(len(row.dots), place), ".", color=row.colour, alpha=0.4, ms=6, mew=0)
        axis.plot([row.low, row.high], [place, place], color=row.colour, lw=2.6, solid_capstyle="butt")
        axis.plot(row.estimate, place, "o", color=row.colour, ms=6)
    if line is not None:
        axis.axvline(line, color=PALE, lw=1.2, ls=(0, (4, 3)))
    axis.set_yticks(range(len(rows)), [row.label for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(label)
    return figure


@styled
def lines(
    panels: Mapping[str, Sequence[Series]], *, x: str, y: str, log: bool = True, dots: bool = True
) -> Figure:
    """One panel per title, one line per series, with a band where it has an interval; x on a log scale."""
    figure, axes = _panels(len(panels), height=2.8)
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        ordered = len(group) > 3 and not any(series.label in BENCHMARK_COLOURS for series in group)
        shades = _shades(len(group))
        for number, series in enumerate(group):
            plain = shades[number] if ordered else OKABE_ITO[number % len(OKABE_ITO)]
            colour = BENCHMARK_COLOURS.get(series.label, plain)
            style = "o-" if dots else "-"
            axis.plot(series.sizes, series.scores, style, ms=4, color=colour, label=series.label, lw=1.5)
            if series.low is not None and series.high is not None:
                axis.fill_between(series.sizes, series.low, series.high, color=colour, alpha=0.15, lw=0)
        axis.set_title(title)
        axis.set_xlabel(x)
        if log:
            axis.set_xscale("log")
            ticks = sorted({float(size) for series in group for size in series.sizes})
            if len(ticks) <= 6:
                axis.set_xticks(
                    ticks, [_thousands(tick, None) if tick >= 1e4 else f"{tick:g}" for tick in ticks]
                )
                axis.minorticks_off()
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if len(group) <= MANY_LINES:
            axis.legend(fontsize=8, loc="best")
    axes[0].set_ylabel(y)
    return figure


@styled
def heat_map(
    actor: Sequence[int], critic: Sequence[int], scores: NDArray[Any], parameters: NDArray[Any]
) -> Figure:
    """Success over actor width (across) and critic width (up), [critic, actor], with lines of equal parameters."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(scores, origin="lower", cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(scores.shape):
        if np.isfinite(scores[row, column]):
            ink = "white" if scores[row, column] < 0.55 else "black"
            axis.text(
                column, row, f"{scores[row, column]:.2f}", ha="center", va="center", color=ink, fontsize=8
            )
    if min(scores.shape) > 1 and np.isfinite(parameters).all():
        levels = np.geomspace(parameters.min(), parameters.max(), 6)[1:-1]
        contours = axis.contour(parameters, levels=levels, colors="white", linewidths=1, linestyles="dashed")
        axis.clabel(contours, fmt=lambda value: _thousands(float(f"{value:.2g}"), None), fontsize=7)
    axis.set_xticks(range(len(actor)), [str(width) for width in actor])
    axis.set_yticks(range(len(critic)), [str(width) for width in critic])
    axis.grid(visible=False)
    axis.set_xlabel("actor width")
    axis.set_ylabel("critic width")
    figure.colorbar(image, ax=axis, label="success", format=PercentFormatter(1, decimals=0))
    return figure


@styled
def residuals(groups: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    """Fitted minus seen, in logits, against parameters: a law that bends away from its points shows here."""
    figure, (axis,) = _panels(1, height=2.4)
    for number, (label, (sizes, values)) in enumerate(groups.items()):
        colour = BENCHMARK_COLOURS.get(label, OKABE_ITO[number % len(OKABE_ITO)])
        axis.plot(sizes, values, "o", ms=4, color=colour, alpha=0.7, label=label)
    axis.axhline(0, color=PALE, lw=1.2, ls=(0, (4, 3)))
    axis.set_xscale("log")
    axis.set_xlabel("parameters, actor + critics")
    axis.set_ylabel("fitted - seen, logits")
    axis.legend(fontsize=8)
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element to stand inside a page: text as text, colours that follow the page, own ids."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    width = f"{72 * figure.get_figwidth() * 4 / 3:.0f}px"
    return re.sub(
        r'<svg (.*?)>', lambda tag: f'<svg style="width:100%;max-width:{width};height:auto" {_unsized(tag[1])}>', text,
        count=1, flags=re.S,
    )  # fmt: skip


def write(figure: Figure, folder: Path, name: str) -> None:
    """`<name>.svg` and `<name>.png` in `folder`, on white."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        for suffix, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
            figure.savefig(folder / f"{name}.{suffix}", facecolor="white", **options)


def _unsized(attributes: str) -> str:
    return re.sub(r'\s*\b(width|height)="[^"]*"', "", attributes)


def _panels(number: int, *, height: float, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    columns = min(number, 3)
    rows = -(-number // columns)
    figure = Figure(figsize=(8.6, 0.5 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes = list(grid.ravel())
    for spare in axes[number:]:
        spare.remove()
    return figure, axes[:number]


def _curve(axis: Axes, cell: Cell, place: int | None, colour: str) -> Any:
    known = cell.env_steps >= 0
    steps = cell.env_steps[known] / len(cell.tasks)
    curves = cell.curves.mean(-1) if place is None else cell.curves[:, :, place]
    curves = curves[:, known]
    (line,) = axis.plot(steps, np.nanmean(curves, axis=0), color=colour)
    if len(curves) > 1:
        axis.fill_between(steps, np.nanmin(curves, 0), np.nanmax(curves, 0), color=colour, alpha=0.15, lw=0)
    return line


def _points(axis: Axes, series: Series, colour: str) -> None:
    if series.dots:
        axis.plot(*series.dots, ".", color=colour, alpha=0.45, ms=5, mew=0)
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


def _reference(axis: Axes, value: float, label: str) -> None:
    axis.axhline(value, color=PALE, lw=1.2, ls=(0, (4, 3)))
    axis.annotate(
        label, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
        ha="right", va="bottom", fontsize=7.5,
    )  # fmt: skip


def _success_axis(axis: Axes) -> None:
    axis.set_ylim(-0.03, 1.04)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _shades(count: int) -> list[str]:
    places = np.linspace(0.15, 0.85, count) if count > 1 else [0.45]
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in places]


def _thousands(value: float, _: Any) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _panel_title(cell: Cell, place: int | None) -> str:
    if place is None:
        return cell.benchmark if "+" not in cell.benchmark else f"{len(cell.tasks)} tasks, mean"
    task = short_name(cell.tasks[place])
    return task if len(cell.tasks) == 1 else f"{task}\nin {short_name(cell.benchmark)}"


def short_name(benchmark: str) -> str:
    """`drawer-close + reach` for `drawer-close-v3+reach-v3`."""
    return " + ".join(task.removesuffix("-v3") for task in benchmark.split("+"))
