"""The state of every cell of a sweep, from its files and one call of squeue.

finished.jsonl lists the cells that are over, so that later looks need not read their files. A launch does not trust it
and checks each run file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from slurm.accounting import read_ended
from slurm.queue import Queue, QueuedTask
from slurm.records import Record, Task, latest_tasks, read_records
from slurm.state import CellState, cancelled_cells, parse_lines, read_state

OUTPUT_BYTES = 1_000_000  # read from the end of a job's output
SAYS_NOTHING = re.compile(r"^submitit (INFO|WARNING)|\*\*\* JOB \d+|was withdrawn; nothing to do")


@dataclass(frozen=True)
class Survey:
    """The states of cells by run id, in the order asked for, and their submissions."""

    sweep: Path
    cells: dict[str, CellState]
    records: list[Record]
    submitted: dict[str, tuple[Record, int, Task]]  # the latest submission of a cell
    queue: Queue | None  # None: Slurm was not asked, or did not answer
    # Computed once for each record; the keys are tokens.
    outputs: dict[str, str] = field(default_factory=dict)
    last_lines: dict[str, dict[str, str]] = field(default_factory=dict)
    arrays: dict[str, list[QueuedTask]] = field(default_factory=dict)

    def queued(self, run_id: str) -> QueuedTask | None:
        """The cell's latest job in the queue; None if it is not there."""
        if self.queue is None or run_id not in self.submitted:
            return None
        record, number, _ = self.submitted[run_id]
        return self._shared(run_id, record) if record.jobs else self._task(record, number)

    def _task(self, record: Record, number: int) -> QueuedTask | None:
        assert self.queue is not None
        job = record.job or self.queue.jobs.get(record.name, "")
        task = self.queue.tasks.get((job, number))
        if task and task.name != record.name:
            return None  # a controller that lost its latest jobs in a crash uses their numbers again
        if (
            task
            and task.state in ("FAILED", "CANCELLED")
            and self._was_killed_for_memory(record, task.number)
        ):
            return replace(task, state="OUT_OF_MEMORY")
        return task

    def _shared(self, run_id: str, record: Record) -> QueuedTask | None:
        """The job of a cell that several jobs share: the one that runs it or ran it last.

        If that one has ended and others are alive, a pending job, because one of them will take the cell.
        """
        cell = self.cells[run_id]
        last = str(cell.marker.get("job") or cell.heartbeat.get("job"))
        mine = self._task(record, int(last.partition("_")[2])) if record.submitted_as(last) else None
        if mine and mine.alive and cell.state in ("running", "failed"):
            return mine
        if record.token not in self.arrays:
            tasks = (self._task(record, number) for number in range(record.jobs))
            # Jobs that are alive come first, then held ones; only the first is used.
            order = sorted((task for task in tasks if task), key=lambda task: (not task.alive, not task.held))
            self.arrays[record.token] = order
        first = next(iter(self.arrays[record.token]), None)
        if first and first.alive:
            return replace(first, state="PENDING", reason="until a job of its array takes it", node="")
        return first if first and first.held else mine or first

    def is_of_latest_job(self, state: CellState) -> bool:
        """Whether the cell's latest submission wrote its marker."""
        if state.run_id not in self.submitted:
            return True
        record, number, _ = self.submitted[state.run_id]
        job = state.marker.get("job")
        return record.submitted_as(job) if record.jobs else job == f"{record.job}_{number}"

    def last_words(self, record: Record, job: QueuedTask) -> str:
        """The last line of the job's own output (not a cell's), with the file's name; empty if there is none."""
        if record.token not in self.last_lines:
            found = self.last_lines[record.token] = {}
            for line in self._output(record).splitlines():
                if line.strip() and not SAYS_NOTHING.search(line):
                    number = re.search(r"job0*(\d+)\b", line)
                    found[""] = found[number[1] if number else ""] = line.strip()
        lines = self.last_lines[record.token]
        words = lines.get(job.number) or lines.get("")
        return f"{words} (in {self._output_path(record)})" if words else ""

    def _was_killed_for_memory(self, record: Record, number: str) -> bool:
        """Whether the array's output says that Slurm killed the job `number` for its memory.

        If cgroups do not limit the memory, the queue shows such a job as FAILED.
        """
        text = self._output(record)
        limit, event = (
            rf"StepId={number}\b\S* exceeded memory limit",
            rf"oom.kill event\S* in StepId={number}\b",
        )
        return f"StepId={number}" in text and bool(re.search(f"{limit}|{event}", text))

    def _output_path(self, record: Record) -> Path:
        return self.sweep / "slurm" / f"{record.token}.out"

    def _output(self, record: Record) -> str:
        """The end of the output of an array's jobs."""
        if record.token not in self.outputs:
            try:
                with self._output_path(record).open("rb") as file:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - OUTPUT_BYTES))
                    self.outputs[record.token] = file.read().decode(errors="replace")
            except OSError:
                self.outputs[record.token] = ""
        return self.outputs[record.token]


