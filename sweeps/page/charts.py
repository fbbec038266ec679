"""Small SVG drawings as text. Names in them are escaped."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import escape

from sweeps.page.curves import Curve
from sweeps.page.facts import Facts, Variant
from sweeps.page.law import Law, ticks

# In the order of viridis, because sizes are ordered too. Each can be seen on white and on black.
SHADES = ("#7a63c4", "#4a7fc1", "#2a979d", "#2fa66f", "#79a82f", "#b39700")
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 34
THIN = 300  # with at most so many runs, each is drawn
NAMED = 8  # variants in a legend, at most
DOTS = 1_000  # runs in the drawing of a law, at most
TOPS = (0.2, 0.4, 1.0)  # of an axis of success: the first that is not below the curves
SPARK = (72, 18)  # width and height
_SPARK_Y = [round(1 + (SPARK[1] - 2) * (1 - hundredth / 100)) for hundredth in range(101)]


def spark(success: Sequence[float]) -> str:
    """The path (for an SVG) of a run's learning curve, as small as a word."""
    step = SPARK[0] / max(1, len(success) - 1)
    points = [f"{int(place * step)} {_SPARK_Y[int(100 * value)]}" for place, value in enumerate(success)]
    if len(points) == 1:
        points.append("3" + points[0][1:])
    return "M" + "L".join(points) if points else ""


def learning_curves(facts: Facts) -> list[tuple[str, str]]:
    """(name, drawing) of each benchmark: every variant's mean, in a band from its worst to its best run."""
    groups: dict[str, list[tuple[Variant, list[Curve]]]] = defaultdict(list)
    for variant, curves in facts.variants:
        if any(curve.success for curve in curves):
            groups[variant.benchmark].append((variant, curves))
    thin = sum(len(curves) for _, curves in facts.variants) <= THIN
    return [(name, _curves(group, facts.random.get(name), thin)) for name, group in groups.items()]


def _curves(group: Sequence[tuple[Variant, list[Curve]]], random: float | None, thin: bool) -> str:
    group = sorted(group, key=lambda item: item[0].parameters)
    seen = [max(curve.success) for _, curves in group for curve in curves if curve.success]
    highest = max(*seen, random or 0)  # in this order, since the random policy's may be NaN
    scale = Scale(
        end=max(variant.env_steps[-1] / variant.tasks for variant, _ in group),
        top=next((top for top in TOPS if round(highest, 3) <= top), TOPS[-1]),
    )
    parts = [_frame(scale)]
    legend = []
    for number, (variant, curves) in enumerate(group):
        shade = SHADES[round(number * (len(SHADES) - 1) / max(1, len(group) - 1))]
        shown = [curve for curve in curves if curve.success]
        if thin:
            paths = [_path(_points(variant, curve, scale)) for curve in shown]
            parts += [f'<path class="thin" stroke="{shade}" d="{path}"/>' for path in paths]
        columns = _columns(shown)
        means, least, most = (
            [_point(variant, place, summary(values), scale) for place, values in columns]
            for summary in (fmean, min, max)
        )
        if len(shown) > 1:
            parts.append(f'<path class="band" fill="{shade}" d="{_path([*least, *reversed(most)])}Z"/>')
        parts.append(f'<path class="mean" stroke="{shade}" d="{_path(means)}"/>')
        legend.append(f'<li><i style="background:{shade}"></i>{escape(variant.label)} ({len(shown)})</li>')
    if len(legend) > NAMED:
        legend = [*legend[: NAMED // 2], f"<li>… {len(legend) - NAMED} more …</li>", *legend[-NAMED // 2 :]]
    if random is not None and math.isfinite(random):
        parts.append(f'<path class="random" d="M{LEFT} {_y(random / scale.top)}H{WIDTH - RIGHT}"/>')
        legend.append('<li><i class="dashes"></i>random policy</li>')
    drawing = _drawing("success against env steps per task", parts)
    return f'{drawing}<ul class="legend">{"".join(legend)}</ul>'


@dataclass(frozen=True)
class Scale:
    """What stands at the right and at the upper edge of a chart of success."""

    end: float  # env steps per task
    top: float  # success


Point = tuple[float, float]


def _point(variant: Variant, evaluation: int, success: float, scale: Scale) -> Point:
    """The position of an evaluation's success in the drawing."""
    steps = variant.env_steps[min(evaluation, len(variant.env_steps) - 1)] / variant.tasks
    return LEFT + (WIDTH - LEFT - RIGHT) * steps / scale.end, _y(success / scale.top)


def _points(variant: Variant, curve: Curve, scale: Scale) -> list[Point]:
    return [_point(variant, at, value, scale) for at, value in zip(curve.places, curve.success, strict=True)]


def _columns(curves: Sequence[Curve]) -> list[tuple[int, list[float]]]:
    """(evaluation, success of the runs) for each evaluation that at least two runs have, or the only run."""
    columns: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for place, value in zip(curve.places, curve.success, strict=True):
            columns[place].append(value)
    return [
        (place, values) for place, values in sorted(columns.items()) if len(values) >= min(2, len(curves))
    ]


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""


def _y(share: float) -> float:
    """The y coordinate at `share` (0 to 1) of the axis, from below."""
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - share), 1)


