"""What all figures share: colours, matplotlib's settings, panels, axes, legends.

Axes and text have the colour INK, which `svg` turns into the colour of the page's text, so that one drawing reads in
light, in dark and in print. Data colours are the colour-blind safe set of Okabe and Ito (2008); sizes, being
ordered, run along a part of matplotlib's viridis that shows on white and on black.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator, PercentFormatter

P = ParamSpec("P")
G = TypeVar("G")
INK = "#1b1c1d"  # a colour that nothing else has
MANY_LINES = 10
MOST_NAMES = 12  # in a legend
MOST_PANELS = 6
LEGEND_ROW = 0.19  # inches
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
    "axes.titley": 1.0,  # else matplotlib measures every axis again to find it
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


def panel_axes(number: int, *, height: float, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    columns = columns_of(number)
    rows = -(-number // columns)
    figure = Figure(figsize=(8.6, 0.5 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes = list(grid.ravel())
    for spare in axes[number:]:
        spare.remove()
    return figure, axes[:number]


def columns_of(number: int) -> int:
    return 2 if number == 4 else min(number, 3)


def legend_below(figure: Figure, names: Mapping[str, Any]) -> None:
    """One legend for all panels, in as many columns as fit. The figure grows with its rows."""
    names = _few(names)
    letters = round(14 * figure.get_figwidth())  # of a row
    columns = max(1, min(len(names), letters // (8 + max(map(len, names)))))
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)  # rows of about one length
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows - 1))
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=columns)


def named(axis: Axes) -> dict[str, Any]:
    """{label: what bears it}, each label once."""
    handles, labels = axis.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def _few(names: Mapping[str, Any]) -> dict[str, Any]:
    """The first of many names, how many more there are, and the last: the paper's, where it is among them."""
    order = sorted(names, key=lambda name: name.startswith(PAPER))
    if len(order) <= MOST_NAMES:
        return dict(names)
    first = {name: names[name] for name in order[: MOST_NAMES - 2]}
    more = f"and {len(order) - len(first) - 1} more"
    return {**first, more: Line2D([], [], ls=""), order[-1]: names[order[-1]]}


def first_panels(groups: Sequence[G]) -> tuple[Sequence[G], str]:
    """Those of the groups that get a panel, and a sentence where others get none."""
    more = f" The first {MOST_PANELS} of {len(groups)} are drawn." if len(groups) > MOST_PANELS else ""
    return groups[:MOST_PANELS], more


def ends(names: Mapping[str, Any]) -> dict[str, Any]:
    """Of many lines, which are in order, the ends and the middle tell the order."""
    if len(names) <= MANY_LINES:
        return dict(names)
    order = list(names)
    return {name: names[name] for name in (order[0], order[len(order) // 2], order[-1])}


def colours(labels: Sequence[str]) -> list[str]:
    """A benchmark's colour, whatever else its label says; of others, the next one that is free.

    Colours that no benchmark has come first, so that a group has one colour in figures with benchmarks and without.
    """
    own = {label: BENCHMARK_COLOURS.get(benchmark_of(label)) for label in labels}
    unused = [colour for colour in OKABE_ITO if colour not in own.values()]
    free = itertools.cycle(sorted(unused, key=lambda c: c in BENCHMARK_COLOURS.values()) or OKABE_ITO)
    return [PALE if label.startswith(PAPER) else own[label] or next(free) for label in labels]


def shades_of(count: int) -> list[str]:
    places = np.linspace(0.25, 0.85, count) if count > 1 else [0.45]
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in places]


def benchmark_of(label: str) -> str:
    return label.partition("  (")[0]


def random_policy(axis: Axes, success: float) -> dict[str, Any]:
    """A dashed line at the random policy's success, if that is known; {label: line} for the legend."""
    if not np.isfinite(success):
        return {}
    return {"random policy": axis.axhline(success, color=PALE, lw=1.2, ls=(0, (4, 3)))}


def size_axis(axis: Axes) -> None:
    """A log scale with few names, so that they never meet: 1k, 3k, 10k, ..."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(FuncFormatter(thousands))
    axis.xaxis.set_minor_locator(NullLocator())


def top_of(highest: float) -> float:
    """Where an axis of success ends: at 100 %, or lower if all of it is below a half."""
    return 1.0 if highest > 0.5 else max(0.1, float(np.ceil(10 * highest)) / 10)


def success_axis(axis: Axes, top: float = 1.0) -> None:
    axis.set_ylim(-0.03 * top, 1.04 * top)
    axis.yaxis.set_major_locator(MultipleLocator(0.2 if top == 1 else 0.1 if top > 0.2 else 0.05))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def per_cent(value: float, _: Any) -> str:
    return f"{float(f'{100 * value:.2g}'):g}%"


def thousands(value: float, _: Any = None) -> str:
    """`20k`, `3M`; FLOPs as `2e17`."""
    if abs(value) >= 1e9:
        return f"{value:.2g}".replace("e+0", "e").replace("e+", "e")
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def wrapped(title: str, panels: int) -> str:
    """The title in lines that fit one of so many panels."""
    return "\n".join(textwrap.wrap(title, 84 // columns_of(panels))) or title
