"""Runs one Slurm job: the cells of its array task, each in a separate process, several at a time.

submitit calls `run_task` in every task of an array, and `run_commands` in the job that follows a sweep. This process
imports the trainer once and forks the cells' processes, so a cell starts in milliseconds. If a cell's process is
killed, for example by the kernel when memory runs out, this process records it.
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
import time
from collections.abc import Callable, Container, Sequence
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
    """Runs this array task and exits with its code. So submitit, which called this, writes no result file."""
    sys.exit(run_job(Path(sweep), token))


def run_commands(commands: Sequence[Sequence[str]]) -> NoReturn:
    """Runs the commands one after another and exits; at the first that fails, with its code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it; there is nothing to save here
    _unlink_call()
    for command in commands:
        print(shlex.join(command), flush=True)
        if code := subprocess.run(command).returncode:
            sys.exit(code)
    sys.exit(0)


def run_job(sweep: Path, token: str) -> int:
    """Runs the cells that the record `token` gives to this array task. Returns the exit code of the job.

    If Slurm asks it to stop (time limit, preemption), the cells save checkpoints. Then the job requeues itself, if a
    cell has advanced, not all its cells are cancelled and Slurm is not ending or requeueing it already.
    """
    with StopFlag() as stop:  # before anything else, in place of submitit's handlers
        _unlink_call()
        record = read_record(sweep, token)
        if record is None:
            print(f"{token} was withdrawn; nothing to do")
            return 0
        cells = SharedCells(sweep, record) if record.jobs else OwnCells(sweep, record, array_task())
        while True:
            cells.give_back(run_packed(cells.take, record.profile["cells_per_job"], stop))
            if not cells.wait_for_one(stop):
                break
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
        # What still waits is held by another process; of a shared array, by a job that runs it.
        owed = [] if record.jobs else cells.waiting
        return FAILED if owed or not all(state.finished for _, state in states) else 0


def array_task() -> int:
    """The number of this array task; 0 if the job is no array."""
    return int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))


class _Cells:
    """The cells that a job may run: those that wait, and those that it took."""

    PATIENCE = 60.0  # seconds; the cells of a killed job save before they let go
    PAUSE = 2.0  # seconds between two looks meanwhile

    def __init__(self, sweep: Path, record: Record, waiting: Sequence[Task]) -> None:
        self._sweep, self._record = sweep, record
        self.waiting = list(waiting)
        self.taken: list[Task] = []

    def give_back(self, run_ids: Container[str]) -> None:
        """These cells were taken and turned out to be held by another process: they wait again."""
        self.waiting += [task for task in self.taken if task.run_id in run_ids]
        self.taken = [task for task in self.taken if task.run_id not in run_ids]

    def wait_for_one(self, stop: StopFlag) -> bool:
        """Whether another process lets go of a waiting cell that is not over, within PATIENCE seconds.

        For a job that found no free cell: all that wait were held when it looked.
        """
        end = time.monotonic() + self.PATIENCE
        while self.waiting and not stop() and time.monotonic() < end:
            time.sleep(self.PAUSE)
            self._drop_cancelled()
            free = [task for task in self.waiting if not is_held(cell_directory(self._sweep, task.run_id))]
            over = [task for task in free if self._is_over(task)]
            if len(free) > len(over):
                return True
            self.waiting = [task for task in self.waiting if task not in over]
        return False

    def _drop_cancelled(self) -> None:
        cancelled = cancelled_cells(self._sweep)
        self.waiting = [task for task in self.waiting if task.run_id not in cancelled]

    def _is_over(self, task: Task) -> bool:
        return read_state(self._sweep, task.run_id).finished


class OwnCells(_Cells):
    """The cells of one array task; no other task has them."""

    def __init__(self, sweep: Path, record: Record, number: int) -> None:
        super().__init__(sweep, record, record.tasks[number])

    def take(self) -> CellJob | None:
        """The next cell to run; None if none is left."""
        self._drop_cancelled()
        job = None
        while self.waiting and job is None:
            self.taken.append(self.waiting.pop(0))
            job = _read_job(self._sweep, self.taken[-1], self._record.profile)
        return job


