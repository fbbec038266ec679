"""How a sweep's variants learn: curves, curves by task, a table of speed, and which sizes lose runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis import figures
from analysis.collapse import lost_by_size
from analysis.curves import curve_area, isotonic, plateau, steps_to
from analysis.figures import FEW_TASKS, Rate, learning_curves
from analysis.report import Drawing, Table, counted
from analysis.variants import Variant, by_benchmark, groups, short_name
from analysis.x_axis import XAxis


def drawings(found: Sequence[Variant], x: XAxis) -> list[Drawing]:
    """Learning curves, and for each benchmark of many tasks a small panel per task."""
    runs = sorted({variant.curves.shape[0] for variant in found})
    span = counted(runs[0], "run") if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs"
    few = len({variant.name for variant in found}) <= figures.FEW_BANDS
    band = " The band spans the runs; of two runs thin lines show each." if runs[-1] > 1 and few else ""
    caption = (
        f"Success of the deterministic policy over {found[0].episodes} episodes per task; {span} per line, "
        f"lighter is larger.{band} The dashed line is a uniform random policy: it succeeds by chance on easy tasks."
    )
    drawing = learning_curves(found, x.per_step, x.steps_label)
    return [Drawing("learning_curves", "Learning curves", caption, drawing), *_by_task(found, x)]


def _by_task(found: Sequence[Variant], x: XAxis) -> list[Drawing]:
    drawn = []
    for number, (benchmark, group) in enumerate(by_benchmark(found).items()):
        if len(group[0].tasks) > FEW_TASKS:
            title = f"Learning by task: {short_name(benchmark)}"
            caption = "A panel per task: mean success over runs, a line per variant, lighter is larger."
            drawing = figures.tasks(group, x.per_step, x.steps_label)
            drawn.append(Drawing(f"learning_by_task_{number}", title, caption, drawing))
    return drawn


def lost_drawing(found: Sequence[Variant], x: XAxis) -> list[Drawing]:
    """The share of runs that collapsed or diverged by size, with exact intervals, of the groups that lost any."""
    panels: dict[str, list[Rate]] = {}
    for name, group in groups(found).items():
        lost = lost_by_size(group)
        if any(each.count for each in lost):
            low, high = np.array([each.interval for each in lost]).T
            sizes = x.size(name, np.array([float(each.size) for each in lost]))
            shares = np.array([each.count / each.runs for each in lost])
            label = f"{name}  (n = {sum(each.runs for each in lost)})"
            panels.setdefault(short_name(group[0].benchmark), []).append(
                Rate(label, sizes, shares, low, high)
            )
    if not panels:
        return []
    caption = "Share of runs that collapsed or diverged, with exact 95% intervals (Clopper and Pearson)."
    drawing = figures.rates(panels, x=x.size_label, y="runs lost")
    return [Drawing("lost_runs", "Collapsed and diverged runs", caption, drawing)]


def speed_table(found: Sequence[Variant]) -> Table:
    """Area under the learning curve, steps to half, and whether the curve has settled."""
    rows = []
    for variant in found:
        steps, curves = variant.known_curves()
        if not len(steps):
            continue
        curve = np.nanmean(curves, axis=0)
        half = float(steps_to(0.5, steps, isotonic(curve)))
        settled = plateau(steps, curve) if len(steps) >= 10 else np.nan
        rows.append(
            [
                short_name(variant.benchmark),
                variant.name,
                f"{float(curve_area(steps, curve)):.3f}" if len(steps) > 1 else "–",
                f"{half:,.0f}" if np.isfinite(half) else "never",
                "too few evaluations"
                if np.isnan(settled)
                else f"{settled:,.0f}"
                if np.isfinite(settled)
                else "not yet",
            ]
        )
    caption = (
        "Learning, of the mean curve over runs and tasks; steps are env steps per task. Success counts as 50% from "
        "where the nearest rising curve (isotonic regression) has it: a noisy curve crosses it early by luck."
    )
    header = ["tasks", "width", "mean height of the curve", "steps to 50% success, isotonic", "settled from"]
    return Table(caption, header, rows, texts=(0, 1))
