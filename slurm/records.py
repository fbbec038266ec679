"""Records of submissions: each array that is submitted to Slurm, written before sbatch is called.

    <sweep>/slurm/<token>.json    one array: its cells task by task, their histories, the job number
                 /<token>.pkl, .sh, .out    the files of its job (slurm/executor.py)
                 /closed/         records whose cells can no longer be in the queue

If a record has no job number, its launcher is waiting for the answer of sbatch, or it died then. The job, if there is
one, is named after the token; without its record the job does nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slurm.profiles import Profile
from slurm.state import read_json, write_json


@dataclass(frozen=True)
class History:
    """A cell's history before a submission, which `slurm.retry` uses."""

    attempts: int = 0  # submissions before this one
    begun: int = 0  # attempts by its heartbeat
    exceptions: int = 0  # attempts that ended with an exception
    stalls: int = 0  # latest attempts in a row without a new vector step
    grown: int = 0  # how often its memory was raised
    vector_step: int = 0  # by its heartbeat
    nodes: tuple[str, ...] = ()  # nodes that failed while it ran there


@dataclass(frozen=True)
class Task:
    """One cell of one array task. `offset` is the byte offset of its line in the manifest."""

    run_id: str
    offset: int
    history: History = History()


@dataclass(frozen=True)
class Record:
    """One array. `tasks[i]` are the cells of array task i; if `jobs` is not 0, so many array tasks share `tasks[0]`."""

    token: str
    tasks: list[list[Task]]
    profile: dict[str, Any]
    memory_mb: int
    created: float = field(default_factory=time.time)
    job: str | None = None
    jobs: int = 0

    @property
    def size(self) -> int:
        """How many array tasks there are."""
        return self.jobs or len(self.tasks)

    def submitted_as(self, job: object) -> bool:
        """Whether `job`, as 123_4, is one of the array's tasks."""
        return self.job is not None and str(job).startswith(f"{self.job}_")

    @property
    def name(self) -> str:
        """The name of the job in Slurm."""
        return f"mtrl-{self.token}"


def new_token() -> str:
    """A new token. Tokens sort by time, and are unique among all launchers."""
    return f"{int(time.time()):x}-{secrets.token_hex(3)}"


def record_path(sweep: Path, token: str) -> Path:
    """The file of an open record."""
    return sweep / "slurm" / f"{token}.json"


def write_record(sweep: Path, record: Record) -> None:
    """Writes the record and syncs it to disk."""
    (sweep / "slurm").mkdir(exist_ok=True)
    content = {**asdict(record), "tasks": [[_pack(task) for task in tasks] for tasks in record.tasks]}
    write_json(record_path(sweep, record.token), content, sync=True)


def read_record(sweep: Path, token: str) -> Record | None:
    """The record; None if it was withdrawn or is damaged."""
    content = read_json(record_path(sweep, token))
    if not content:
        return None
    return Record(**{**content, "tasks": [[_unpack(*task) for task in tasks] for tasks in content["tasks"]]})


def read_records(sweep: Path) -> list[Record]:
    """The open records, oldest first."""
    found = (read_record(sweep, path.stem) for path in sorted((sweep / "slurm").glob("*.json")))
    return [record for record in found if record]


def last_profile(sweep: Path) -> Profile | None:
    """The profile of the newest record, open or closed; None if there is no record."""
    paths = [*(sweep / "slurm").glob("*.json"), *(sweep / "slurm" / "closed").glob("*.json")]
    newest = max(paths, key=lambda path: path.name, default=None)
    content = read_json(newest) if newest else None
    return Profile.model_validate(content["profile"]) if content else None


def close_record(sweep: Path, record: Record) -> None:
    """Moves a record to closed/. None of its jobs may still be in the queue."""
    closed = sweep / "slurm" / "closed"
    closed.mkdir(exist_ok=True)
    record_path(sweep, record.token).replace(closed / f"{record.token}.json")


def withdraw_record(sweep: Path, token: str) -> None:
    """Removes the record and the job's files of an array that Slurm refused."""
    for ending in ("json", "pkl", "sh"):
        (sweep / "slurm" / f"{token}.{ending}").unlink(missing_ok=True)


def latest_tasks(records: Sequence[Record]) -> dict[str, tuple[Record, int, Task]]:
    """{run id: its latest submission}: the record, the number of the array task, and the cell with its history then."""
    return {
        task.run_id: (record, number, task)
        for record in records
        for number, tasks in enumerate(record.tasks)
        for task in tasks
    }


def _pack(task: Task) -> list[Any]:
    known = {key: value for key, value in asdict(task.history).items() if value}
    return [task.run_id, task.offset, known] if known else [task.run_id, task.offset]


def _unpack(run_id: str, offset: int, known: dict[str, Any] | None = None) -> Task:
    known = known or {}
    return Task(run_id, offset, History(**{**known, "nodes": tuple(known.get("nodes", ()))}))
