"""What one Slurm job does: the cells of its array task, each in a process of its own, several at a time.

submitit calls `run_task` in every task of an array, and `run_commands` in the job that follows a sweep. The trainer is
imported once and the cells' processes are forked from here, so a cell costs milliseconds to start. This process
outlives a cell that is killed, as by the kernel for want of memory, and writes down what became of it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NoReturn

import submitit

from mtrl.run_ids import as_meant, is_run_id_of
from slurm.commands import SlurmError, call
from slurm.records import Record, Task, read_record
from slurm.state import cancelled_cells, cell_directory, is_cancelled, read_state, write_failed
from slurm.worker import CellJob, StopFlag, is_held, run_cell, slurm_job

FAILED = 1
PR_SET_PDEATHSIG = 1  # of prctl(2)


def run_task(sweep: str, token: str) -> NoReturn:
    """Runs this array task to its end and leaves: a job's exit code is its result, so submitit writes none."""
    sys.exit(run_job(Path(sweep), token))


def run_commands(commands: Sequence[Sequence[str]]) -> NoReturn:
    """Runs the commands one after another, up to the first that fails."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it; there is nothing to save here
    _unlink_call()
    for command in commands:
        print(shlex.join(command), flush=True)
        if code := subprocess.run(command).returncode:
            sys.exit(code)
    sys.exit(0)


def run_job(sweep: Path, token: str) -> int:
    """Runs the cells that the record `token` gives to this array task. Returns the exit code of the job.

    Told to stop (time limit, preemption), it lets the cells save, and requeues itself unless the sweep was cancelled or
    the job is already on its way out of the queue.
    """
    with StopFlag() as stop:  # first of all, over submitit's own handlers
        _unlink_call()
        record = read_record(sweep, token)
        if record is None:
            print(f"{token} was withdrawn; nothing to do")
            return 0
        cells = SharedCells(sweep, record) if record.jobs else OwnCells(sweep, record, array_task())
        run_packed(cells.take, record.profile["cells_per_job"], stop)
        states = [(task, read_state(sweep, task.run_id)) for task in cells.taken]
        left = [
            task for task, state in states if not (state.finished or state.state == "failed")
        ] + cells.waiting
        if stop() and left:
            moved = any(
                (state.heartbeat.get("vector_step") or 0) > task.history.vector_step for task, state in states
            )
            if moved and not all(is_cancelled(sweep, task.run_id) for task in left):
                _requeue()
            return FAILED
        return 0 if all(state.finished for _, state in states) else FAILED


def array_task() -> int:
    return int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))


class OwnCells:
    """The cells of one array task, which no other task has."""

    def __init__(self, sweep: Path, record: Record, number: int) -> None:
        self._sweep, self._profile = sweep, record.profile
        self.waiting = list(record.tasks[number])
        self.taken: list[Task] = []

    def take(self) -> CellJob | None:
        """The next cell to run; None if none is left."""
        cancelled = cancelled_cells(self._sweep)
        self.waiting = [task for task in self.waiting if task.run_id not in cancelled]
        job = None
        while self.waiting and job is None:
            self.taken.append(self.waiting.pop(0))
            job = _read_job(self._sweep, self.taken[-1], self._profile)
        return job


class SharedCells:
    """The cells of an array whose tasks share them: each takes the next one that is free. A cell's lock keeps two jobs
    from running it at once. A cell that this array failed, or that ended three attempts without a word, is left to
    `retry`; and no job takes a cell twice, so a cell that kills its job cannot end all jobs of the array."""

    ATTEMPTS = 3

    def __init__(self, sweep: Path, record: Record) -> None:
        self._sweep, self._record = sweep, record
        self.waiting = list(record.tasks[0])
        self.taken: list[Task] = []

    def take(self) -> CellJob | None:
        """The first cell that is free; None if none is."""
        cancelled = cancelled_cells(self._sweep)
        held: list[Task] = []
        job = None
        while self.waiting and job is None:
            task = self.waiting.pop(0)
            if task.run_id in cancelled or self._is_over(task):
                continue
            if is_held(cell_directory(self._sweep, task.run_id)):
                held.append(task)
                continue
            self.taken.append(task)
            job = _read_job(self._sweep, task, self._record.profile)
        self.waiting = held + self.waiting
        return job

    def _is_over(self, task: Task) -> bool:
        state = read_state(self._sweep, task.run_id)
        if state.state == "failed":
            return self._record.submitted_as(state.marker.get("job"))
        attempts = state.heartbeat.get("attempt", 0) - task.history.begun
        silent = state.heartbeat.get("state") == "running" and attempts >= self.ATTEMPTS
        return state.finished or (silent and not is_held(cell_directory(self._sweep, task.run_id)))


def run_packed(take: Callable[[], CellJob | None], slots: int, stop: StopFlag) -> None:
    """Runs the cells that `take` gives, `slots` at a time, each bound to its share of the cores, until there are none
    and all have ended. Once `stop` is set, the running ones are told to save and no more are started.

    A cell reports that it is over, and the next one starts while the kernel still takes the first one's process apart.
    """
    import_trainer()
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[ForkProcess, CellJob, int]] = {}
    told = False
    more = True
    while running or (more and not stop()):
        free = sorted(set(range(slots)) - {slot for _, _, slot in running.values()})
        while more and free and not stop():
            job = take()
            more = job is not None
            if job:
                slot = free.pop(0)
                over, says_over = multiprocessing.Pipe(duplex=False)
                process = context.Process(target=_run, args=(job, slot, slots, stop, says_over, os.getpid()))
                process.start()
                says_over.close()
                running[over] = process, job, slot
        if stop() and not told:
            told = True
            for process, _, _ in running.values():
                process.terminate()
        for heard in wait(list(running), timeout=0.2):
            assert isinstance(heard, Connection)
            process, job, _ = running.pop(heard)
            more = True
            with heard:
                try:
                    heard.recv_bytes()
                except EOFError:
                    process.join()
                    _note_death(job, process.exitcode or 0)


def import_trainer() -> None:
    """Imports, once for all cells of a job, what each would import by itself for half a second. They are forked from
    here, and a frozen heap stays shared with them."""
    import mtrl.envs.env_group
    import mtrl.train  # noqa: F401

    gc.collect()
    gc.freeze()


def _run(job: CellJob, slot: int, slots: int, stop: StopFlag, says_over: Connection, parent: int) -> None:
    """In the child: takes its share of cores and GPUs, runs the cell, and reports that it is over."""
    _end_with(parent)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[slot::slots] or cores)
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    run_cell(job, told_to_stop=stop)
    says_over.send_bytes(b"over")


def _end_with(parent: int) -> None:
    """Asks the kernel for a TERM once the job's process has died, so that the cell saves and ends. Where there are no
    cgroups, Slurm would leave it training."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before that
        os.kill(os.getpid(), signal.SIGTERM)


