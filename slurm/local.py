"""The executors of one machine: `inline` runs cells in this process, `local` in processes that submitit starts."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import submitit

from slurm.state import Outcome, read_json, write_failed
from slurm.worker import CellJob, StopFlag, run_cell

POLL_SECONDS = 0.2
UNLIMITED_MINUTES = 60 * 24 * 365
Finished = Callable[[CellJob, Outcome], None]


def run_inline(jobs: Sequence[CellJob], finished: Finished) -> None:
    """Runs the cells one after another in this process. A stop signal ends the running cell; no more cells start.

    `finished` is called with each cell that has ended and its outcome.
    """
    with StopFlag() as stop:
        for job in jobs:
            if stop():
                return
            outcome = run_cell(job)
            finished(job, outcome)
            if outcome == "stopped":
                return


def run_local(
    jobs: Sequence[CellJob], finished: Finished, *, slots: int, folder: Path, tick: Callable[[set[str]], None]
) -> None:
    """Runs each cell in a separate process, `slots` at a time.

    `finished` is called with each cell that has ended and its outcome, `tick` several times a second with the run ids
    that are running. At a first Ctrl-C the running cells save checkpoints and stop, and no more start; a second one
    kills them. `folder` holds submitit's files while cells run.
    """
    waiting = list(reversed(jobs))
    running: dict[submitit.Job[Outcome], CellJob] = {}
    gpus = itertools.cycle(_visible_gpus())
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # for numpy; the trainer sets torch's threads from the config
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(timeout_min=UNLIMITED_MINUTES)
    with _Interrupts() as interrupts:
        while running or (waiting and not interrupts.count):
            while waiting and len(running) < slots and not interrupts.count:
                job = waiting.pop()
                running[_start(executor, job, next(gpus))] = job
            interrupts.pass_on(running)
            time.sleep(POLL_SECONDS)
            for handle in [handle for handle in running if handle.done()]:
                job = running.pop(handle)
                finished(job, _outcome(handle, job))
            tick({job.run_id for job in running.values()})
    shutil.rmtree(folder, ignore_errors=True)


class _Interrupts:
    """Counts Ctrl-C and TERM, and passes them on to the running cells."""

    def __init__(self) -> None:
        self.count = 0
        self._passed_on = 0

    def __enter__(self) -> _Interrupts:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def pass_on(self, running: dict[submitit.Job[Outcome], CellJob]) -> None:
        if self.count == self._passed_on:
            return
        self._passed_on = self.count
        for handle, job in running.items():
            if self.count == 1:
                _signal(
                    int(handle.job_id), signal.SIGTERM
                )  # submitit's controller passes it on to the worker
            else:
                _signal(_worker_pid(job), signal.SIGKILL)


def _start(executor: submitit.LocalExecutor, job: CellJob, gpu: str | None) -> submitit.Job[Outcome]:
    """Starts one cell.

    submitit's controller would kill its worker one second after a Ctrl-C at the terminal. So it starts with SIGINT
    ignored; the worker installs its own handlers.
    """
    job = replace(job, environment=(("CUDA_VISIBLE_DEVICES", gpu),))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor.submit(run_cell, job)
    finally:
        signal.signal(signal.SIGINT, before)


def _outcome(handle: submitit.Job[Outcome], job: CellJob) -> Outcome:
    """The worker's result. If the worker died without one, this writes the cell's FAILED.json."""
    if handle.paths.result_pickle.exists() and handle.exception() is None:
        outcome: Outcome = handle.result()
        return outcome
    error = (handle.stderr() or "").strip() or "the worker was killed; is the machine short of memory?"
    write_failed(job.directory, job.run_id, error.splitlines()[-1], cause="killed", traceback=error)
    return "failed"


def _worker_pid(job: CellJob) -> int:
    return int((read_json(job.directory / "heartbeat.json") or {}).get("pid", 0))


def _signal(pid: int, number: int) -> None:
    if pid > 0:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _visible_gpus() -> list[str | None]:
    """The values of CUDA_VISIBLE_DEVICES for the cells in turn, one GPU each. None leaves the choice to CUDA."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return list(chosen.split(","))
    listed = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index in range(len(list(listed.iterdir())))] if listed.is_dir() else [None]
