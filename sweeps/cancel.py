"""Cancelling cells: they are not run any more, and jobs without other cells end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from slurm.commands import call
from slurm.queue import Queue, read_queue
from slurm.records import Record, Task, read_records, record_path
from slurm.state import cancelled_cells, read_state, write_cancelled


def cancel(sweep: Path, run_ids: set[str]) -> tuple[int, list[str]]:
    """Marks these cells as cancelled, so that they are not run any more, and ends the jobs without other cells.

    Returns how many array tasks were ended, and the run ids of cells that keep running because their job has other
    cells.
    """
    final = cancelled_cells(sweep) | run_ids
    write_cancelled(sweep, final)
    records = [
        record
        for record in read_records(sweep)
        if any(t.run_id in run_ids for ts in record.tasks for t in ts)
    ]
    if not records:
        return 0, []
    queue = read_queue()
    ended, targets, going_on = 0, [], []
    for record in records:
        job = record.job or queue.jobs.get(record.name)
        if job is None:
            # Its sbatch may still be running. Without this record the job will find no cell and end.
            record_path(sweep, record.token).unlink()
            continue
        for name, numbers, tasks in _jobs_of(record, job):
            alive = [number for number in numbers if _is_in(queue, record, job, number)]
            chosen = [task.run_id for task in tasks if task.run_id in run_ids]
            if not (alive and chosen):
                continue
            if all(task.run_id in final or read_state(sweep, task.run_id).finished for task in tasks):
                targets.append(name)
                ended += len(alive)
            else:
                going_on += [run_id for run_id in chosen if read_state(sweep, run_id).state == "running"]
    for start in range(0, len(targets), 500):
        call(["scancel", *targets[start : start + 500]])
    return ended, going_on


def _jobs_of(record: Record, job: str) -> Iterator[tuple[str, Sequence[int], list[Task]]]:
    """A job or array that one scancel ends: its name, its array tasks, and their cells."""
    if record.jobs:
        yield job, range(record.jobs), record.tasks[0]
    else:
        yield from ((f"{job}_{number}", [number], tasks) for number, tasks in enumerate(record.tasks))


def _is_in(queue: Queue, record: Record, job: str, number: int) -> bool:
    task = queue.tasks.get((job, number))
    return bool(task and task.name == record.name and (task.alive or task.held))
