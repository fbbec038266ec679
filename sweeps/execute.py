"""Launching: decide what is missing, then run it on this machine or hand it to Slurm."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from slurm.commands import SlurmError, call
from slurm.limits import read_limits
from slurm.local import cores, run_inline, run_local
from slurm.profiles import Profile
from slurm.queue import Queue, read_queue
from slurm.records import History, Record, Task, close_record, read_records, record_path, write_record
from slurm.retry import Verdict, blamed_nodes, insist, judge
from slurm.state import Outcome, cancelled_cells, cell_directory, read_state
from slurm.submit import CellRequest, plan_arrays, submit, submit_after
from slurm.survey import Survey, survey
from slurm.worker import CellJob
from sweeps.manifest import Entry, SweepError, hold_sweep, record_launch
from sweeps.plan import PlannedCell, disk_needed, plan_cells
from sweeps.show import LiveCells, size

INTERRUPTED = 130
SETTLING_SECONDS = 15.0  # how long an sbatch may still be on its way after its launcher died
LOCAL_HEARTBEAT_SECONDS = 0.5

# What runs after a sweep, by the word that `--then` takes.
GATHER = "import sys; from analysis.frames import open_sweep, save; from pathlib import Path; "
GATHER += "save(open_sweep(sys.argv[1]), Path(sys.argv[1]) / 'dataset.nc')"
FIT = str(Path(__file__).resolve().parent.parent / "analysis" / "fit_scaling_laws.py")


@dataclass(frozen=True)
class Launched:
    """What came of a launch on Slurm."""

    submitted: int  # cells
    arrays: list[Record]
    given_up: dict[str, str]  # run id -> reason
    refusal: str = ""


def run_here(sweep: Path, entries: Sequence[Entry], executor: str) -> int:
    """Runs the unfinished cells on this machine; returns the exit code that their outcomes deserve."""
    from rich.console import Console

    with hold_sweep(sweep):
        cancelled = cancelled_cells(sweep)
        missing = [
            entry
            for entry in entries
            if entry.run_id not in cancelled and not read_state(sweep, entry.run_id).finished
        ]
        click.echo(f"{sweep}: {len(entries)} cells, {len(missing)} to run")
        outcomes: dict[str, Outcome] = {}
        if missing:
            planned = plan_cells([entry.cell for entry in missing], gpu=False)
            slots = max(1, cores() // max(item.cell.config.run.threads for item in planned))
            check_disk(sweep, planned, slots)
            record_launch(sweep, cells=len(entries), submitted=len(missing))
            jobs = [_local_job(sweep, entry) for entry in missing]
            with LiveCells(Console(), sweep, missing) as live:

                def finished(job: CellJob, outcome: Outcome) -> None:
                    outcomes[job.run_id] = outcome
                    live.finish(job.run_id, outcome)

                if executor == "inline":
                    run_inline(jobs, finished)
                else:
                    run_local(jobs, finished, slots=slots, folder=sweep / "local", tick=live.tick)
    return _conclude(sweep, entries, missing, outcomes)


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
        if not todo:
            return Launched(0, [], given_up)
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
        done = submit(sweep, plan_arrays(requests, profile, read_limits()), _announce)
        if then and done.records:
            _submit_then(sweep, done.records, profile, then)
        _close_records(sweep, found, queue)
        return Launched(len(todo) - len(done.left_over), done.records, given_up, done.refusal)


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
    click.echo(f"job {job}: {', then '.join(then)}, once the arrays have ended")


def _announce(record: Record) -> None:
    click.echo(f"job {record.job}: {sum(map(len, record.tasks))} cells in {len(record.tasks)} tasks")


def _local_job(sweep: Path, entry: Entry) -> CellJob:
    directory = cell_directory(sweep, entry.run_id)
    return CellJob(entry.run_id, directory, json.dumps(entry.config), LOCAL_HEARTBEAT_SECONDS)


def _conclude(
    sweep: Path, entries: Sequence[Entry], missing: Sequence[Entry], outcomes: dict[str, Outcome]
) -> int:
    """Says what became of the cells; 0 only when none is left over."""
    labels = {entry.run_id: entry.label for entry in entries}
    for run_id in [run_id for run_id, outcome in outcomes.items() if outcome == "failed"]:
        state = read_state(sweep, run_id)
        click.echo(f"failed: {labels[run_id]} ({run_id}): {state.reason}", err=True)
        click.echo(f"        log: {cell_directory(sweep, run_id) / 'log.txt'}", err=True)
    busy = [run_id for run_id, outcome in outcomes.items() if outcome == "busy"]
    if busy:
        click.echo(f"{len(busy)} cells are held by another process: {', '.join(busy)}", err=True)
    over = sum(read_state(sweep, entry.run_id).finished for entry in entries)
    if over == len(entries):
        click.echo(f"All {over} cells are over. Next: python analysis/fit_scaling_laws.py {sweep}")
        return 0
    click.echo(
        f"{over} of {len(entries)} cells are over. The same command goes on with the others.", err=True
    )
    stopped = len(outcomes) < len(missing) or "stopped" in outcomes.values()
    return INTERRUPTED if stopped else 1
