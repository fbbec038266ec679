"""Two scales at once: fields of a colour and a number each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from analysis.figures.style import ON_YELLOW, panel_axes, styled, thousands, top_of, wrapped


@styled
def heat_map(
    actor: Sequence[int], critic: Sequence[int], scores: NDArray[Any], parameters: NDArray[Any]
) -> Figure:
    """Success over actor width (across) and critic width (up), [critic, actor], with lines of equal parameters."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    image = _fields(axis, scores, top_of(float(np.nanmax(scores))))
    if min(scores.shape) > 1 and (parameters > 0).all():
        levels = np.geomspace(parameters.min(), parameters.max(), 6)[1:-1]
        # Between fields parameters are read off on a log scale, as the widths are laid out.
        contours = axis.contour(
            np.log(parameters), levels=np.log(levels), colors="#D55E00", linewidths=1.4, zorder=2
        )
        named = [path for path in contours.get_paths() if np.size(path.vertices)]
        axis.clabel(
            contours, fmt=lambda value: thousands(float(f"{np.exp(value):.2g}"), None), fontsize=8,
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
    figure, axes = panel_axes(len(panels), height=0.9 + 0.42 * len(tasks), share_y=False)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        _fields(axis, values)
        axis.set_title(wrapped(title, len(panels)))
        axis.set_xticks(range(len(widths)), [str(width) for width in widths])
        axis.set_yticks(range(len(tasks)), [str(count) for count in tasks])
        axis.set_xlabel("width")
        axis.set_ylabel("tasks")
    return figure


def _fields(axis: Axes, values: NDArray[Any], top: float = 1.0) -> Any:
    image = axis.imshow(values, origin="lower", cmap="cividis", vmin=0, vmax=top, aspect="auto")
    for row, column in np.ndindex(values.shape):
        if np.isfinite(values[row, column]):
            behind = {
                "facecolor": image.cmap(image.norm(values[row, column])),
                "edgecolor": "none",
                "pad": 1.5,
            }
            ink = "#fefefe" if values[row, column] < 0.55 * top else ON_YELLOW
            number = f"{values[row, column]:.2f}"
            axis.text(column, row, number, ha="center", va="center", color=ink, fontsize=8, bbox=behind)
    axis.grid(visible=False)
    return image