def _frame(scale: Scale) -> str:
    """Grid lines and numbers of a chart of success against env steps per task."""
    parts = []
    for quarter in range(5):
        y = _y(quarter / 4)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        number = f"{25 * quarter * scale.top:.0f} %"
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number}</text>')
    for quarter in range(5):
        x = LEFT + (WIDTH - LEFT - RIGHT) * quarter / 4
        anchor = "end" if quarter == 4 else "middle"
        parts.append(
            f'<text x="{x:.0f}" y="{HEIGHT - 16}" text-anchor="{anchor}">{_count(scale.end * quarter / 4)}</text>'
        )
    parts.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 2}" text-anchor="middle">env steps per task</text>')
    return "".join(parts)


def _count(number: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def law(found: Law) -> str:
    """The drawing of failure against parameters on logarithmic axes: every run, and the line with its interval."""
    values = (
        [failure for _, failure in found.points]
        + [high for *_, high in found.line]
        + [low for _, _, low, _ in found.line]
    )
    sizes = [size for size, _ in found.points]
    low, high = max(min(values), 1e-3) / 1.05, min(1.0, max(values)) * 1.05
    first, last = min(sizes) / 1.15, max(sizes) * 1.15

    def x(size: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(size / first) / math.log(last / first)

    def y(failure: float) -> float:
        return _y(math.log(min(max(failure, low), high) / low) / math.log(high / low))

    parts = []
    for value in ticks(low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {y(value)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{100 * value:.3g} %</text>')
    for value in ticks(first, last):
        parts.append(
            f'<text x="{x(value):.0f}" y="{HEIGHT - 16}" text-anchor="middle">{_count(value)}</text>'
        )
    parts.append(
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 2}" text-anchor="middle">parameters, actor and critics</text>'
    )
    if found.line:
        middle = [(x(at), y(failure)) for at, failure, _, _ in found.line]
        edge = [(x(at), y(under)) for at, _, under, _ in found.line]
        edge += [(x(at), y(over)) for at, _, _, over in reversed(found.line)]
        parts.append(f'<path class="band" fill="{SHADES[1]}" d="{_path(edge)}Z"/>')
        parts.append(f'<path class="mean" stroke="{SHADES[1]}" d="{_path(middle)}"/>')
    shown = sorted({(round(x(size), 1), y(failure)) for size, failure in found.points})[:DOTS]
    parts += [f'<circle class="run" cx="{across}" cy="{down}" r="3"/>' for across, down in shown]
    return _drawing("failure against parameters", parts)


def _drawing(label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
