"""A sweep on this machine: its unfinished cells, in this process or in several."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from mtrl.cpus import usable_cpus
from mtrl.run_ids import as_meant
from slurm.local import run_inline, run_local
from slurm.state import Outcome, cancelled_cells, cell_directory, read_state
from slurm.worker import CellJob
from sweeps.launched import Launched
from sweeps.live import LiveCells
from sweeps.manifest import Entry, hold_sweep, record_launch
from sweeps.plan import check_disk, plan_cells

HEARTBEAT_SECONDS = 0.5


def run_here(sweep: Path, entries: Sequence[Entry], executor: str) -> Launched:
    """Runs the unfinished cells on this machine and returns when they have ended.

    `executor` is inline or local. Raises LaunchError if another launcher is at work or the disk is too full.
    """
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
            # A copy of the standard error: while a cell runs in this process, the original writes to the cell's log.
            with (
                open(os.dup(2), "w") as screen,  # noqa: PTH123
                LiveCells(
                    Console(file=screen), sweep, missing, [item.estimate.seconds for item in planned]
                ) as live,
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
        cancelled=sum(entry.run_id in cancelled - over for entry in entries),
        busy=[run_id for run_id, outcome in outcomes.items() if outcome == "busy"],
        interrupted=len(outcomes) < len(missing) or "stopped" in outcomes.values(),
    )


def _local_job(sweep: Path, entry: Entry) -> CellJob:
    directory = cell_directory(sweep, entry.run_id)
    return CellJob(entry.run_id, directory, json.dumps(as_meant(entry.config)), HEARTBEAT_SECONDS)