def _unlink_call() -> None:
    """Removes the link that this task made to its array's pickle: submitit has read it. A requeued task links anew."""
    if "SUBMITIT_FOLDER" in os.environ:
        submitit.JobEnvironment().paths.submitted_pickle.unlink(missing_ok=True)


def _read_job(sweep: Path, task: Task, profile: dict[str, Any]) -> CellJob | None:
    """The cell as its line in the manifest describes it. None where that line was damaged after the submission: the
    cell has then failed, and the others of the job can still run."""
    directory = cell_directory(sweep, task.run_id)
    config = _stored_config(sweep, task)
    if config is None:
        directory.mkdir(parents=True, exist_ok=True)
        error = f"{_line_of(sweep, task)} is damaged; a launch of the grid writes it anew"
        print(f"{task.run_id}: {error}", file=sys.stderr)
        write_failed(directory, task.run_id, error, cause="exception", job=slurm_job())
        return None
    return CellJob(
        task.run_id,
        directory,
        json.dumps(as_meant(config)),
        profile["heartbeat_seconds"],
        on_gpu=profile["gpus"] > 0,
    )


def _stored_config(sweep: Path, task: Task) -> dict[str, Any] | None:
    """The cell's configuration; None where its line is damaged."""
    with (sweep / "manifest.jsonl").open("rb") as file:
        file.seek(task.offset)
        try:
            line = json.loads(file.readline())
            config: dict[str, Any] = line["config"]
            sound = line["run_id"] == task.run_id and is_run_id_of(task.run_id, config)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
    return config if sound else None


def _line_of(sweep: Path, task: Task) -> str:
    with (sweep / "manifest.jsonl").open("rb") as file:
        number = file.read(task.offset).count(b"\n") + 1
    return f"{file.name}, line {number},"


def _note_death(job: CellJob, exit_code: int) -> None:
    """A cell's process died and left no marker: a signal that no program can catch, or a crash in native code."""
    how = f"killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    print(f"{job.run_id}: {how}", file=sys.stderr)
    if job.directory.is_dir():
        cause = "killed" if exit_code == -9 else "exception"
        write_failed(job.directory, job.run_id, f"the process was {how}", cause=cause, job=slurm_job())


def _requeue() -> None:
    """Requeues this job, unless Slurm is already ending or requeueing it. Without an answer the job just ends, and the
    next launch or retry finds its cells."""
    job = slurm_job()
    if job is None:
        return
    try:
        state = call(["squeue", "--noheader", f"--jobs={job}", "--format=%T"], seconds=10, tries=2).strip()
        print(f"stopped in state {state}", flush=True)
        if state == "RUNNING":
            call(["scontrol", "requeue", job], seconds=10, tries=2)
    except SlurmError as error:
        print(f"not requeued: {error}", file=sys.stderr, flush=True)