def survey(sweep: Path, run_ids: Iterable[str], queue: Queue | None, *, verify: bool = False) -> Survey:
    """The states of those cells. With `verify` the run file of each finished cell is checked again.

    If jobs of unfinished cells have left the queue, the cluster's accounting, if there is one, says how they ended.
    """
    run_ids = list(run_ids)
    records = read_records(sweep)
    known = {} if verify else _read_finished(sweep)
    begun = _cells_begun(sweep)
    cancelled = cancelled_cells(sweep)
    cells = {
        run_id: known.get(run_id)
        or (read_state(sweep, run_id) if run_id in begun else CellState(run_id, "missing"))
        for run_id in run_ids
    }
    found = Survey(sweep, cells, records, latest_tasks(records), queue)
    unsure = [run_id for run_id, cell in cells.items() if not cell.finished and run_id not in cancelled]
    found = _with_ended(found, unsure)
    _remember_finished(
        sweep, [cell for cell in cells.values() if cell.finished and cell.run_id not in known], anew=verify
    )
    for run_id, state in cells.items():
        if not state.finished:
            cells[run_id] = _with_queue(state, found, cancelled=run_id in cancelled)
    return found


def _with_ended(found: Survey, run_ids: Sequence[str]) -> Survey:
    """The survey, with jobs that have left the queue added from accounting."""
    if found.queue is None:
        return found
    places = [found.submitted[run_id][:2] for run_id in run_ids if run_id in found.submitted]
    gone = {
        record.job
        for record, number in places
        if record.job and (record.job, number) not in found.queue.tasks
    }
    if not gone:
        return found
    queue = replace(found.queue, tasks={**read_ended(gone), **found.queue.tasks})
    return replace(found, queue=queue)


def _with_queue(state: CellState, found: Survey, *, cancelled: bool) -> CellState:
    """The state of an unfinished cell, once its job's state is known."""
    queued = found.queued(state.run_id)
    record = found.submitted[state.run_id][0] if state.run_id in found.submitted else None
    waits = queued is not None and queued.state == "PENDING"
    at_work = queued is not None and queued.alive
    if state.state == "failed" and not found.is_of_latest_job(state):
        state = replace(state, state="stopped", reason="", marker={})  # an earlier attempt failed
    if record and record.jobs and waits:
        at_work = False  # jobs that share their cells take none that is cancelled or that one of them failed
        waits = state.state != "failed"
    if cancelled and not at_work:
        return replace(state, state="cancelled", reason="")
    if record is None:
        return state
    if found.queue is None:
        last_seen = replace(state, state="pending", reason="as last seen; Slurm was not asked")
        return last_seen if state.state == "missing" else state
    if queued is None:
        return _over(state, "no longer in Slurm's queue")
    if queued.held:
        return replace(state, state="held", reason=queued.reason)
    if waits:
        return replace(state, state="pending", reason="" if queued.reason == "None" else queued.reason)
    if at_work:
        return state if state.state == "failed" else replace(state, state="running", reason=queued.node)
    reason = f"job {queued.state}" + (f" on {queued.node}" if queued.node else "")
    # If no cell began, a setup line or Python failed, and the job's own output has the cause.
    began = state.state != "missing"
    if queued.state == "FAILED" and not began and (words := found.last_words(record, queued)):
        reason = f"{reason}: {words}"
    return _over(state, reason)


def _over(state: CellState, reason: str) -> CellState:
    """A cell whose job has ended."""
    if state.state == "failed":
        return state
    return replace(state, state="stopped" if state.heartbeat else "missing", reason=state.reason or reason)


def _cells_begun(sweep: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(sweep / "cells")}
    except FileNotFoundError:
        return set()


def _read_finished(sweep: Path) -> dict[str, CellState]:
    try:
        lines = (sweep / "finished.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    known = {}
    for marker in parse_lines([line for line in lines if line]):
        with suppress(KeyError, TypeError):  # a crash cut the line off: the cell's files are read again
            known[marker["run_id"]] = CellState(marker["run_id"], marker["outcome"], marker=marker)
    return known


def _remember_finished(sweep: Path, fresh: Sequence[CellState], *, anew: bool) -> None:
    """Adds the finished cells to finished.jsonl, or with `anew` replaces its content by them.

    Does nothing if the sweep cannot be written.
    """
    kept = ("seconds", "attempts", "job")
    lines = [
        json.dumps(
            {"run_id": cell.run_id, "outcome": cell.state} | {key: cell.marker.get(key) for key in kept}
        )
        for cell in fresh
    ]
    try:
        if anew:
            unfinished = sweep / f".finished.{os.getpid()}"
            unfinished.write_text("".join(f"{line}\n" for line in lines))
            unfinished.replace(sweep / "finished.jsonl")
        elif lines:
            with (sweep / "finished.jsonl").open("a") as file:
                file.write("".join(f"\n{line}\n" for line in lines))
    except OSError:
        return
