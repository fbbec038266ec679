"""Runs from elsewhere, as CSV -> a dataset like that of `frames.open_sweep`.

docs/analysis.md has the format. A history table has a row per run and evaluation, or per run, evaluation and task. The
export of a chart of Weights & Biases (a column `<run> - <metric>` per run) is such a table in wide form; the export of
its table of runs adds seeds, widths and parameters.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis.errors import SweepError
from analysis.gridding import to_grid
from mtrl.tasks import BENCHMARKS, benchmark_name

Row = dict[str, str]

NEEDED = ("step", "success")
ALIASES = {"Name": "run", "Step": "step", "_step": "step", "State": "state", "parameters": "parameters_total"}
OF_RUN = (  # columns that describe a run; every other column of numbers is a metric
    "run", "benchmark", "system", "width", "actor_width", "critic_width", "seed", "tasks", "episodes", "state",
    "parameters_actor", "parameters_critic", "parameters_target", "parameters_total", "batch_per_task",
)  # fmt: skip
WIDE = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<edge>__MIN|__MAX)?")
MEAN = "mean over tasks"  # stands for the tasks of a table that has only their mean
DONE = {
    "": "done",
    "finished": "done",
    "done": "done",
    "diverged": "diverged",
    "crashed": "failed",
    "failed": "failed",
}


def are_histories(paths: Sequence[Path], columns: Mapping[str, str]) -> bool:
    """Whether the tables are histories: with the columns step and success, or in W&B's wide form.

    Raises SweepError if some are and some are not.
    """
    headers = {path: _read(path, columns)[0] for path in paths}
    found = {path: set(NEEDED) <= set(header) or _is_wide(header) for path, header in headers.items()}
    if len(set(found.values())) > 1:
        yes, no = (
            next(path for path, is_one in found.items() if is_one == wanted) for wanted in (True, False)
        )
        raise SweepError(f"{yes} is a history and {no} is not; give them apart")
    return all(found.values())


def open_histories(
    paths: Sequence[Path], runs: Path | None = None, *, columns: Mapping[str, str] | None = None
) -> xr.Dataset:
    """The dataset of the runs in the history tables, with the columns of the table `runs`, joined by `run`.

    A table without a column `run` is one run, named by its file. `columns` maps names of this format to those in the
    files, like {"success": "charts/mean_success"}. Raises SweepError, naming the file and the row, for a wrong table.
    """
    names = columns or {}
    known = {row.get("run", ""): row for row in (_read(runs, names)[1] if runs else [])}
    groups: dict[str, list[tuple[Path, int, Row]]] = {}
    for path in paths:
        for number, row in enumerate(_rows(path, names), start=2):
            groups.setdefault(row["run"], []).append((path, number, known.get(row["run"], {}) | row))
    found = [
        _run(members[0][0], name, [(number, row) for _, number, row in members])
        for name, members in groups.items()
    ]
    return to_grid(_dataset(found, ", ".join(map(str, paths))))


def _rows(path: Path, columns: Mapping[str, str]) -> list[Row]:
    """The rows of a history, each with its run. Raises SweepError for a missing column."""
    header, rows = _read(path, columns)
    if _is_wide(header):
        rows = _long(rows, columns.get("success", "success"))
    missing = [name for name in NEEDED if not rows or name not in rows[0]]
    if missing:
        raise SweepError(
            f"{path} has no column {', '.join(missing)}; rename with --column, as in --column {missing[0]}=THEIRS"
        )
    return [{"run": path.stem} | row for row in rows]


def _read(path: Path, columns: Mapping[str, str]) -> tuple[list[str], list[Row]]:
    names = ALIASES | {theirs: ours for ours, theirs in columns.items()}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [names.get(name, name) for name in reader.fieldnames or []]
            rows = [{names.get(key, key): value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SweepError(f"{path} cannot be read as a table: {error}") from None
    return header, rows


def _is_wide(header: list[str]) -> bool:
    return "step" in header and "run" not in header and any(WIDE.fullmatch(name) for name in header)


def _long(rows: list[Row], success: str) -> list[Row]:
    """W&B's wide export as rows of (run, step, metric). The metric named `success`, or the only one, is the success."""
    parts = (
        {name: part for name in rows[0] if (part := WIDE.fullmatch(name)) and not part["edge"]}
        if rows
        else {}
    )
    metrics = {part["metric"] for part in parts.values()}
    only = len(metrics) == 1
    long = []
    for row in rows:
        of_run: dict[str, Row] = {}
        for name, part in parts.items():
            if row[name]:
                metric = "success" if only or part["metric"] == success else part["metric"]
                of_run.setdefault(part["run"], {})[metric] = row[name]
        long += [{"run": run, "step": row["step"]} | values for run, values in of_run.items()]
    return long


