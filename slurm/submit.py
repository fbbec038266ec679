"""Hands cells to Slurm as job arrays: grouped by memory, packed into jobs, split at the cluster's limits.

Every value goes to sbatch as an argument of its own, never through a shell; the script holds only quoted words and the
profile's own setup lines.
"""

from __future__ import annotations

import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from slurm.commands import FULL, SlurmError, call
from slurm.limits import Limits
from slurm.profiles import Profile
from slurm.queue import read_queue
from slurm.records import Record, Task, new_token, record_path, write_record

Item = TypeVar("Item")
SBATCH_SECONDS = 20
NO_ROOM = (FULL, "submit limit", "MaxSubmitJob", "GrpSubmitJob")  # refusals that a smaller array may escape
GROWTH = 1.5  # of the memory, after a cell ran out of it


@dataclass(frozen=True)
class CellRequest:
    """A cell to submit, and the memory that it is thought to need."""

    task: Task
    memory_mb: int


@dataclass(frozen=True)
class Submitted:
    """What came of a submission: the arrays, and the cells for which the cluster had no room."""

    records: list[Record]
    left_over: list[Task]
    refusal: str = ""


def plan_arrays(cells: Sequence[CellRequest], profile: Profile, limits: Limits) -> list[Record]:
    """The arrays, not yet submitted: cells of one memory class together, cells_per_job to a task, at most
    limits.max_array tasks to an array."""
    classes: dict[int, list[Task]] = defaultdict(list)
    for cell in cells:
        classes[memory_class(cell, profile)].append(cell.task)
    records = []
    for memory, tasks in sorted(classes.items()):
        packed = _chunks(tasks, profile.cells_per_job)
        for part in _chunks(packed, limits.max_array):
            used = min(profile.cells_per_job, max(map(len, part)))
            records.append(Record(new_token(), part, profile.model_dump(mode="json"), memory * used))
    return records


def memory_class(cell: CellRequest, profile: Profile) -> int:
    """MiB for one cell: its share of the profile's memory, or the power of two above what it needs, grown by what
    happened before."""
    needed = max(profile.memory_mb // profile.cells_per_job, 1)
    while needed < cell.memory_mb:
        needed *= 2
    return round(needed * GROWTH**cell.task.history.grown)


def submit(
    sweep: Path, records: Sequence[Record], report: Callable[[Record], None], *, room: int | None = None
) -> Submitted:
    """Submits the arrays one after another, at most `room` tasks of them. An array that the cluster has no room for is
    halved until a part of it fits; a refusal of a single task ends it: what is left over waits for the next launch.
    Raises SlurmError when Slurm does not answer at all."""
    accepted: list[Record] = []
    waiting = list(reversed(records))
    while waiting:
        record = waiting.pop()
        left = len(record.tasks) if room is None else room - sum(len(one.tasks) for one in accepted)
        if left <= 0:
            return _refused(
                accepted, [record, *reversed(waiting)], f"you may have {room} more jobs in the queue"
            )
        if left < len(record.tasks):
            waiting += reversed(_split(record, left))
            continue
        write_record(sweep, record)
        try:
            record = replace(record, job=_submit_one(sweep, record))
        except SlurmError as error:
            record_path(sweep, record.token).unlink()
            if len(record.tasks) > 1 and any(text in str(error) for text in NO_ROOM):
                waiting += reversed(_split(record, len(record.tasks) // 2))
                continue
            return _refused(accepted, [record, *reversed(waiting)], str(error))
        write_record(sweep, record)
        accepted.append(record)
        report(record)
    return Submitted(accepted, [])


def submit_after(
    sweep: Path, records: Sequence[Record], profile: Profile, commands: Sequence[Sequence[str]]
) -> str:
    """Submits one job that runs `commands` once all those arrays have ended, however they ended. Returns its number."""
    token = new_token()
    script = sweep.resolve() / "slurm" / f"{token}.sh"
    script.write_text(_script(profile, commands))
    after = ":".join(str(record.job) for record in records)
    words = [
        *_sbatch(sweep, f"mtrl-{token}", profile, profile.memory_mb, token),
        f"--dependency=afterany:{after}",
    ]
    return _job_number(call([*words, str(script)]))


def command_of(sweep: Path, record: Record, profile: Profile) -> list[str]:
    """The words of the sbatch call."""
    tasks = len(record.tasks)
    array = f"--array=0-{tasks - 1}" + (f"%{profile.max_running}" if profile.max_running else "")
    signal = f"--signal=B:USR2@{profile.signal_seconds}"
    words = _sbatch(sweep, record.name, profile, record.memory_mb, record.token)
    return [*words, array, signal, "--requeue", str(sweep.resolve() / "slurm" / f"{record.token}.sh")]


def _submit_one(sweep: Path, record: Record) -> str:
    """The job number. When sbatch gives no clear answer, the queue is asked whether the job is there after all."""
    profile = Profile.model_validate(record.profile)
    script = sweep.resolve() / "slurm" / f"{record.token}.sh"
    worker = [profile.python or sys.executable, "-m", "slurm.job", str(sweep.resolve()), record.token]
    script.write_text(_script(profile, [worker], replace_shell=True))
    for last in (False, False, True):
        try:
            return _job_number(call(command_of(sweep, record, profile), seconds=SBATCH_SECONDS, tries=1))
        except SlurmError as error:
            if not error.passing:
                raise
            if job := read_queue().jobs.get(record.name):
                return job
            if last:
                raise
    raise AssertionError("unreachable")


def _split(record: Record, first: int) -> list[Record]:
    parts = record.tasks[:first], record.tasks[first:]
    return [replace(record, token=new_token(), tasks=part) for part in parts]


def _refused(accepted: list[Record], records: Sequence[Record], why: str) -> Submitted:
    left_over = [task for record in records for tasks in record.tasks for task in tasks]
    return Submitted(accepted, left_over, why)


def _sbatch(sweep: Path, name: str, profile: Profile, memory_mb: int, token: str) -> list[str]:
    output = str(sweep.resolve() / "slurm" / f"{token}.out").replace("%", "%%")
    options = {
        "job-name": name,
        "output": output,
        "open-mode": "append",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": ",".join(profile.exclude),
        "time": str(profile.minutes),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(profile.cpus),
        "mem": f"{memory_mb}M",
        "gres": f"gpu:{profile.gpu_type + ':' if profile.gpu_type else ''}{profile.gpus}"
        if profile.gpus
        else "",
        **profile.options,
    }
    return ["sbatch", "--parsable", *(f"--{option}={value}" for option, value in options.items() if value)]


def _script(profile: Profile, commands: Sequence[Sequence[str]], *, replace_shell: bool = False) -> str:
    """A script for bash. With `replace_shell` Python takes the shell's place, and so gets the signals itself; until it
    listens, a USR2 is ignored: Slurm may send it a minute early, and it would end the job."""
    start = "trap '' USR2\nexec " if replace_shell else ""
    lines = [start + shlex.join([*profile.container, *command]) for command in commands]
    return "\n".join(["#!/bin/bash", "set -e", *profile.setup, *lines, ""])


def _job_number(answer: str) -> str:
    """From `123` or `123;cluster`."""
    number = answer.strip().splitlines()[-1].partition(";")[0] if answer.strip() else ""
    if not number.isdigit():
        raise SlurmError(f"sbatch answered {answer!r}, not a job number", passing=True)
    return number


def _chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
