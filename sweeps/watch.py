"""Looks at a sweep once, or repeatedly until it is over."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from slurm.commands import SlurmError
from slurm.profiles import point_at
from slurm.queue import Queue, read_queue
from slurm.records import last_profile
from slurm.survey import Survey, survey
from sweeps.manifest import Entry
from sweeps.on_slurm import launch_on_slurm
from sweeps.show import show_status

WATCH_SECONDS = 10.0
# The pause is at least so many times as long as a look, so that watching takes at most a tenth of a core.
WATCH_PAUSES = 10
RETRY_SECONDS = 60.0


def look(sweep: Path, entries: list[Entry], *, verify: bool = False) -> Survey:
    """The state of every cell, from its files and, if the sweep has jobs, one call of squeue.

    With `verify`, every finished cell's run file is checked again.
    """
    return survey(sweep, [entry.run_id for entry in entries], _try_read_queue(sweep), verify=verify)


def pause_after(seconds: float) -> float:
    """Seconds to wait after a look that took `seconds`."""
    return max(WATCH_SECONDS, WATCH_PAUSES * seconds)


def watch(sweep: Path, entries: list[Entry], *, retry: bool, as_json: bool) -> Survey:
    """Shows the status repeatedly, until no cell is left that could still finish. Returns the last look.

    With `retry` it submits lost cells again, as `slurm.retry` decides, and writes the sweep's page. With `as_json` each
    look prints a JSON document in one line.
    """
    from sweeps.page.write import page_path, write_page

    retried, given_up = time.monotonic(), set[str]()
    while True:
        began = time.monotonic()
        found = look(sweep, entries)
        pause = pause_after(time.monotonic() - began)
        if sys.stdout.isatty() and not as_json:
            click.clear()
        show_status(found, sweep, entries, as_json=as_json)
        if retry:
            write_page([(sweep, entries, found)], page_path([sweep]), live=True)
        states = {cell.run_id: cell.state for cell in found.cells.values()}
        idle = {run_id for run_id, state in states.items() if state in ("stopped", "missing", "failed")}
        if not {"pending", "running", "held"} & set(states.values()) and not (retry and idle - given_up):
            return found
        if retry and time.monotonic() - retried > RETRY_SECONDS and (profile := last_profile(sweep)):
            retried = time.monotonic()
            given_up = set(launch_on_slurm(sweep, entries, profile, by_rule=True).given_up)
        time.sleep(pause)


def _try_read_queue(sweep: Path) -> Queue | None:
    """The queue, if this sweep has jobs and Slurm answers; else None."""
    if not any((sweep / "slurm").glob("*.json")):
        return None
    if profile := last_profile(sweep):
        point_at(profile)
    try:
        return read_queue(seconds=10, tries=1)
    except SlurmError as error:
        click.echo(f"Slurm does not answer ({error}); what follows is by the files alone.", err=True)
        return None
