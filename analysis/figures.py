"""The figures, as matplotlib `Figure`s of one style. What is drawn is handed in; only means and bands are taken here.

Axes and text have the colour INK, which `svg` turns into the colour of the page's text, so that one drawing reads in
light, in dark and in print. Data colours are the colour-blind safe set of Okabe and Ito (2008); sizes, being
ordered, run along a part of matplotlib's viridis that shows on white and on black.
"""

from __future__ import annotations

import io
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from analysis.variants import Variant, short_name

P = ParamSpec("P")

INK = "#1b1c1d"  # a colour that nothing else has
FEW_TASKS = 4  # a benchmark of more shows the mean over its tasks
MANY_LINES = 10
PAPER = "the paper"
DIVERGED = "#b3202a"  # of crosses
ON_YELLOW = "#111111"  # not black: an SVG leaves black out, and the page's own colour would take its place
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
def learning_curves(variants: Sequence[Variant]) -> Figure:
    """Success against env steps per task, one line per variant: the mean over its runs, in a band that spans them.

    One panel per task, or, for a benchmark of many tasks, one panel of the mean over tasks. The dashed line is the
    uniform random policy.
    """
    panels: list[tuple[str, int | None]] = []
    for variant in {variant.benchmark: variant for variant in variants}.values():
        places: list[int | None] = (
            [None] if len(variant.tasks) > FEW_TASKS else list(range(len(variant.tasks)))
        )
        panels += [(variant.benchmark, place) for place in places]
    figure, axes = _panels(len(panels), height=2.5)
    sizes: dict[
        str, int
    ] = {}  # the same name is the same colour in every panel, whatever its tasks add to it
    for variant in sorted(variants, key=lambda variant: variant.parameters["total"]):
        sizes.setdefault(variant.name, variant.parameters["total"])
    shades = dict(zip(sizes, _shades(len(sizes)), strict=True))
    names: dict[str, Any] = {}
    for axis, (benchmark, place) in zip(axes, panels, strict=True):
        group = [variant for variant in variants if variant.benchmark == benchmark]
        for variant in group:
            names[variant.name] = _curve(
                axis, variant, place, shades[variant.name], band=len(sizes) <= MANY_LINES
            )
        random = float(
            np.mean([variant.random.mean() if place is None else variant.random[place] for variant in group])
        )
        if np.isfinite(random):
            _reference(axis, random, "random policy")
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
    _legend_below(figure, names)
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
    crosses: tuple[NDArray[Any], NDArray[Any]] | None = None  # of these, the diverged ones


@styled
def success_against_parameters(
    panels: Mapping[str, Sequence[Series]],
    *,
    random: Mapping[str, float] | None = None,
    x: str = "parameters, actor + critics",
) -> Figure:
    """Success against parameters, a panel per title; `random` has the random policy's success by title."""
    names: dict[str, Any] = {}
    figure, axes = _panels(len(panels), height=3.3, share_y=True)
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        for series, colour in zip(group, _colours([series.label for series in group]), strict=True):
            _points(axis, series, colour)
        if random and np.isfinite(random.get(title, np.nan)):
            _reference(axis, random[title], "random policy")
        axis.set_title(_wrapped(title))
        _size_axis(axis)
        axis.set_xlabel(x)
        _success_axis(axis)
        names |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))  # each name once
    _legend_below(figure, names)
    for axis in axes[:: _columns(len(panels))]:
        axis.set_ylabel("success")
    return figure


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
def failure(panels: Mapping[str, Failure]) -> Figure:
    """Failure against parameters on logarithmic axes: runs, and both laws in their bands."""
    figure, axes = _panels(len(panels), height=2.9, share_y=False)
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
        axis.yaxis.set_major_formatter(FuncFormatter(_per_cent))
        axis.yaxis.set_minor_formatter(FuncFormatter(_per_cent if seen.max() < 8 * seen.min() else _nothing))
        axis.tick_params(axis="y", which="minor", labelsize=7.5)
        _size_axis(axis)
        axis.set_title(_wrapped(title), fontsize=9)
        axis.set_xlabel("parameters, actor + critics")
    for axis in axes[:: _columns(len(panels))]:
        axis.set_ylabel("failure")
    _legend_below(figure, names)
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


