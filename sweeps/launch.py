"""The command `mtrl-sweep`, also `python sweeps/launch.py`: plans, launches and watches sweeps.

    python sweeps/launch.py grid=smoke
    python sweeps/launch.py grid=scaling --dry-run
    python sweeps/launch.py grid=scaling profile=lab --max-gpu-hours 5000

What is imported at the top is little, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from slurm.profiles import Profile
    from slurm.survey import Survey
    from sweeps.execute import Launched
    from sweeps.manifest import Entry
    from sweeps.request import Request

ASK_ABOVE_HOURS = 100.0
WATCH_SECONDS = 10.0
RETRY_SECONDS = 60.0


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
        except RuntimeError as error:
            if type(error).__name__ != "SlurmError":
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mtrl-scaling")
def main() -> None:
    """Launch sweeps of training runs, here or on a Slurm cluster.

    \b
    launch.py grid=smoke                            run a grid; only what is missing runs
    launch.py grid=scaling --dry-run                cells, parameters and cost; launches nothing
    launch.py grid=scaling profile=lab              hand it to Slurm
    launch.py grid=scaling train.seed=0,1,2         with other values
    launch.py grid=scaling ~train.seed              without one of its axes
    """


def _complete_words(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """grid=..., profile=..., executor=... and the keys of a configuration."""
    from mtrl.config import _keys
    from slurm.profiles import profile_names
    from sweeps.grid import grid_names
    from sweeps.request import EXECUTORS

    words = [f"grid={name}" for name in grid_names()] + [f"profile={name}" for name in profile_names()]
    words += [f"executor={name}" for name in EXECUTORS] + [f"{key}=" for key in _keys()]
    return [word for word in words if word.startswith(incomplete)]


def _complete_sweep(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    names = (path.parent.name for path in Path("runs").glob("*/manifest.jsonl"))
    return sorted(name for name in names if name.startswith(incomplete))


RUNS = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of all sweeps.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SWEEP = click.argument("name", metavar="SWEEP", shell_complete=_complete_sweep)
WORDS = click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="grid=NAME [KEY=VALUE | ~KEY]...",
    shell_complete=_complete_words,
)
NAME = click.option("--name", help="Name of the sweep.  [default: the grid's]")
CAP = click.option(
    "--max-gpu-hours", type=float, help="Refuse more (core hours where the profile has no GPU)."
)


@main.command()
@WORDS
@RUNS
@NAME
@JSON
@CAP
@click.option("--dry-run", is_flag=True, help="The same as the command `plan`.")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_ABOVE_HOURS:.0f} hours.")
@click.option("--wait", is_flag=True, help="Stay, and retry by cause until every cell is over (Slurm).")
@click.option("--then", help="gather,fit: run these as a job of their own when the cells have ended (Slurm).")
def launch(
    words: tuple[str, ...], runs: Path, name: str | None, as_json: bool, max_gpu_hours: float | None,
    dry_run: bool, yes: bool, wait: bool, then: str | None,
) -> None:  # fmt: skip
    """Run what is missing of a grid."""
    from sweeps.request import read_request

    request = read_request(words, runs, name)
    if dry_run:
        _plan(request, as_json, max_gpu_hours)
        return
    _approve(request, max_gpu_hours, yes=yes)
    if request.profile is None or request.executor != "slurm":
        sys.exit(_launch_here(request))
    from sweeps.execute import commands_after, launch_on_slurm
    from sweeps.manifest import add_cells, open_sweep_folder

    after = [word for word in (then or "").split(",") if word]
    commands_after(request.sweep, after)
    open_sweep_folder(request.sweep)
    entries = add_cells(request.sweep, request.cells)
    launched = launch_on_slurm(request.sweep, entries, request.profile, then=after)
    _report_launch(request.sweep, entries, launched, as_json)
    if wait:
        _watch(request.sweep, entries, retry=True)


@main.command()
@WORDS
@RUNS
@NAME
@JSON
@CAP
def plan(
    words: tuple[str, ...], runs: Path, name: str | None, as_json: bool, max_gpu_hours: float | None
) -> None:
    """Show what a launch would run and cost."""
    from sweeps.request import read_request

    _plan(read_request(words, runs, name), as_json, max_gpu_hours)


@main.command()
@SWEEP
@RUNS
@JSON
@click.option("--watch", is_flag=True, help="Show it again every few seconds until all is over.")
@click.option("--verify", is_flag=True, help="Look at every finished cell's run file again.")
def status(name: str, runs: Path, as_json: bool, watch: bool, verify: bool) -> None:
    """Say where every cell of SWEEP stands."""
    from sweeps.manifest import find_sweep, read_manifest

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep)
    if watch:
        _watch(sweep, entries, retry=False)
        return
    _show_status(_look(sweep, entries, verify=verify), sweep, entries, as_json)


@main.command()
@SWEEP
@click.argument("cell", required=False)
@RUNS
@click.option("-n", "lines", default=30, show_default=True, help="Lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
def tail(name: str, cell: str | None, runs: Path, lines: int, follow: bool) -> None:
    """Print the end of the log of CELL (a run id, or its beginning), or of the cell that wrote last."""
    from slurm.state import cell_directory
    from sweeps.manifest import find_sweep, read_manifest

    sweep = find_sweep(name, runs)
    entries = _choose(read_manifest(sweep), [cell] if cell else [])
    logs = [cell_directory(sweep, entry.run_id) / "log.txt" for entry in entries]
    logs = sorted((path for path in logs if path.exists()), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise click.ClickException(f"no cell of {sweep} has written a log yet")
    with logs[-1].open(errors="replace") as file:
        click.echo(f"== {logs[-1]}", err=True)
        click.echo("".join(file.readlines()[-lines:]), nl=False)
        while follow:
            click.echo(file.read(), nl=False)
            time.sleep(0.5)


@main.command()
@SWEEP
@click.argument("cells", nargs=-1)
@RUNS
@JSON
def cancel(name: str, cells: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """End CELLS of SWEEP, or all that are not over. They save a checkpoint; `retry --cancelled` goes on with them."""
    from sweeps.execute import cancel as cancel_cells
    from sweeps.manifest import find_sweep, read_manifest

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep)
    found = _look(sweep, entries)
    chosen = {entry.run_id for entry in _choose(entries, cells) if not found.cells[entry.run_id].finished}
    ended, shared = cancel_cells(sweep, chosen)
    if as_json:
        click.echo(json.dumps({"cancelled": sorted(chosen), "jobs_ended": ended, "go_on": shared}))
        return
    click.echo(f"{len(chosen)} cells cancelled, {ended} jobs ended.")
    if shared:
        click.echo(f"{', '.join(shared)} share a running job with others and end with it, not before.")


@main.command()
@SWEEP
@click.argument("words", nargs=-1, metavar="[profile=NAME]")
@RUNS
@JSON
@click.option("--cancelled", is_flag=True, help="Cells that were cancelled, too.")
@click.option("--watch", is_flag=True, help="Stay and do it again until every cell is over.")
def retry(name: str, words: tuple[str, ...], runs: Path, as_json: bool, cancelled: bool, watch: bool) -> None:
    """Run again what did not finish in SWEEP, by what went wrong (docs/cluster.md)."""
    from slurm.profiles import load_profile
    from slurm.state import write_cancelled
    from sweeps.execute import launch_on_slurm, run_here
    from sweeps.manifest import find_sweep, read_manifest

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep)
    if cancelled:
        write_cancelled(sweep, set())
    named = dict(word.partition("=")[::2] for word in words)
    profile = load_profile(named["profile"]) if "profile" in named else _last_profile(sweep)
    if profile is None:
        sys.exit(run_here(sweep, entries, "local"))
    _report_launch(sweep, entries, launch_on_slurm(sweep, entries, profile, by_rule=True), as_json)
    if watch:
        _watch(sweep, entries, retry=True)


@main.command()
@SWEEP
@RUNS
def gather(name: str, runs: Path) -> None:
    """Collect the results of SWEEP into its dataset.nc."""
    import subprocess

    from sweeps.execute import commands_after
    from sweeps.manifest import find_sweep

    sweep = find_sweep(name, runs)
    for command in commands_after(sweep, ["gather"]):
        if subprocess.run(command).returncode:
            sys.exit(1)
    click.echo(sweep / "dataset.nc")


@main.command()
@click.argument("words", nargs=-1, metavar="[profile=NAME]")
def doctor(words: tuple[str, ...]) -> None:
    """Say what the cluster allows and whether a profile fits it."""
    from slurm.limits import read_limits
    from slurm.profiles import load_profile

    limits = read_limits()
    for field, value in vars(limits).items():
        click.echo(f"{field:12} {value}")
    for name in (word.removeprefix("profile=") for word in words):
        profile = load_profile(name)
        _check_partition(profile.partition)
        click.echo(
            f"profile {profile.name}: ok, {profile.cells_per_job} cells per job, {profile.minutes} minutes"
        )


def _approve(request: Request, max_hours: float | None, *, yes: bool) -> None:
    """Refuses what is above the cap, and asks before much."""
    from slurm.state import read_state
    from sweeps.plan import calibrate, device_hours, plan_cells
    from sweeps.request import refuse_heavy_work_here

    planned = plan_cells(request.cells, gpu=bool(request.profile and request.profile.gpus))
    states = (
        [read_state(request.sweep, cell.run_id) for cell in request.cells] if request.sweep.exists() else []
    )
    finished = {state.run_id: state.marker for state in states if state.finished}
    left = [item for item in planned if item.cell.run_id not in finished]
    hours = device_hours(left, request.profile) * calibrate(planned, finished)[1]
    refuse_heavy_work_here(request, hours)
    kind = "GPU" if request.profile and request.profile.gpus else "core"
    if max_hours is not None and hours > max_hours:
        raise ValueError(f"about {hours:,.0f} {kind} hours are more than --max-gpu-hours {max_hours:,.0f}; "
                         "take a smaller grid or raise the cap")  # fmt: skip
    if request.executor == "slurm" and hours > ASK_ABOVE_HOURS and not yes:
        question = f"This takes about {hours:,.0f} {kind} hours. Launch?"
        if not sys.stdin.isatty():
            raise ValueError(
                f"about {hours:,.0f} {kind} hours; say --yes to launch so much without being asked"
            )
        click.confirm(question, abort=True)


def _plan(request: Request, as_json: bool, max_hours: float | None) -> None:
    from rich.console import Console

    from slurm.local import cores
    from slurm.survey import survey
    from sweeps.plan import calibrate, device_hours, disk_needed, plan_cells
    from sweeps.show import duration, print_plan, size

    profile = request.profile
    planned = plan_cells(request.cells, gpu=bool(profile and profile.gpus))
    found = survey(request.sweep, [cell.run_id for cell in request.cells], None)
    states = [cell.state for cell in found.cells.values()]
    left = [item for item, cell in zip(planned, found.cells.values(), strict=True) if not cell.finished]
    factors = calibrate(planned, {cell.run_id: cell.marker for cell in found.cells.values() if cell.finished})
    hours = [device_hours(left, profile) * factor for factor in factors]
    jobs = -(-len(left) // (profile.cells_per_job if profile else 1))
    at_once = len(left) if profile else cores()
    memory = max((item.estimate.memory_mb for item in left), default=0)
    disk = disk_needed(left, at_once)
    if as_json:
        rows = [
            {"run_id": item.cell.run_id, "label": item.cell.label, "coordinates": item.cell.coordinates,
             "parameters": vars(item.parameters) | {"total": item.parameters.total},
             "seconds": item.estimate.seconds, "memory_mb": item.estimate.memory_mb, "state": state}
            for item, state in zip(planned, states, strict=True)
        ]  # fmt: skip
        totals = {
            "sweep": str(request.sweep),
            "to_run": len(left),
            "jobs": jobs,
            "hours": hours,
            "disk_bytes": disk,
        }
        click.echo(json.dumps({**totals, "cells": rows}))
        return
    print_plan(Console(), planned, states)
    kind = "GPU" if profile and profile.gpus else "core"
    click.echo(
        f"{len(planned)} cells in {request.sweep}, {len(left)} to run: {hours[1]:,.1f} {kind} hours likely "
        f"({hours[0]:,.1f} to {hours[2]:,.1f}), {jobs} jobs, up to {memory:,} MB a cell, {size(disk)} of disk."
    )
    if profile is None:
        click.echo(f"On the {at_once} cores here about {duration(hours[1] * 3600 / at_once)}.")
    if max_hours is not None and hours[1] > max_hours:
        click.echo(f"That is above --max-gpu-hours {max_hours:,.0f}: a launch would be refused.")
    click.echo("Nothing was launched.")


def _launch_here(request: Request) -> int:
    from sweeps.execute import run_here
    from sweeps.manifest import add_cells, open_sweep_folder

    open_sweep_folder(request.sweep)
    return run_here(request.sweep, add_cells(request.sweep, request.cells), request.executor)


def _report_launch(sweep: Path, entries: list[Entry], launched: Launched, as_json: bool) -> None:
    if as_json:
        jobs = [record.job for record in launched.arrays]
        click.echo(json.dumps({"sweep": str(sweep), "cells": len(entries), "submitted": launched.submitted,
                               "jobs": jobs, "given_up": launched.given_up, "refusal": launched.refusal}))  # fmt: skip
        return
    click.echo(
        f"{sweep}: {len(entries)} cells, {launched.submitted} submitted in {len(launched.arrays)} arrays"
    )
    for run_id, reason in launched.given_up.items():
        click.echo(f"given up: {run_id}: {reason}", err=True)
    if launched.refusal:
        click.echo(
            f"the cluster takes no more now ({launched.refusal}); launch again later for the rest", err=True
        )


def _look(sweep: Path, entries: list[Entry], *, verify: bool = False) -> Survey:
    from slurm.survey import survey
    from sweeps.execute import try_read_queue

    return survey(sweep, [entry.run_id for entry in entries], try_read_queue(sweep), verify=verify)


def _show_status(found: Survey, sweep: Path, entries: list[Entry], as_json: bool) -> None:
    if as_json:
        rows = [
            {"run_id": entry.run_id, "label": entry.label, "state": cell.state, "reason": cell.reason,
             "vector_step": cell.heartbeat.get("vector_step"), "success": cell.heartbeat.get("success"),
             "traceback": cell.marker.get("traceback")}
            for entry, cell in zip(entries, found.cells.values(), strict=True)
        ]  # fmt: skip
        click.echo(json.dumps({"sweep": str(sweep), "cells": rows}))
        return
    from rich.console import Console

    from sweeps.show import print_status

    print_status(Console(), sweep, entries, found)


def _watch(sweep: Path, entries: list[Entry], *, retry: bool) -> None:
    """Shows the status until no cell is left that could still finish; with `retry`, submits again by cause."""
    from sweeps.execute import launch_on_slurm

    retried = time.monotonic()
    while True:
        found = _look(sweep, entries)
        if sys.stdout.isatty():
            click.clear()
        _show_status(found, sweep, entries, as_json=False)
        states = {cell.state for cell in found.cells.values()}
        if not states & {"pending", "running", "held"} and not (
            retry and states & {"stopped", "missing", "failed"}
        ):
            return
        if retry and time.monotonic() - retried > RETRY_SECONDS and (profile := _last_profile(sweep)):
            retried = time.monotonic()
            launched = launch_on_slurm(sweep, entries, profile, by_rule=True)
            unfinished = {cell.run_id for cell in found.cells.values() if not cell.finished}
            if unfinished and unfinished <= set(launched.given_up):
                return
        time.sleep(WATCH_SECONDS)


def _last_profile(sweep: Path) -> Profile | None:
    """The profile that the sweep was last submitted with; None where it never was."""
    from slurm.records import last_profile

    return last_profile(sweep)


def _choose(entries: list[Entry], beginnings: Sequence[str]) -> list[Entry]:
    """The entries whose run ids begin so; all where nothing is asked."""
    for beginning in beginnings:
        if not any(entry.run_id.startswith(beginning) for entry in entries):
            raise ValueError(f"no cell '{beginning}' in this sweep; `status` lists the run ids")
    return [entry for entry in entries if not beginnings or entry.run_id.startswith(tuple(beginnings))]


def _check_partition(partition: str) -> None:
    from mtrl.names import nearest
    from slurm.commands import call

    known = [line.rstrip("*") for line in call(["sinfo", "--noheader", "--format=%P"]).split()]
    if partition and partition not in known:
        raise ValueError(
            f"no partition '{partition}'{nearest(partition, known)}; there are: {', '.join(known)}"
        )


if __name__ == "__main__":
    main()
