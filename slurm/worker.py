"""Runs one cell: lock, signals, heartbeat, training, marker. The only file of slurm/ that calls the trainer.

A signal handler only sets a flag. The trainer reads the flag after every step; once it is set, the trainer saves a
checkpoint and returns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from slurm.state import Outcome, read_json, unreadable_run, write_done, write_failed, write_json

if TYPE_CHECKING:
    from mtrl.train import Progress

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class CellBusyError(RuntimeError):
    """Another process runs this cell."""


class NoGpuError(RuntimeError):
    """The job asked for a GPU and torch sees none. Another try would fail too."""


@dataclass(frozen=True)
class CellJob:
    """The data of a cell that a worker needs."""

    run_id: str
    directory: Path
    config: str  # JSON
    heartbeat_seconds: float = 30.0
    # Environment variables, set (or removed if None) before torch is imported.
    environment: tuple[tuple[str, str | None], ...] = ()
    on_gpu: bool = (
        False  # its job was given a GPU: a process that sees none must not train on the CPU instead
    )


def run_cell(job: CellJob, *, log: bool = True, told_to_stop: StopFlag | None = None) -> Outcome:
    """Runs the cell until it ends, a signal stops it or it fails, and writes its marker. Returns the outcome.

    An error in the run is not raised: the outcome is "failed". "busy" means that another process holds the cell; then
    nothing changes. `log` sends all output to the cell's log.txt. `told_to_stop` may have a signal that came before
    this call.
    """
    for name, value in job.environment:
        os.environ.pop(name, None)
        os.environ.update({} if value is None else {name: value})
    job.directory.mkdir(parents=True, exist_ok=True)
    try:
        with hold_cell(job.directory), StopFlag() as stop:
            stop.signal = told_to_stop.signal if told_to_stop else None
            with _output_to(job.directory / "log.txt") if log else nullcontext():
                return _run_held_cell(job, stop)
    except CellBusyError as error:
        print(f"{job.run_id}: {error}", file=sys.stderr)
        return "busy"


class StopFlag:
    """Within its `with` block stop signals only set this flag. A call returns whether it is set."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> StopFlag:
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


class Heartbeat:
    """Writes heartbeat.json at most once every `heartbeat_seconds`. The trainer calls it after every vector step."""

    def __init__(self, job: CellJob) -> None:
        self._path = job.directory / "heartbeat.json"
        self._seconds = job.heartbeat_seconds
        self._next = 0.0
        before = read_json(self._path) or {}
        self._facts: dict[str, Any] = {
            "run_id": job.run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": slurm_job(),
            "attempt": int(before.get("attempt", 0)) + 1,
            "started": time.time(),
            "vector_step": before.get("vector_step"),
            "vector_steps": before.get("vector_steps"),
            "success": before.get("success"),
            "repeated_steps": before.get(
                "repeated_steps", 0
            ),  # over all attempts: done once more after a fault
        }
        self._reached = int(before.get("vector_step") or 0)
        self._first = True
        self.write("running")

    def __call__(self, progress: Progress) -> None:
        if self._first:
            self._first = False
            repeated = max(0, self._reached - progress.vector_step + 1)
            self._facts["repeated_steps"] += repeated
            if self._reached:
                begun = progress.vector_step - 1
                print(f"attempt {self.attempt}: goes on at step {begun}, {repeated} steps again", flush=True)
        self._facts["vector_step"] = progress.vector_step
        if time.monotonic() >= self._next:
            self._facts["vector_steps"] = progress.vector_steps
            self._facts["success"] = progress.success
            self.write("running")

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return int(self._facts["attempt"])

    @property
    def vector_step(self) -> int | None:
        """The latest vector step, of an earlier attempt too; None before the first."""
        step: int | None = self._facts["vector_step"]
        return step

    def write(self, state: str) -> None:
        """Writes the heartbeat with that state. If it cannot be written (a full disk), prints that and continues."""
        self._next = time.monotonic() + self._seconds
        try:
            write_json(self._path, {**self._facts, "state": state, "time": time.time()})
        except OSError as error:
            print(f"heartbeat not written: {error}", file=sys.stderr)


@contextmanager
def hold_cell(directory: Path) -> Iterator[None]:
    """Holds the cell's lock. Raises CellBusyError, naming the holder, if a living process has it.

    The lock ends with its process: the lock file of a killed process does not matter.
    """
    path = directory / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            file.seek(0)
            raise CellBusyError(
                f"{directory} is held by {file.read().strip() or 'another process'}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_held(directory: Path) -> bool:
    """Whether a living process has the cell's lock."""
    try:
        with (directory / "lock").open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return True
    return False


def slurm_job() -> str | None:
    """This process's job as `123` or, in an array, `123_4`; None outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def _run_held_cell(job: CellJob, stop: StopFlag) -> Outcome:
    done = read_json(job.directory / "DONE.json")
    if done and not unreadable_run(job.directory, done):
        return "diverged" if done.get("outcome") == "diverged" else "done"
    heartbeat = Heartbeat(job)
    (job.directory / "FAILED.json").unlink(missing_ok=True)
    start = time.time()
    try:
        outcome: Outcome = _train(job, stop, heartbeat)
        if outcome != "stopped":
            write_done(
                job.directory, job.run_id, outcome,
                seconds=round(time.time() - start, 3), attempts=heartbeat.attempt, job=slurm_job(),
            )  # fmt: skip
            _remove_checkpoints(job.directory)
        print(f"attempt {heartbeat.attempt}: {outcome} at step {heartbeat.vector_step}", flush=True)
    except Exception as error:
        traceback.print_exc()
        outcome = "failed"
        write_failed(
            job.directory, job.run_id, f"{type(error).__name__}: {error}", cause=_cause_of(error),
            traceback=traceback.format_exc(), vector_step=heartbeat.vector_step, job=slurm_job(),
        )  # fmt: skip
    heartbeat.write(outcome)
    return outcome


def _train(job: CellJob, stop: StopFlag, heartbeat: Heartbeat) -> Outcome:
    from mtrl.config import Config
    from mtrl.logs import shown_log
    from mtrl.train import train

    config = Config.model_validate_json(job.config)
    if job.on_gpu and config.run.device != "cpu":
        _refuse_to_go_without_gpu()
    with shown_log():
        outcome = train(config, job.directory, stop=stop, report=heartbeat)
    assert outcome in ("done", "diverged", "stopped"), outcome
    return outcome  # type: ignore[return-value]


def _refuse_to_go_without_gpu() -> None:
    from mtrl.devices import why_no_gpu

    if reason := why_no_gpu():
        raise NoGpuError(f"the job was given a GPU, but {reason}")


def _cause_of(error: Exception) -> str:
    """The cause of a failure, by which `slurm.retry` decides."""
    if isinstance(error, NoGpuError):
        return "no gpu"
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return "memory" if out_of_memory else "exception"


def _remove_checkpoints(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory / "checkpoint", ignore_errors=True)


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Within its `with` block, the output of this process and its children is appended to `path`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    before = [os.dup(1), os.dup(2)]
    _point_output_at(handle, handle)
    try:
        yield
    finally:
        _point_output_at(*before)
        for number in (handle, *before):
            os.close(number)


def _point_output_at(output: int, error: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(error, 2)
