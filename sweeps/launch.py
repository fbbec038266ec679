"""The command `mtrl-sweep`, also `python sweeps/launch.py`: plans, launches and watches sweeps.

python sweeps/launch.py grid=smoke
python sweeps/launch.py grid=scaling --dry-run
python sweeps/launch.py grid=scaling profile=lab network.actor.width+network.critic.width=256,512
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from slurm.worker import CellJob
    from sweeps.grid import Cell
    from sweeps.manifest import Entry

INTERRUPTED = 130


class Commands(click.Group):
    """`launch` is the command where none is named. What a user can mend is shown as one line, without a traceback."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            args = ["launch", *args]
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mtrl-scaling")
def main() -> None:
    """Launch sweeps of training runs, here or on a Slurm cluster.

    \b
    launch.py grid=smoke                            run a grid; only what is missing runs
    launch.py grid=scaling --dry-run                cells, parameters and cost; launches nothing
    launch.py grid=scaling train.seed=0,1,2         with other values
    launch.py grid=scaling ~train.seed              without one of its axes
    """


def _settings(command: Any) -> Any:
    words = click.argument("words", nargs=-1, required=True, metavar="grid=NAME [KEY=VALUE | ~KEY]...")
    runs = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                        help="Folder of all sweeps.")  # fmt: skip
    name = click.option("--name", help="Name of the sweep.  [default: the grid's]")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    return words(runs(name(as_json(command))))


@main.command()
@_settings
@click.option("--dry-run", is_flag=True, help="The same as the command `plan`.")
def launch(words: tuple[str, ...], runs: Path, name: str | None, as_json: bool, dry_run: bool) -> None:
    """Run what is missing of a grid."""
    request = read_request(words, runs, name)
    if dry_run:
        _plan(request, as_json)
        return
    _launch_here(request)


@main.command()
@_settings
def plan(words: tuple[str, ...], runs: Path, name: str | None, as_json: bool) -> None:
    """Show what a launch would run and cost."""
    _plan(read_request(words, runs, name), as_json)


@dataclass(frozen=True)
class Request:
    """What the words of the command line ask for."""

    cells: list[Cell]
    sweep: Path
    executor: str  # inline, local or slurm


def read_request(words: tuple[str, ...], runs: Path, name: str | None) -> Request:
    """The request in `words`. Raises GridError for an unknown grid, key or executor, with the nearest names."""
    from mtrl.names import nearest
    from sweeps.grid import GridError, expand, load_grid, override

    named = dict.fromkeys(("grid", "executor", "profile"), "")
    overrides = []
    for word in words:
        key, _, value = word.partition("=")
        if key in named:
            named[key] = value
        else:
            overrides.append(word)
    if not named["grid"]:
        raise GridError(f"no grid named{nearest(words[0], ['grid=smoke'])}; write grid=smoke")
    if named["profile"]:
        raise GridError(f"no profile '{named['profile']}'; there are none yet")
    executor = named["executor"] or "local"
    if executor not in ("inline", "local"):
        raise GridError(
            f"no executor '{executor}'{nearest(executor, ['inline', 'local'])}; there are: inline, local"
        )
    grid = override(load_grid(named["grid"]), overrides)
    return Request(expand(grid), runs / (name or grid.name), executor)


def _plan(request: Request, as_json: bool) -> None:
    from rich.console import Console

    from slurm.local import cores
    from slurm.state import read_state
    from sweeps.plan import disk_needed, plan_cells
    from sweeps.show import duration, print_plan, size

    planned = plan_cells(request.cells, gpu=False)
    states = [read_state(request.sweep, cell.run_id).state for cell in request.cells]
    left = [item for item, state in zip(planned, states, strict=True) if state not in ("done", "diverged")]
    seconds = sum(item.estimate.seconds for item in left)
    if as_json:
        rows = [
            {"run_id": item.cell.run_id, "label": item.cell.label, "coordinates": item.cell.coordinates,
             "parameters": vars(item.parameters) | {"total": item.parameters.total},
             "seconds": item.estimate.seconds, "state": state}
            for item, state in zip(planned, states, strict=True)
        ]  # fmt: skip
        click.echo(json.dumps({"sweep": str(request.sweep), "seconds": seconds, "cells": rows}))
        return
    console = Console()
    print_plan(console, planned, states)
    at_once = cores()
    click.echo(
        f"{len(planned)} cells in {request.sweep}, {len(left)} to run: about {duration(seconds)} of one core, "
        f"{duration(seconds / at_once)} on the {at_once} cores here, {size(disk_needed(left, at_once))} of disk. "
        "Nothing was launched."
    )


