"""Cancelling cells: they are not run any more, and jobs that have nothing else to do end."""

from __future__ import annotations

from pathlib import Path

from slurm.commands import call
from slurm.queue import read_queue
from slurm.records import read_records, record_path
from slurm.state import cancelled_cells, write_cancelled


def cancel(sweep: Path, run_ids: set[str]) -> tuple[int, list[str]]:
    """Makes these cells final: they are not run any more. Ends the jobs that have nothing else to do. Returns how many
    array tasks were ended, and the cells that go on because a cell of the same job does."""
    write_cancelled(sweep, cancelled_cells(sweep) | run_ids)
    records = [
        record
        for record in read_records(sweep)
        if any(t.run_id in run_ids for ts in record.tasks for t in ts)
    ]
    if not records:
        return 0, []
    queue = read_queue()
    targets, shared = [], []
    for record in records:
        job = record.job or queue.jobs.get(record.name)
        if job is None:
            record_path(
                sweep, record.token
            ).unlink()  # its sbatch may be on its way: the job will find nothing to do
            continue
        for number, tasks in enumerate(record.tasks):
            queued = queue.tasks.get((job, number))
            if queued and queued.name != record.name:
                continue
            chosen = [task.run_id for task in tasks if task.run_id in run_ids]
            if chosen and queued and (queued.alive or queued.held):
                if len(chosen) == len(tasks):
                    targets.append(f"{job}_{number}")
                else:
                    shared += chosen
    for start in range(0, len(targets), 500):
        call(["scancel", *targets[start : start + 500]])
    return len(targets), shared