def _run(path: Path, name: str, members: list[tuple[int, Row]]) -> dict[str, Any]:
    """The data of one run, with its evaluations in the order of their steps. `members` are (line, row)."""
    first = members[0][1]
    line = members[0][0]
    tasks = tuple(dict.fromkeys(row["task"] for _, row in members if row.get("task"))) or (MEAN,)
    success: dict[tuple[int, str], float] = {}
    metrics: dict[str, dict[int, float]] = {}
    for number, row in members:
        if not row["success"]:
            continue  # a step at which something else was logged
        step = int(_float(path, number, "step", row["step"]))
        value = _float(path, number, "success", row["success"])
        if not 0 <= value <= 1:
            raise SweepError(f"{path}, line {number}: success is {value}; it must be from 0 to 1")
        success[step, row.get("task") or MEAN] = value
        for key, text in row.items():
            if key not in (*OF_RUN, "step", "success", "task") and (metric := _number(text)) is not None:
                metrics.setdefault(key, {})[step] = metric
    steps = sorted({step for step, _ in success})
    benchmark = first.get("benchmark") or (benchmark_name(tasks) if tasks != (MEAN,) else path.stem)
    count = int(
        first.get("tasks") or (len(tasks) if tasks != (MEAN,) else len(BENCHMARKS.get(benchmark, (MEAN,))))
    )
    width = first.get("width") or "0"
    numbers = {key: int(_float(path, line, key, first.get(key) or fallback)) for key, fallback in (
        ("actor_width", width), ("critic_width", width), ("seed", "0"), ("episodes", "1"), ("batch_per_task", "0"),
        ("parameters_actor", "0"), ("parameters_critic", "0"), ("parameters_target", "0"), ("parameters_total", "0"),
    )}  # fmt: skip
    numbers["parameters_total"] = numbers["parameters_total"] or (
        numbers["parameters_actor"] + numbers["parameters_critic"]
    )
    if not numbers["parameters_total"]:
        raise SweepError(
            f"{path}, run {name}: no parameters_total, nor parameters_actor and parameters_critic; add a column, or a "
            "table of runs with --runs-table"
        )
    return numbers | {
        "run_id": name, "benchmark": benchmark, "system": first.get("system") or "mtmhsac", "tasks": count,
        "task_names": tasks, "steps": steps, "success": success, "metrics": metrics,
        "outcome": DONE.get(first.get("state", "").lower(), "unfinished"),
    }  # fmt: skip


def _dataset(runs: list[dict[str, Any]], source: str) -> xr.Dataset:
    runs = sorted(
        runs, key=lambda r: (r["benchmark"], r["system"], r["actor_width"], r["critic_width"], r["seed"])
    )
    tasks = list(dict.fromkeys(task for run in runs for task in run["task_names"]))
    evaluations = max(len(run["steps"]) for run in runs)
    metrics = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    success = np.full((len(runs), evaluations, len(tasks)), np.nan, np.float32)
    steps = np.full((len(runs), evaluations), -1)
    values = np.full((len(metrics), len(runs), evaluations), np.nan)
    for number, run in enumerate(runs):
        place = {step: at for at, step in enumerate(run["steps"])}
        steps[number, : len(place)] = run["steps"]
        for (step, task), value in run["success"].items():
            success[number, place[step], tasks.index(task)] = value
        for name, of_step in run["metrics"].items():
            for step, value in of_step.items():
                values[metrics.index(name), number, place[step]] = value
    committed = [len(run["steps"]) for run in runs]
    configs = [
        {"env": {"tasks": run["task_names"]}, "evaluate": {"episodes": run["episodes"]},
         "agent": {"batch_per_task": run["batch_per_task"]},
         "train": {"seed": run["seed"], "vector_steps": (run["steps"] or [0])[-1] // run["tasks"]}}
        for run in runs
    ]  # fmt: skip
    of_run = ("run_id", "benchmark", "system", "tasks", "actor_width", "critic_width", "seed")
    parameters = [f"parameters_{part}" for part in ("actor", "critic", "target", "total")]
    variables: dict[str, Any] = {
        "success": (("run", "eval", "task"), success),
        "env_steps": (("run", "eval"), steps),
    }
    variables |= {name: (("run", "eval"), values[number]) for number, name in enumerate(metrics)}
    variables |= {name: ("run", [run[name] for run in runs]) for name in (*parameters, "outcome")}
    variables |= {
        "committed": ("run", committed),
        "planned": ("run", committed),
        "config": ("run", list(map(json.dumps, configs))),
        "code_version": ("run", ["imported"] * len(runs)),
    }
    axes = {"run": range(len(runs)), "eval": range(evaluations), "task": tasks}
    coordinates = {name: ("run", [run[name] for run in runs]) for name in of_run}
    return xr.Dataset(variables, axes | coordinates, {"source": source, "skipped": []})


def _float(path: Path, line: int, name: str, text: str) -> float:
    value = _number(text)
    if value is None:
        raise SweepError(f"{path}, line {line}: {name} is '{text}', which is no number")
    return value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
