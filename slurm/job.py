"""What one Slurm job does: the cells of its array task, each in a process of its own, several at a time.

submitit calls `run_task` in every task of an array, and `run_commands` in the job that follows a sweep. The trainer is
imported once and the cells' processes are forked from here, so a cell costs milliseconds to start. This process
outlives a cell that is killed, as by the kernel for want of memory, and writes down what became of it.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NoReturn

import submitit

from mtrl.run_ids import as_meant
from slurm.commands import SlurmError, call
from slurm.records import Task, read_record
from slurm.state import cell_directory, is_cancelled, read_json, read_state, write_json
from slurm.worker import CellJob, StopFlag, run_cell, slurm_job

FAILED = 1


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

    Told to stop (time limit, preemption), it lets the cells save, and asks Slurm for another go unless the sweep was
    cancelled or the job is already on its way out of the queue.
    """
    with StopFlag() as stop:  # first of all, over submitit's own handlers
        _unlink_call()
        record = read_record(sweep, token)
        if record is None:
            print(f"{token} was withdrawn; nothing to do")
            return 0
        tasks = record.tasks[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
        tasks = [task for task in tasks if not is_cancelled(sweep, task.run_id)]
        profile = record.profile
        jobs = [_read_job(sweep, task, profile) for task in tasks]
        run_packed(jobs, profile["cells_per_job"], stop)
        states = [read_state(sweep, task.run_id) for task in tasks]
        if stop() and not all(state.finished or state.state == "failed" for state in states):
            moved = any(
                (state.heartbeat.get("vector_step") or 0) > task.history.vector_step
                for state, task in zip(states, tasks, strict=True)
            )
            if moved and not all(is_cancelled(sweep, task.run_id) for task in tasks):
                _ask_for_another_go()
            return FAILED
        return 0 if all(state.finished for state in states) else FAILED


def run_packed(jobs: Sequence[CellJob], slots: int, stop: StopFlag) -> None:
    """Runs the cells, `slots` at a time, each bound to its share of the cores. Once `stop` says so the running ones
    are told to save and no more are started.

    A cell says that it is over, and the next one starts while the kernel still takes the first one's process apart.
    """
    import_trainer()
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(jobs))
    running: dict[Connection, tuple[ForkProcess, CellJob, int]] = {}
    told = False
    while running or (waiting and not stop()):
        free = sorted(set(range(slots)) - {slot for _, _, slot in running.values()})
        while waiting and free and not stop():
            job, slot = waiting.pop(), free.pop(0)
            over, says_over = multiprocessing.Pipe(duplex=False)
            process = context.Process(target=_run, args=(job, slot, slots, stop, says_over))
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


def _run(job: CellJob, slot: int, slots: int, stop: StopFlag, says_over: Connection) -> None:
    """In the child: takes its share of cores and GPUs, runs the cell, and says that it is over."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[slot::slots] or cores)
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    run_cell(job, told_to_stop=stop)
    says_over.send_bytes(b"over")


def _unlink_call() -> None:
    """Removes the link that this task made to its array's pickle: submitit has read it. A requeued task links anew."""
    if "SUBMITIT_FOLDER" in os.environ:
        submitit.JobEnvironment().paths.submitted_pickle.unlink(missing_ok=True)


def _read_job(sweep: Path, task: Task, profile: dict[str, Any]) -> CellJob:
    with (sweep / "manifest.jsonl").open("rb") as file:
        file.seek(task.offset)
        line: dict[str, Any] = json.loads(file.readline())
    if line["run_id"] != task.run_id:
        raise ValueError(f"{sweep}/manifest.jsonl was changed: byte {task.offset} is not cell {task.run_id}")
    return CellJob(
        task.run_id,
        cell_directory(sweep, task.run_id),
        json.dumps(as_meant(line["config"])),
        profile["heartbeat_seconds"],
        on_gpu=profile["gpus"] > 0,
    )


def _note_death(job: CellJob, exit_code: int) -> None:
    """A cell's process died without a word: a signal that no program can catch, or a crash in native code."""
    how = f"killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    cause = "killed" if exit_code == -9 else "exception"
    heartbeat = read_json(job.directory / "heartbeat.json") or {}
    facts: dict[str, Any] = {
        "run_id": job.run_id,
        "error": f"the process was {how}",
        "traceback": "",
        "cause": cause,
    }
    facts |= {"attempts": heartbeat.get("attempt", 1), "job": slurm_job(), "time": time.time()}
    print(f"{job.run_id}: {how}", file=sys.stderr)
    if job.directory.is_dir():
        write_json(job.directory / "FAILED.json", facts)


def _ask_for_another_go() -> None:
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
