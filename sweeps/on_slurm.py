"""A sweep on Slurm: under the sweep's lock, finds the cells that must run, and submits them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from slurm.commands import call
from slurm.limits import Limits, read_limits
from slurm.profiles import Profile, point_at
from slurm.queue import Queue, read_queue
from slurm.records import History, Record, Task, close_record, read_records, record_path, write_record
from slurm.retry import Verdict, blamed_nodes, insist, judge
from slurm.submit import CellRequest, plan_arrays, submit
from slurm.survey import Survey, survey
from sweeps.follow import follow
from sweeps.launched import Launched
from sweeps.manifest import Entry, hold_sweep, record_launch
from sweeps.plan import check_disk, plan_cells

SETTLING_SECONDS = 15.0  # how long after its launcher died an sbatch may still create a job


def launch_on_slurm(
    sweep: Path,
    entries: Sequence[Entry],
    profile: Profile,
    *,
    by_rule: bool = False,
    then: Sequence[str] = (),
) -> Launched:
    """Submits every cell that is not over, running, queued or cancelled.

    With `by_rule` cells that `slurm.retry` gives up are left out; otherwise they get another attempt. `then` are the
    words of `--then`. Raises LaunchError if another launcher is at work or the disk is too full, SlurmError if Slurm
    does not answer.
    """
    point_at(profile)
    with hold_sweep(sweep):
        queue = _settled_queue(sweep)
        found = survey(sweep, [entry.run_id for entry in entries], queue, verify=True)
        verdicts = {entry.run_id: _verdict(found, entry.run_id) for entry in entries}
        given_up = {
            run_id: verdict.reason for run_id, verdict in verdicts.items() if verdict.action == "give up"
        }
        if not by_rule:
            verdicts = {run_id: insist(verdict) for run_id, verdict in verdicts.items()}
            given_up = {}
        todo = [entry for entry in entries if verdicts[entry.run_id].action == "resubmit"]
        over = sum(cell.finished for cell in found.cells.values())
        cancelled = sum(cell.state == "cancelled" for cell in found.cells.values())
        if not todo:
            if then and (over or any(cell.state in ("pending", "running") for cell in found.cells.values())):
                follow(sweep, then, profile, [], queue)
            return Launched(0, over, given_up, cancelled=cancelled)
        planned = plan_cells([entry.cell for entry in todo], gpu=profile.gpus > 0)
        check_disk(sweep, planned, len(planned))
        excluded = [*profile.exclude, *blamed_nodes(verdict.history for verdict in verdicts.values())]
        profile = profile.model_copy(update={"exclude": tuple(dict.fromkeys(excluded))})
        requests = [
            CellRequest(
                Task(entry.run_id, entry.offset, verdicts[entry.run_id].history),
                item.estimate.memory_mb,
                item.estimate.seconds,
            )
            for entry, item in zip(todo, planned, strict=True)
        ]
        _drop_held_jobs(found, todo)
        record_launch(sweep, cells=len(entries), submitted=len(todo), profile=profile.name)
        limits = read_limits(profile.account, profile.qos)
        done = submit(sweep, plan_arrays(requests, profile, limits), _announce, room=_room(limits, queue))
        if done.records:
            follow(sweep, then, profile, done.records, queue)
        _close_records(sweep, found, queue)
        return Launched(
            submitted=len(todo) - len(done.left_over),
            over=over,
            given_up=given_up,
            arrays=done.records,
            refusal=done.refusal,
            for_good=done.for_good,
            cancelled=cancelled,
        )


def _room(limits: Limits, queue: Queue) -> int | None:
    """How many more jobs this user may submit, if the cluster has a limit."""
    if limits.max_submit is None:
        return None
    return max(0, limits.max_submit - sum(task.alive or task.held for task in queue.tasks.values()))


def _verdict(found: Survey, run_id: str) -> Verdict:
    before = found.submitted[run_id][2].history if run_id in found.submitted else History()
    return judge(found.cells[run_id], found.queued(run_id), before)


def _settled_queue(sweep: Path) -> Queue:
    """The queue, after every record got its job number.

    If a launcher died before it wrote the number, the job is found in the queue by its name; else the record is
    removed.
    """
    queue = read_queue()
    unsettled = [record for record in read_records(sweep) if record.job is None]
    if not unsettled:
        return queue
    # The record may come from a node whose clock is ahead: never wait longer than SETTLING_SECONDS.
    left = max(record.created for record in unsettled) + SETTLING_SECONDS - time.time()
    if left > 0:
        pause = min(left, SETTLING_SECONDS)
        click.echo(
            f"a launcher died while it submitted; waiting {pause:.0f} s for its job to appear", err=True
        )
        time.sleep(pause)
    queue = read_queue()
    for record in unsettled:
        if job := queue.jobs.get(record.name):
            write_record(sweep, replace(record, job=job))
        else:
            record_path(sweep, record.token).unlink()
    return queue


def _drop_held_jobs(found: Survey, todo: Sequence[Entry]) -> None:
    """Takes held tasks out of the queue before their cells are submitted again."""
    places = [found.submitted[entry.run_id] for entry in todo if found.cells[entry.run_id].state == "held"]
    held = [str(record.job) if record.jobs else f"{record.job}_{number}" for record, number, _ in places]
    held = list(dict.fromkeys(held))
    for start in range(0, len(held), 500):
        call(["scancel", *held[start : start + 500]])


def _close_records(sweep: Path, found: Survey, queue: Queue) -> None:
    """Moves records to closed/ that are no longer needed: no task is alive, every cell is over or submitted again."""
    newer = {
        task.run_id
        for record in read_records(sweep)[len(found.records) :]
        for ts in record.tasks
        for task in ts
    }
    for record in found.records:
        alive = any(
            (task := queue.tasks.get((record.job or "", number))) and task.alive
            for number in range(record.size)
        )
        cells = (task.run_id for tasks in record.tasks for task in tasks)
        if not alive and all(
            run_id in newer or (run_id in found.cells and found.cells[run_id].finished) for run_id in cells
        ):
            close_record(sweep, record)


def _announce(record: Record) -> None:
    kind = "jobs that share them" if record.jobs else "tasks"
    click.echo(f"job {record.job}: {sum(map(len, record.tasks))} cells in {record.size} {kind}", err=True)