class SharedCells(_Cells):
    """The cells of an array whose tasks share them: each task takes the next free one.

    A cell's lock prevents two jobs from running it at the same time. No job runs a cell twice. A cell that failed in
    this array, or that ended ATTEMPTS attempts without a marker, is left to `retry`: a cell that kills its job cannot
    end all jobs of the array.
    """

    ATTEMPTS = 3

    def __init__(self, sweep: Path, record: Record) -> None:
        super().__init__(sweep, record, record.tasks[0])

    def take(self) -> CellJob | None:
        """The first free cell; None if no cell is free."""
        self._drop_cancelled()
        held: list[Task] = []
        job = None
        while self.waiting and job is None:
            task = self.waiting.pop(0)
            if self._is_over(task):
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


def run_packed(take: Callable[[], CellJob | None], slots: int, stop: StopFlag) -> set[str]:
    """Runs the cells that `take` returns, `slots` at a time, each on its share of the cores, until all have ended.

    Returns the run ids of those that did not run, because another process held them.

    Once `stop` is set, the running cells get a TERM, on which they save and end, and no more cells start. A cell
    reports its end through a pipe, so that the next one starts while the kernel still removes the first one's process.
    """
    import_trainer()
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[ForkProcess, CellJob, int]] = {}
    busy = set()
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
        for heard in wait(list(running), timeout=0.2) if running else ():
            assert isinstance(heard, Connection)
            process, job, _ = running.pop(heard)
            more = True
            with heard:
                try:
                    if heard.recv_bytes() == b"busy":
                        busy.add(job.run_id)
                except EOFError:
                    process.join()
                    _note_death(job, process.exitcode or 0)
    return busy


def import_trainer() -> None:
    """Imports the trainer once for all cells of the job, which saves each half a second.

    The cells are forked from this process; a frozen heap stays shared with them.
    """
    import mtrl.envs.env_group
    import mtrl.train  # noqa: F401

    gc.collect()
    gc.freeze()


def _run(job: CellJob, slot: int, slots: int, stop: StopFlag, says_over: Connection, parent: int) -> None:
    """In the child: takes its share of cores and GPUs, runs the cell, and reports its outcome."""
    _end_with(parent)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[slot::slots] or cores)
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    says_over.send_bytes(run_cell(job, told_to_stop=stop).encode())


def _end_with(parent: int) -> None:
    """Asks the kernel to send this cell a TERM when the job's process dies, so that the cell saves and ends.

    Without cgroups, Slurm would leave the cell running.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the request
        os.kill(os.getpid(), signal.SIGTERM)


def _unlink_call() -> None:
    """Removes this task's link to its array's pickle, which submitit has read. A requeued task makes a new link."""
    if "SUBMITIT_FOLDER" in os.environ:
        submitit.JobEnvironment().paths.submitted_pickle.unlink(missing_ok=True)


def _read_job(sweep: Path, task: Task, profile: dict[str, Any]) -> CellJob | None:
    """The cell as its line in the manifest describes it.

    None if the line was damaged after the submission: then this marks the cell as failed, and the job's other cells
    run.
    """
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
    """The cell's configuration; None if its line is damaged."""
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
    """Marks a cell as failed whose process died without a marker: by KILL, or by a crash in native code."""
    how = f"killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    print(f"{job.run_id}: {how}", file=sys.stderr)
    if job.directory.is_dir():
        cause = "killed" if exit_code == -9 else "exception"
        write_failed(job.directory, job.run_id, f"the process was {how}", cause=cause, job=slurm_job())


def _requeue() -> None:
    """Requeues this job, unless Slurm is already ending or requeueing it.

    If Slurm does not answer, the job ends, and the next launch or retry submits its cells.
    """
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