def _launch_here(request: Request) -> None:
    """Runs the missing cells on this machine and ends the process with the exit code that their outcomes deserve."""
    from rich.console import Console

    from slurm.local import cores, run_inline, run_local
    from slurm.state import read_state
    from sweeps.manifest import add_cells, hold_sweep, open_sweep_folder, record_launch
    from sweeps.plan import plan_cells
    from sweeps.show import LiveCells

    sweep, console = request.sweep, Console()
    open_sweep_folder(sweep)
    with hold_sweep(sweep):
        entries = add_cells(sweep, request.cells)
        missing = [entry for entry in entries if not read_state(sweep, entry.run_id).finished]
        click.echo(f"{sweep}: {len(entries)} cells, {len(missing)} to run")
        outcomes: dict[str, str] = {}
        if missing:
            todo = {entry.run_id for entry in missing}
            planned = plan_cells([cell for cell in request.cells if cell.run_id in todo], gpu=False)
            slots = max(1, cores() // max(item.cell.config.run.threads for item in planned))
            _check_disk(sweep, planned, slots)
            record_launch(sweep, cells=len(entries), submitted=len(missing))
            jobs = [_job(sweep, entry) for entry in missing]
            with LiveCells(console, sweep, missing) as live:

                def finished(job: CellJob, outcome: str) -> None:
                    outcomes[job.run_id] = outcome
                    live.finish(job.run_id, outcome)

                if request.executor == "inline":
                    run_inline(jobs, finished)
                else:
                    run_local(jobs, finished, slots=slots, folder=sweep / "local", tick=live.tick)
    _conclude(sweep, entries, missing, outcomes)


def _job(sweep: Path, entry: Entry) -> CellJob:
    from slurm.state import cell_directory
    from slurm.worker import CellJob

    return CellJob(
        entry.run_id, cell_directory(sweep, entry.run_id), json.dumps(entry.config), heartbeat_seconds=0.5
    )


def _check_disk(sweep: Path, planned: Any, at_once: int) -> None:
    from sweeps.manifest import SweepError
    from sweeps.plan import disk_needed
    from sweeps.show import size

    free, needed = shutil.disk_usage(sweep).free, disk_needed(planned, at_once)
    if needed > free:
        raise SweepError(
            f"{sweep} needs about {size(needed)} and its disk has {size(free)} free; make room, or give "
            "another folder with --runs"
        )


def _conclude(sweep: Path, entries: list[Entry], missing: list[Entry], outcomes: dict[str, str]) -> None:
    """Says what became of the cells; exits 0 only when none is left over."""
    from slurm.state import cell_directory, read_state

    labels = {entry.run_id: entry.label for entry in entries}
    failed = [run_id for run_id, outcome in outcomes.items() if outcome == "failed"]
    for run_id in failed:
        state = read_state(sweep, run_id)
        click.echo(f"failed: {labels[run_id]} ({run_id}): {state.reason}", err=True)
        click.echo(f"        log: {cell_directory(sweep, run_id) / 'log.txt'}", err=True)
    busy = [run_id for run_id, outcome in outcomes.items() if outcome == "busy"]
    if busy:
        click.echo(f"{len(busy)} cells are held by another process: {', '.join(busy)}", err=True)
    over = sum(read_state(sweep, entry.run_id).finished for entry in entries)
    if over == len(entries):
        click.echo(f"All {len(entries)} cells are over. Next: python analysis/fit_scaling_laws.py {sweep}")
        return
    click.echo(
        f"{over} of {len(entries)} cells are over. The same command goes on with the others.", err=True
    )
    stopped = len(outcomes) < len(missing) or "stopped" in outcomes.values()
    sys.exit(INTERRUPTED if stopped else 1)


if __name__ == "__main__":
    main()
