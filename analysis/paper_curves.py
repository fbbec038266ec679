"""The paper's own learning curves: laws in parameters, env steps and compute, from one published curve per width."""

from __future__ import annotations

import numpy as np

from analysis import paper
from analysis.compute_study import CurveStudy, Line, study_of_curves
from analysis.data_laws import Curves
from analysis.figures import PAPER
from analysis.time_laws import Times, first_reached, time_law
from analysis.x_axis import Pairs
from mtrl.overrides import build_config
from mtrl.sizing import update_flops

EPISODES = 50  # per task and evaluation
RUNS = 10  # behind each curve
STEPS = 2_000_000  # per task
LEVELS = (0.5, 0.65, 0.75)  # the success J of the times D_J

NOTE = (
    "Here a curve is the published IQM of 10 runs, one for each width, read off a figure at five steps. The clusters "
    "are widths, so an interval allows for what differs from width to width, and not for seeds."
)


def studies(generator: np.random.Generator) -> list[CurveStudy]:
    """The laws of each benchmark's curves."""
    sizes = {
        (row["benchmark"], row["width"]): (paper.parameters(row), int(row["tasks"]))
        for row in paper.table("success_by_width")
    }
    found = []
    for benchmark, rows in paper.by_benchmark("learning_curves").items():
        lines = []
        for width in dict.fromkeys(row["width"] for row in rows):
            own = [row for row in rows if row["width"] == width]
            steps, success = (
                np.array([float(row[name]) for row in own]) for name in ("env_steps", "success_iqm")
            )
            size, tasks = sizes[benchmark, width]
            cost = _flops_per_env_step(benchmark, int(width), tasks)
            lines.append(Line(f"width {width}", size, steps, success, cost))
        found.append(_study(benchmark, lines, tasks, generator))
    return found


def compute() -> dict[str, Pairs]:
    """Parameters and FLOPs of the paper's whole runs, for an axis of compute: by benchmark, after the paper's name."""
    known: dict[str, Pairs] = {}
    for benchmark, rows in paper.by_benchmark("success_by_width").items():
        known[f"{PAPER}, {benchmark}"] = [
            (paper.parameters(row), STEPS * tasks * _flops_per_env_step(benchmark, int(row["width"]), tasks))
            for row in rows
            for tasks in (int(row["tasks"]),)
        ]
    return known


def _flops_per_env_step(benchmark: str, width: int, tasks: int) -> float:
    """FLOPs of updates per env step, with one update per vector step, as the paper trained."""
    widths = {f"network.{part}.width": width for part in ("actor", "critic")}
    return update_flops(build_config("paper", {"env.tasks": benchmark} | widths)) / tasks


def _study(benchmark: str, lines: list[Line], tasks: int, generator: np.random.Generator) -> CurveStudy:
    counts = [len(line.steps) for line in lines]
    curves = Curves(
        np.repeat([line.parameters for line in lines], counts),
        np.concatenate([line.steps for line in lines]),
        1 - np.concatenate([line.success for line in lines]),
        np.repeat(np.arange(len(lines)), counts),
        np.repeat([line.cost for line in lines], counts),
        RUNS * EPISODES * tasks,
    )
    times = tuple(time_law(_times(lines, level), level, seeds=1) for level in LEVELS)
    return study_of_curves(benchmark, curves, times, lines, generator, seeds=1)


def _times(lines: list[Line], success: float) -> Times:
    reached = [first_reached(line.success[None], line.steps, success) for line in lines]
    steps, censored = (np.concatenate(column) for column in zip(*reached, strict=True))
    return Times(np.array([line.parameters for line in lines]), steps, censored)
