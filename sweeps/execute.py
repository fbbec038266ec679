"""Launching: decide what is missing, then run it on this machine or hand it to Slurm."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from mtrl.cpus import usable_cpus
from slurm.commands import SlurmError, call
from slurm.limits import Limits, read_limits
from slurm.local import run_inline, run_local
from slurm.profiles import Profile, point_at
from slurm.queue import Queue, read_queue
from slurm.records import (
    History,
    Record,
    Task,
    close_record,
    last_profile,
    read_records,
    record_path,
    write_record,
)
from slurm.retry import Verdict, blamed_nodes, insist, judge
from slurm.state import Outcome, cancelled_cells, cell_directory, read_state
from slurm.submit import CellRequest, plan_arrays, submit, submit_after
from slurm.survey import Survey, survey
from slurm.worker import CellJob
from sweeps.manifest import Entry, SweepError, hold_sweep, record_launch
from sweeps.plan import PlannedCell, disk_needed, plan_cells
from sweeps.show import LiveCells, size

SETTLING_SECONDS = 15.0  # how long an sbatch may still be on its way after its launcher died
LOCAL_HEARTBEAT_SECONDS = 0.5

# What runs after a sweep, by the word that `--then` takes.
GATHER = "import sys; from analysis.frames import open_sweep, save; from pathlib import Path; "
GATHER += "save(open_sweep(sys.argv[1]), Path(sys.argv[1]) / 'dataset.nc')"
FIT = str(Path(__file__).resolve().parent.parent / "analysis" / "fit_scaling_laws.py")


@dataclass(frozen=True)
class Launched:
    """What came of a launch, whoever runs the cells."""

    submitted: int  # cells handed to Slurm, or run here
    over: int  # cells that are done or diverged now
    given_up: dict[str, str]  # run id -> reason: by the rules of `slurm.retry`, or failed here
    arrays: list[Record] = field(default_factory=list)
    refusal: str = ""
    for_good: bool = False  # a later launch is refused too
    busy: list[str] = field(default_factory=list)  # held by another process
    interrupted: bool = False


def run(
    sweep: Path,
    entries: Sequence[Entry],
    executor: str,
    profile: Profile | None = None,
    *,
    by_rule: bool = False,
    then: Sequence[str] = (),
) -> Launched:
    """Runs what is missing of `entries`: `inline` in this process, `local` in processes of this machine, and returns
    when they have ended; `slurm` as the jobs of `profile`, and returns once they are submitted."""
    after = commands_after(sweep, then)
    if executor == "slurm":
        assert profile is not None
        return launch_on_slurm(sweep, entries, profile, by_rule=by_rule, then=then)
    launched = run_here(sweep, entries, executor)
    if launched.over == len(entries):
        for command in after:
            if code := subprocess.run(command).returncode:
                raise SweepError(f"{shlex.join(command)} ended with exit code {code}")
    return launched


def run_here(sweep: Path, entries: Sequence[Entry], executor: str) -> Launched:
    """Runs the unfinished cells on this machine."""
    from rich.console import Console

    with hold_sweep(sweep):
        cancelled = cancelled_cells(sweep)
        over = {entry.run_id for entry in entries if read_state(sweep, entry.run_id).finished}
        missing = [entry for entry in entries if entry.run_id not in cancelled | over]
        click.echo(f"{sweep}: {len(entries)} cells, {len(missing)} to run", err=True)
        outcomes: dict[str, Outcome] = {}
        if missing:
            planned = plan_cells([entry.cell for entry in missing], gpu=False)
            slots = max(1, usable_cpus() // max(item.cell.config.run.threads for item in planned))
            check_disk(sweep, planned, slots)
            record_launch(sweep, cells=len(entries), submitted=len(missing))
            jobs = [_local_job(sweep, entry) for entry in missing]
            # A screen of its own: while a cell runs in this process, its output goes to the cell's log.
            with (
                open(os.dup(2), "w") as screen,  # noqa: PTH123
                LiveCells(Console(file=screen), sweep, missing) as live,
            ):

                def finished(job: CellJob, outcome: Outcome) -> None:
                    outcomes[job.run_id] = outcome
                    live.finish(job.run_id, outcome)

                if executor == "inline":
                    run_inline(jobs, finished)
                else:
                    run_local(jobs, finished, slots=slots, folder=sweep / "local", tick=live.tick)
    return Launched(
        submitted=len(missing),
        over=len(over) + sum(outcome in ("done", "diverged") for outcome in outcomes.values()),
        given_up={
            run_id: read_state(sweep, run_id).reason
            for run_id, outcome in outcomes.items()
            if outcome == "failed"
        },
        busy=[run_id for run_id, outcome in outcomes.items() if outcome == "busy"],
        interrupted=len(outcomes) < len(missing) or "stopped" in outcomes.values(),
    )


def launch_on_slurm(
    sweep: Path,
    entries: Sequence[Entry],
    profile: Profile,
    *,
    by_rule: bool = False,
    then: Sequence[str] = (),
) -> Launched:
    """Submits every cell that is not over, not at work, not queued and not cancelled. `by_rule` leaves out what
    `slurm.retry` gives up; otherwise a launch gives such cells another try."""
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
        if not todo:
            return Launched(0, over, given_up)
        planned = plan_cells([entry.cell for entry in todo], gpu=profile.gpus > 0)
        check_disk(sweep, planned, len(planned))
        excluded = [*profile.exclude, *blamed_nodes(verdict.history for verdict in verdicts.values())]
        profile = profile.model_copy(update={"exclude": tuple(dict.fromkeys(excluded))})
        requests = [
            CellRequest(
                Task(entry.run_id, entry.offset, verdicts[entry.run_id].history), item.estimate.memory_mb
            )
            for entry, item in zip(todo, planned, strict=True)
        ]
        _drop_held_jobs(found, todo)
        record_launch(sweep, cells=len(entries), submitted=len(todo), profile=profile.name)
        limits = read_limits(profile.account, profile.qos)
        done = submit(sweep, plan_arrays(requests, profile, limits), _announce, room=_room(limits, queue))
        if then and done.records:
            _submit_then(sweep, done.records, profile, then)
        _close_records(sweep, found, queue)
        return Launched(
            len(todo) - len(done.left_over), over, given_up, done.records, done.refusal, done.for_good
        )


def _room(limits: Limits, queue: Queue) -> int | None:
    """How many jobs more this user may submit, where the cluster says so."""
    if limits.max_submit is None:
        return None
    return max(0, limits.max_submit - sum(task.alive or task.held for task in queue.tasks.values()))


def check_disk(sweep: Path, planned: Sequence[PlannedCell], at_once: int) -> None:
    """Raises SweepError where the disk cannot hold what the cells will write."""
    free, needed = shutil.disk_usage(sweep).free, disk_needed(planned, at_once)
    if needed > free:
        raise SweepError(
            f"{sweep} needs about {size(needed)} and its disk has {size(free)} free; make room, or give "
            "another folder with --runs"
        )


def cancel(sweep: Path, run_ids: set[str]) -> tuple[int, list[str]]:
    """Makes these cells final: they are not run any more. Ends the jobs that have nothing else to do. Returns how many
    array tasks were ended, and the cells that go on because a cell of the same job does."""
    from slurm.state import write_cancelled

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


def try_read_queue(sweep: Path) -> Queue | None:
    """The queue, where this sweep has jobs in it and Slurm answers."""
    if not any((sweep / "slurm").glob("*.json")):
        return None
    if profile := last_profile(sweep):
        point_at(profile)
    try:
        return read_queue(seconds=10, tries=1)
    except SlurmError as error:
        click.echo(f"Slurm does not answer ({error}); what follows is by the files alone.", err=True)
        return None


def commands_after(sweep: Path, words: Sequence[str]) -> list[list[str]]:
    """The commands that `--then` means. Raises SweepError for an unknown word."""
    known = {"gather": [sys.executable, "-c", GATHER], "fit": [sys.executable, FIT]}
    for word in words:
        if word not in known:
            raise SweepError(f"--then knows {', '.join(known)}, not '{word}'")
    return [[*known[word], str(sweep.resolve())] for word in words]


def _verdict(found: Survey, run_id: str) -> Verdict:
    before = found.submitted[run_id][2].history if run_id in found.submitted else History()
    return judge(found.cells[run_id], found.queued(run_id), before)


def _settled_queue(sweep: Path) -> Queue:
    """The queue, once every record has its job number: found by its name where a launcher died before it wrote it
    down, or the record is withdrawn."""
    queue = read_queue()
    unsettled = [record for record in read_records(sweep) if record.job is None]
    if not unsettled:
        return queue
    time.sleep(max(0.0, max(record.created for record in unsettled) + SETTLING_SECONDS - time.time()))
    queue = read_queue()
    for record in unsettled:
        if job := queue.jobs.get(record.name):
            write_record(sweep, replace(record, job=job))
        else:
            record_path(sweep, record.token).unlink()
    return queue


def _drop_held_jobs(found: Survey, todo: Sequence[Entry]) -> None:
    """Takes held tasks out of the queue before their cells are submitted again."""
    held = [
        f"{found.submitted[entry.run_id][0].job}_{found.submitted[entry.run_id][1]}"
        for entry in todo
        if found.cells[entry.run_id].state == "held"
    ]
    for start in range(0, len(held), 500):
        call(["scancel", *dict.fromkeys(held[start : start + 500])])


def _close_records(sweep: Path, found: Survey, queue: Queue) -> None:
    """Puts records away that tell nothing more: no task alive, and every cell over or submitted anew."""
    newer = {
        task.run_id
        for record in read_records(sweep)[len(found.records) :]
        for ts in record.tasks
        for task in ts
    }
    for record in found.records:
        alive = any(
            (task := queue.tasks.get((record.job or "", number))) and task.alive
            for number in range(len(record.tasks))
        )
        cells = (task.run_id for tasks in record.tasks for task in tasks)
        if not alive and all(
            run_id in newer or (run_id in found.cells and found.cells[run_id].finished) for run_id in cells
        ):
            close_record(sweep, record)


def _submit_then(sweep: Path, records: Sequence[Record], profile: Profile, then: Sequence[str]) -> None:
    single = profile.model_copy(update={"gpus": 0, "cells_per_job": 1})
    job = submit_after(sweep, records, single, commands_after(sweep, then))
    click.echo(f"job {job}: {', then '.join(then)}, once the arrays have ended", err=True)


def _announce(record: Record) -> None:
    tasks = len(record.tasks)
    click.echo(f"job {record.job}: {sum(map(len, record.tasks))} cells in {tasks} tasks", err=True)


def _local_job(sweep: Path, entry: Entry) -> CellJob:
    directory = cell_directory(sweep, entry.run_id)
    return CellJob(entry.run_id, directory, json.dumps(entry.config), LOCAL_HEARTBEAT_SECONDS)
