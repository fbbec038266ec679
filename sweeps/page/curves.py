"""The success of every run so far. Run files that did not change since the last look are not opened again.

page/curves.json keeps what was read: for each run the time stamp of its file and at most POINTS points.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mtrl.cpus import usable_cpus
from slurm.state import cell_directory, read_json, write_json

POINTS = 24  # of a curve on the page
MANY = 1_000  # for so many files a second process saves more time than its start takes
FORMAT = 1  # of page/curves.json


class Curve(NamedTuple):
    """Success of one run, the mean over its tasks."""

    stamp: int  # time stamp of the run file, ns
    ended: float  # when the run was over, seconds since 1970; 0 before
    planned: int  # evaluations
    committed: int  # evaluations so far
    success: tuple[float, ...]  # at `places`

    @property
    def places(self) -> tuple[int, ...]:
        """The evaluations, counted from 0, that `success` is of."""
        return places(self.planned, self.committed)


@cache
def places(planned: int, committed: int) -> tuple[int, ...]:
    """The evaluations, counted from 0, that are points of a curve: evenly spaced ones and the latest.

    They are the same for all runs with as many planned evaluations.
    """
    count = min(planned, POINTS)
    points = {round(point * (planned - 1) / max(1, count - 1)) for point in range(count)} | {committed - 1}
    return tuple(sorted(point for point in points if 0 <= point < committed))


def read_curves(sweep: Path, begun: Mapping[str, bool], *, memory: Path) -> dict[str, Curve]:
    """{run id: curve} of the runs that have one. `begun` is {run id: whether it is over}; `memory` is curves.json."""
    known = _read_memory(memory)
    curves: dict[str, Curve] = {}
    todo: list[tuple[str, Path, bool]] = []
    for run_id, over in begun.items():
        before = known.get(run_id)
        if before and over and before.ended:  # a run that is over does not change
            curves[run_id] = before
            continue
        path = cell_directory(sweep, run_id) / "run.h5"
        if before and not over and before.stamp == _stamp(path):
            curves[run_id] = before
        else:
            todo.append((run_id, path, over))
    fresh = _read_all(todo)
    if fresh:
        curves |= fresh
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, {"format": FORMAT, "curves": curves})
    return curves


def _stamp(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116  ten thousand of them: half the time of Path.stat
    except OSError:
        return -1


def _read_all(todo: Sequence[tuple[str, Path, bool]]) -> dict[str, Curve]:
    processes = min(4, usable_cpus())
    if len(todo) < MANY or processes < 2:
        return _read_some(todo)
    with ProcessPoolExecutor(processes) as pool:
        parts = pool.map(_read_some, [todo[start::processes] for start in range(processes)])
        return {run_id: curve for part in parts for run_id, curve in part.items()}


def _read_some(todo: Sequence[tuple[str, Path, bool]]) -> dict[str, Curve]:
    from analysis.success import read_success

    curves = {}
    for run_id, path, over in todo:
        try:
            stamp = _stamp(path)
            ended = (path.parent / "DONE.json").stat().st_mtime if over else 0.0
            success, planned = read_success(path)
        except (OSError, ValueError, KeyError):
            continue  # no file yet, or a damaged one: the run's state says so
        shown = tuple(round(float(success[place]), 3) for place in places(planned, len(success)))
        curves[run_id] = Curve(stamp, ended, planned, len(success), shown)
    return curves


def _read_memory(path: Path) -> dict[str, Curve]:
    content = read_json(path) or {}
    if content.get("format") != FORMAT:
        return {}
    try:
        return {
            run_id: Curve(stamp, ended, planned, committed, tuple(success))
            for run_id, (stamp, ended, planned, committed, success) in content["curves"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}  # damaged: every file is read again