@styled
def lines(
    panels: Mapping[str, Sequence[Series]], *, x: str, y: str, log: bool = True, dots: bool = True
) -> Figure:
    """One panel per title, one line per series, with a band where it has an interval; x on a log scale."""
    figure, axes = _panels(len(panels), height=2.8)
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        ordered = len(group) > 3 and not any(
            _benchmark(series.label) in BENCHMARK_COLOURS for series in group
        )
        shades = _shades(len(group)) if ordered else _colours([series.label for series in group])
        for series, shade in zip(group, shades, strict=True):
            colour = PALE if series.label.startswith(PAPER) else shade
            style = "o-" if dots else "-"
            axis.plot(series.sizes, series.scores, style, ms=4, color=colour, label=series.label, lw=1.5)
            if series.low is not None and series.high is not None:
                axis.fill_between(series.sizes, series.low, series.high, color=colour, alpha=0.15, lw=0)
        axis.set_title(_wrapped(title))
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
    image = _fields(axis, scores)
    if min(scores.shape) > 1 and np.isfinite(parameters).all():
        levels = np.geomspace(parameters.min(), parameters.max(), 6)[1:-1]
        # Between fields parameters are read off on a log scale, as the widths are laid out.
        contours = axis.contour(
            np.log(parameters), levels=np.log(levels), colors="#D55E00", linewidths=1.4, zorder=2
        )
        named = [path for path in contours.get_paths() if np.size(path.vertices)]
        axis.clabel(
            contours, fmt=lambda value: _thousands(float(f"{np.exp(value):.2g}"), None), fontsize=8,
            manual=[_between(np.asarray(path.interpolated(8).vertices, float)) for path in named],
        )  # fmt: skip
    axis.set_xticks(range(len(actor)), [str(width) for width in actor])
    axis.set_yticks(range(len(critic)), [str(width) for width in critic])
    axis.set_xlabel("actor width")
    axis.set_ylabel("critic width")
    figure.colorbar(image, ax=axis, label="success", format=PercentFormatter(1, decimals=0))
    return figure


def _between(vertices: NDArray[Any]) -> tuple[float, float]:
    """The point of a line [n, 2] that is farthest from the numbers, which stand at whole coordinates."""
    distance = np.hypot(*(vertices - np.round(vertices)).T)
    x, y = vertices[distance.argmax()]
    return float(x), float(y)


@styled
def maps(panels: Mapping[str, NDArray[Any]], tasks: Sequence[int], widths: Sequence[int]) -> Figure:
    """One panel per title, shares [tasks, widths] as colours and numbers; what is not known stays empty."""
    figure, axes = _panels(len(panels), height=0.9 + 0.42 * len(tasks), share_y=False)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        _fields(axis, values)
        axis.set_title(_wrapped(title))
        axis.set_xticks(range(len(widths)), [str(width) for width in widths])
        axis.set_yticks(range(len(tasks)), [str(count) for count in tasks])
        axis.set_xlabel("width")
        axis.set_ylabel("tasks")
    return figure


