"""Submits cells to Slurm as job arrays: grouped by memory, packed into jobs, split at the cluster's limits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from slurm.commands import FULL, SlurmError
from slurm.limits import Limits
from slurm.profiles import Profile
from slurm.queue import read_queue
from slurm.records import Record, Task, new_token, withdraw_record, write_record

Item = TypeVar("Item")
NO_ROOM = (
    FULL,
    "submit limit",
    "MaxSubmitJob",
    "GrpSubmitJob",
)  # after these a smaller array may be accepted
GROWTH = 1.5  # factor on the memory of a cell that ran out of it


@dataclass(frozen=True)
class CellRequest:
    """A cell to submit, with its estimated memory and time."""

    task: Task
    memory_mb: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Submitted:
    """The result of a submission: the arrays, and the cells that the cluster did not accept."""

    records: list[Record]
    left_over: list[Task]
    refusal: str = ""
    for_good: bool = False  # whether the cluster would refuse them later too, because it cannot run such jobs


def plan_arrays(cells: Sequence[CellRequest], profile: Profile, limits: Limits) -> list[Record]:
    """The arrays to submit.

    Cells of one memory class form arrays of at most limits.max_array tasks with cells_per_job cells each. With the
    profile's `pull`, all tasks of an array share its cells.
    """
    classes: dict[int, list[CellRequest]] = defaultdict(list)
    for cell in cells:
        classes[memory_class(cell, profile)].append(cell)
    arrays = _pull_array if profile.pull else _arrays
    return [
        record
        for memory, alike in sorted(classes.items())
        for record in arrays(alike, memory, profile, limits)
    ]


def _arrays(cells: Sequence[CellRequest], memory: int, profile: Profile, limits: Limits) -> Iterator[Record]:
    packed = _chunks([cell.task for cell in cells], profile.cells_per_job)
    for part in _chunks(packed, limits.max_array):
        used = min(profile.cells_per_job, max(map(len, part)))
        yield Record(new_token(), part, profile.model_dump(mode="json"), memory * used)


def _pull_array(
    cells: Sequence[CellRequest], memory: int, profile: Profile, limits: Limits
) -> Iterator[Record]:
    """One array of as many jobs as may run at once. Long cells come first, so that none runs alone at the end."""
    tasks = [cell.task for cell in sorted(cells, key=lambda cell: -cell.seconds)]
    used = min(profile.cells_per_job, len(tasks))
    jobs = min(
        -(-len(tasks) // profile.cells_per_job), limits.max_array, profile.max_running or limits.max_array
    )
    yield Record(new_token(), [tasks], profile.model_dump(mode="json"), memory * used, jobs=jobs)


def memory_class(cell: CellRequest, profile: Profile) -> int:
    """MiB for one cell: its share of the profile's memory, doubled until it is enough.

    Each time that the cell ran out of memory multiplies it by GROWTH.
    """
    needed = max(profile.memory_mb // profile.cells_per_job, 1)
    while needed < cell.memory_mb:
        needed *= 2
    return round(needed * GROWTH**cell.task.history.grown)


def check_place(sweep: Path) -> None:
    """Raises ValueError if Slurm or submitit would replace a part of the folder's name."""
    place = str(sweep.resolve())
    if found := re.search(r"%[AajtN]|[\\\n]", place):
        raise ValueError(
            f"{place!r} contains {found[0]!r}, which Slurm would replace by something else in the names of a job's "
            "files; give another folder with --runs"
        )


def submit(
    sweep: Path, records: Sequence[Record], report: Callable[[Record], None], *, room: int | None = None
) -> Submitted:
    """Submits the arrays one after another, together at most `room` tasks; `report` is called with each.

    If the queue has no room for an array, it is halved until a part fits. Once not even one task fits, the remaining
    cells are left over for the next launch. If the cluster refuses an array for another reason, it is left out and the
    others are submitted. Raises ValueError if the sweep's folder has a name that Slurm would change.
    """
    check_place(sweep)
    accepted: list[Record] = []
    refused: list[Record] = []
    refusal = ""
    waiting = list(reversed(records))
    while waiting:
        record = waiting.pop()
        left = record.size if room is None else room - sum(one.size for one in accepted)
        if left <= 0:
            why = f"you may have {room} more jobs in the queue"
            return Submitted(
                accepted, _tasks([*refused, record, *reversed(waiting)]), refusal or why, bool(refusal)
            )
        if left < record.size:
            waiting += reversed(_split(record, left))
            continue
        write_record(sweep, record)
        try:
            record = replace(record, job=_submit_one(sweep, record))
        except SlurmError as error:
            withdraw_record(sweep, record.token)
            full = any(text in str(error) for text in NO_ROOM)
            if full and record.size > 1:
                waiting += reversed(_split(record, record.size // 2))
            elif full or error.passing:
                left_over = _tasks([*refused, record, *reversed(waiting)])
                return Submitted(accepted, left_over, refusal or str(error), bool(refusal))
            else:
                refused.append(record)
                refusal = refusal or f"{error}; asked for {_asked(record)}"
            continue
        write_record(sweep, record)
        accepted.append(record)
        report(record)
    return Submitted(accepted, _tasks(refused), refusal, bool(refusal))


def _submit_one(sweep: Path, record: Record) -> str:
    """Submits an array and returns its job number. If sbatch gives no clear answer, looks for the job in the queue."""
    from slurm.executor import submit_array

    for last in (False, False, True):
        try:
            return submit_array(sweep, record)
        except SlurmError as error:
            if not error.passing:
                raise
            if job := read_queue().jobs.get(record.name):
                return job
            if last:
                raise
    raise AssertionError("unreachable")


def _split(record: Record, first: int) -> list[Record]:
    """Two arrays: one of `first` tasks and one of the rest. If the tasks share the cells: one of `first` tasks."""
    if record.jobs:
        return [replace(record, token=new_token(), jobs=first)]
    parts = record.tasks[:first], record.tasks[first:]
    return [replace(record, token=new_token(), tasks=part) for part in parts]


def _tasks(records: Sequence[Record]) -> list[Task]:
    return [task for record in records for tasks in record.tasks for task in tasks]


def _asked(record: Record) -> str:
    """The resources that jobs of the array ask for, in a few words."""
    profile = Profile.model_validate(record.profile)
    gpus = f", {profile.gpus} GPUs" if profile.gpus else ""
    where = f" in partition {profile.partition}" if profile.partition else ""
    return f"{record.memory_mb} MB, {profile.cpus} CPUs{gpus} for {profile.minutes} minutes{where}"


def _chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