def _fields(axis: Axes, values: NDArray[Any]) -> Any:
    image = axis.imshow(values, origin="lower", cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(values.shape):
        if np.isfinite(values[row, column]):
            behind = {
                "facecolor": image.cmap(image.norm(values[row, column])),
                "edgecolor": "none",
                "pad": 1.5,
            }
            ink = "#fefefe" if values[row, column] < 0.55 else ON_YELLOW
            number = f"{values[row, column]:.2f}"
            axis.text(column, row, number, ha="center", va="center", color=ink, fontsize=8, bbox=behind)
    axis.grid(visible=False)
    return image


@styled
def measures(panels: Mapping[str, Sequence[Series]]) -> Figure:
    """Curves over env steps, one panel per measure with a scale of its own; one legend for all."""
    figure, axes = _panels(len(panels), height=2.3, share_y=False)
    names: dict[str, Any] = {}
    for axis, (title, group) in zip(axes, panels.items(), strict=True):
        shades = _shades(len(group))
        for series, colour in zip(group, shades, strict=True):
            (names[series.label],) = axis.plot(series.sizes, series.scores, color=colour, lw=1.5)
            if series.low is not None and series.high is not None:
                axis.fill_between(series.sizes, series.low, series.high, color=colour, alpha=0.15, lw=0)
        axis.set_title(_wrapped(title), fontsize=8.5)
        axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if axis.dataLim.ymin >= 0:
            axis.set_ylim(bottom=0)
        if title.startswith("dormant"):
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axis in axes[-_columns(len(panels)) :]:
        axis.set_xlabel("env steps per task")
    _legend_below(figure, _ends(names))
    return figure


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
    for (label, group), colour in zip(groups.items(), _colours(list(groups)), strict=True):
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
    axis.legend(fontsize=8)
    return figure


@styled
def profiles_of_fit(lines_of: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    """Against the exponent, how much worse a fit is over what its interval allows (1, dashed)."""
    figure, (axis,) = _panels(1, height=2.8)
    for number, (label, (grid, worse)) in enumerate(lines_of.items()):
        style = ("-", (0, (5, 2)), (0, (1, 1.5)))[number // len(OKABE_ITO) % 3]
        axis.plot(grid, worse, color=OKABE_ITO[number % len(OKABE_ITO)], ls=style, lw=1.5, label=label)
    axis.axhline(1, color=PALE, lw=1.2, ls=(0, (4, 3)))
    axis.set_ylim(0, 4)
    inside = np.concatenate([grid[worse <= 2] for grid, worse in lines_of.values()])
    axis.set_xlim(inside.min() - 0.01, inside.max() + 0.01)
    axis.set_xlabel("exponent")
    axis.set_ylabel("worse, over what is allowed")
    axis.legend(fontsize=8)
    return figure


@styled
def residuals(groups: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    """Fitted minus seen, in logits, against parameters: a law that bends away from its points shows here."""
    figure, (axis,) = _panels(1, height=2.4)
    for (label, (sizes, values)), colour in zip(groups.items(), _colours(list(groups)), strict=True):
        axis.plot(sizes, values, "o", ms=4, color=colour, alpha=0.7, label=f"{label}  (n = {len(values)})")
    axis.axhline(0, color=PALE, lw=1.2, ls=(0, (4, 3)))
    _size_axis(axis)
    axis.set_xlabel("parameters, actor + critics")
    axis.set_ylabel("fitted - seen, logits")
    axis.legend(fontsize=8)
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element to stand inside a page: text as text, colours that follow the page, own ids."""
    text = _drawn(figure, name)
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
    paper = '<rect width="100%" height="100%" fill="white"/>'
    text = re.sub(r"(<svg .*?>)", rf"\1{paper}", _drawn(figure, name), count=1, flags=re.S)
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", facecolor="white", dpi=160)


@lru_cache(64)
def _drawn(figure: Figure, name: str) -> str:
    """The figure as an SVG file without a background. Drawn once; its layout is then settled."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")
    return buffer.getvalue()


def _unsized(attributes: str) -> str:
    return re.sub(r'\s*\b(width|height)="[^"]*"', "", attributes)


def _colours(labels: Sequence[str]) -> list[str]:
    """A benchmark's colour, whatever else its label says; of others, the next one that no benchmark here has."""
    own = {label: BENCHMARK_COLOURS.get(_benchmark(label)) for label in labels}
    free = itertools.cycle([colour for colour in OKABE_ITO if colour not in own.values()] or OKABE_ITO)
    return [PALE if label.startswith(PAPER) else own[label] or next(free) for label in labels]


def _benchmark(label: str) -> str:
    return label.partition("  (")[0]


def _columns(number: int) -> int:
    return min(number, 3)


def _legend_below(figure: Figure, names: Mapping[str, Any]) -> None:
    """One legend for all panels, in as many columns as fit."""
    columns = max(1, min(len(names), 120 // (8 + max(map(len, names)))))
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=columns)


def _ends(names: Mapping[str, Any]) -> dict[str, Any]:
    """Of many lines, which are in order, the ends and the middle tell the order."""
    if len(names) <= MANY_LINES:
        return dict(names)
    order = list(names)
    return {name: names[name] for name in (order[0], order[len(order) // 2], order[-1])}


def _panels(number: int, *, height: float, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    columns = _columns(number)
    rows = -(-number // columns)
    figure = Figure(figsize=(8.6, 0.5 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes = list(grid.ravel())
    for spare in axes[number:]:
        spare.remove()
    return figure, axes[:number]


def _curve(axis: Axes, variant: Variant, place: int | None, colour: str, *, band: bool) -> Any:
    steps, curves = variant.known_curves(place)
    (line,) = axis.plot(steps, np.nanmean(curves, axis=0), color=colour)
    if len(curves) > 1 and band:
        axis.fill_between(steps, np.nanmin(curves, 0), np.nanmax(curves, 0), color=colour, alpha=0.15, lw=0)
    for curve in curves[variant.diverged_runs]:
        if len(ends := np.flatnonzero(np.isfinite(curve))):
            axis.plot(steps[ends[-1]], curve[ends[-1]], "x", color=DIVERGED, ms=6, mew=1.5)
    return line


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


def _reference(axis: Axes, value: float, label: str) -> None:
    axis.axhline(value, color=PALE, lw=1.2, ls=(0, (4, 3)))
    axis.annotate(
        label, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
        ha="right", va="bottom", fontsize=7.5,
    )  # fmt: skip


def _size_axis(axis: Axes) -> None:
    """A log scale with few names, so that they never meet: 1k, 3k, 10k, ..."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _success_axis(axis: Axes) -> None:
    axis.set_ylim(-0.03, 1.04)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _shades(count: int) -> list[str]:
    places = np.linspace(0.15, 0.85, count) if count > 1 else [0.45]
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in places]


def _per_cent(value: float, _: Any) -> str:
    return f"{float(f'{100 * value:.2g}'):g}%"


def _nothing(value: float, _: Any) -> str:
    return ""


def _wrapped(title: str, width: int = 38) -> str:
    """The title in lines that fit a panel."""
    return "\n".join(textwrap.wrap(title, width)) or title


def _thousands(value: float, _: Any) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _panel_title(variant: Variant, place: int | None) -> str:
    if place is None:
        return variant.benchmark if "+" not in variant.benchmark else f"{len(variant.tasks)} tasks, mean"
    task = short_name(variant.tasks[place])
    return task if len(variant.tasks) == 1 else f"{task}\nin {short_name(variant.benchmark)}"
