"""The command `mtrl-sweep`, also `python sweeps/launch.py`: plans, launches and watches sweeps.

    python sweeps/launch.py grid=smoke
    python sweeps/launch.py grid=scaling --dry-run
    python sweeps/launch.py grid=scaling profile=lab --max-gpu-hours 5000

What is imported at the top is little, so that --help answers at once.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from slurm.profiles import Profile
    from slurm.survey import Survey
    from sweeps.execute import Launched
    from sweeps.manifest import Entry
    from sweeps.request import Request

ASK_ABOVE_HOURS = 100.0
WATCH_SECONDS = 10.0
WATCH_PAUSES = (
    10  # at least so many times as long as a look takes, so that watching costs a tenth of a client
)
RETRY_SECONDS = 60.0
INTERRUPTED = 130


class Commands(click.Group):
    """`launch` is the command where none is named. What a user can mend is shown as one line, without a traceback."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        words = _complete_words(context, self.params[0], incomplete)
        return [*super().shell_complete(context, incomplete), *map(CompletionItem, words)]

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
    """grid=..., profile=..., executor=..., the keys of a configuration, and ~key for those that the grid sets.

    bash cuts words at `=`, so that of `grid=smo` only `smo` is to be completed, after the words `grid` and `=`.
    """
    before = [str(word) for word in context.params.get("words") or ()]
    known = _known_words(" ".join(before).replace(" = ", "="), removing=incomplete.startswith("~"))
    key = ""
    if before[-1:] == ["="] and len(before) > 1:
        key = before[-2] + "="
    elif before and not incomplete and any(word.startswith(before[-1] + "=") for word in known):
        key = before[-1] + "="  # click hides a last `=`
    return [word.removeprefix(key) for word in known if word.startswith(key + incomplete)]


def _known_words(before: str, *, removing: bool) -> list[str]:
    from mtrl.config import PRESETS, field_keys
    from slurm.profiles import profile_names
    from sweeps.grid import GridError, grid_keys, grid_names, load_grid
    from sweeps.request import EXECUTORS

    if removing:
        named = re.search(r"grid=(\S+)", before)
        with suppress(GridError):
            return [f"~{key}" for key in (grid_keys(load_grid(named[1])) if named else field_keys())]
        return []
    words = [f"grid={name}" for name in grid_names()] + [f"profile={name}" for name in profile_names()]
    words += [f"executor={name}" for name in EXECUTORS] + [f"preset={name}" for name in PRESETS]
    return words + [f"{key}=" for key in field_keys()]


def _complete_profile(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    words = _complete_words(context, parameter, incomplete)
    return [word for word in words if word.startswith("profile=") or "=" not in word]


def _complete_sweep(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    names = (path.parent.name for path in _runs(context).glob("*/manifest.jsonl"))
    return sorted(name for name in names if name.startswith(incomplete))


def _complete_cell(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from sweeps.manifest import SweepError, find_sweep, read_manifest

    with suppress(SweepError):
        entries = read_manifest(find_sweep(str(context.params.get("name")), _runs(context)))
        return [entry.run_id for entry in entries if entry.run_id.startswith(incomplete)]
    return []


def _runs(context: click.Context) -> Path:
    return Path(context.params.get("runs") or "runs")


RUNS = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of all sweeps.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SWEEP = click.argument("name", metavar="SWEEP", shell_complete=_complete_sweep)
PROFILE = click.argument("words", nargs=-1, metavar="[profile=NAME]", shell_complete=_complete_profile)
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
@click.option("--then", metavar="gather,fit", help="Do these once the cells have ended (on Slurm: as a job).")
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
    from sweeps.execute import commands_after, run
    from sweeps.manifest import add_cells, open_sweep_folder

    after = [word for word in (then or "").split(",") if word]
    commands_after(request.sweep, after)
    open_sweep_folder(request.sweep)
    entries = add_cells(request.sweep, request.cells)
    launched = run(request.sweep, entries, request.executor, request.profile, then=after)
    code = _report_launch(request.sweep, entries, launched, as_json, here=request.executor != "slurm")
    if wait and request.executor == "slurm":
        _watch(request.sweep, entries, retry=True, as_json=as_json)
    sys.exit(code)


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
@click.option("--watch", is_flag=True, help="Show it again and again until all is over.")
@click.option("--verify", is_flag=True, help="Look at every finished cell's run file again.")
def status(name: str, runs: Path, as_json: bool, watch: bool, verify: bool) -> None:
    """Say where every cell of SWEEP stands."""
    from sweeps.manifest import find_sweep, read_manifest

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep)
    if watch:
        _watch(sweep, entries, retry=False, as_json=as_json)
        return
    _show_status(_look(sweep, entries, verify=verify), sweep, entries, as_json)


@main.command()
@SWEEP
@click.argument("cell", required=False, shell_complete=_complete_cell)
@RUNS
@JSON
@click.option("-n", "lines", default=30, show_default=True, help="Lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
def tail(name: str, cell: str | None, runs: Path, as_json: bool, lines: int, follow: bool) -> None:
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
        last = deque(file, maxlen=lines)
        if as_json:
            text = [line.rstrip("\n") for line in last]
            click.echo(json.dumps({"run_id": logs[-1].parent.name, "log": str(logs[-1]), "lines": text}))
            return
        click.echo(f"== {logs[-1]}", err=True)
        click.echo("".join(last), nl=False)
        while follow:
            click.echo(file.read(), nl=False)
            time.sleep(0.5)


@main.command()
@SWEEP
@click.argument("cells", nargs=-1, shell_complete=_complete_cell)
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
@PROFILE
@RUNS
@JSON
@click.option("--cancelled", is_flag=True, help="Cells that were cancelled, too.")
@click.option("--watch", is_flag=True, help="Stay and do it again until every cell is over.")
def retry(name: str, words: tuple[str, ...], runs: Path, as_json: bool, cancelled: bool, watch: bool) -> None:
    """Run again what did not finish in SWEEP, by what went wrong (docs/cluster.md)."""
    from slurm.profiles import load_profile
    from slurm.state import write_cancelled
    from sweeps.execute import run
    from sweeps.manifest import find_sweep, read_manifest

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep)
    if cancelled:
        write_cancelled(sweep, set())
    named = _profile_names(words)
    profile = load_profile(named[0]) if named else _last_profile(sweep)
    launched = run(sweep, entries, "slurm" if profile else "local", profile, by_rule=True)
    code = _report_launch(sweep, entries, launched, as_json, here=profile is None)
    if watch and profile:
        _watch(sweep, entries, retry=True, as_json=as_json)
    sys.exit(code)


@main.command()
@SWEEP
@RUNS
@JSON
def gather(name: str, runs: Path, as_json: bool) -> None:
    """Collect the results of SWEEP into its dataset.nc."""
    import subprocess

    from sweeps.execute import commands_after
    from sweeps.manifest import find_sweep

    sweep = find_sweep(name, runs)
    for command in commands_after(sweep, ["gather"]):
        if subprocess.run(command).returncode:
            sys.exit(1)
    dataset = str(sweep / "dataset.nc")
    click.echo(json.dumps({"sweep": str(sweep), "dataset": dataset}) if as_json else dataset)


@main.command()
@PROFILE
@JSON
def doctor(words: tuple[str, ...], as_json: bool) -> None:
    """Say what the cluster allows and whether a profile fits it."""
    from slurm.limits import read_limits
    from slurm.profiles import load_profile, point_at

    profiles = [load_profile(name) for name in _profile_names(words)]
    first = profiles[0] if profiles else None
    if first:
        point_at(first)
    limits = read_limits(first.account, first.qos) if first else read_limits()
    for profile in profiles:
        _check_partition(profile.partition)
    if as_json:
        click.echo(json.dumps({"limits": vars(limits), "profiles": [profile.name for profile in profiles]}))
        return
    for field, value in vars(limits).items():
        click.echo(f"{field:12} {'none' if value is None else value}")
    for profile in profiles:
        click.echo(
            f"profile {profile.name}: ok, {profile.cells_per_job} cells per job, {profile.minutes} minutes"
        )


def _profile_names(words: Sequence[str]) -> list[str]:
    """NAME of each profile=NAME. Raises ValueError for any other word."""
    for word in words:
        if not word.startswith("profile="):
            raise ValueError(f"'{word}' is not understood here; write profile=NAME")
    return [word.removeprefix("profile=") for word in words]


def _approve(request: Request, max_hours: float | None, *, yes: bool) -> None:
    """Refuses what is above the cap, and asks before much."""
    from slurm.survey import survey
    from sweeps.plan import calibrate, device_hours, plan_cells
    from sweeps.request import refuse_heavy_work_here

    planned = plan_cells(request.cells, gpu=bool(request.profile and request.profile.gpus))
    found = survey(request.sweep, [cell.run_id for cell in request.cells], None)
    finished = {cell.run_id: cell.marker for cell in found.cells.values() if cell.finished}
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

    from mtrl.cpus import usable_cpus
    from slurm.survey import survey
    from sweeps.plan import GUESS, calibrate, disk_needed, plan_cells, resource_classes
    from sweeps.show import duration, print_classes, print_plan, size

    profile = request.profile
    planned = plan_cells(request.cells, gpu=bool(profile and profile.gpus))
    found = survey(request.sweep, [cell.run_id for cell in request.cells], None)
    states = [cell.state for cell in found.cells.values()]
    left = [item for item, cell in zip(planned, found.cells.values(), strict=True) if not cell.finished]
    finished = {cell.run_id: cell.marker for cell in found.cells.values() if cell.finished}
    factors = calibrate(planned, finished)
    classes = resource_classes(left, profile, factors)
    hours = [sum(one.hours[index] for one in classes) for index in range(3)]
    jobs = sum(one.jobs for one in classes)
    at_once = len(left) if profile else usable_cpus()
    disk = disk_needed(left, at_once)
    kind = "GPU" if profile and profile.gpus else "core"
    if as_json:
        rows = [
            {"run_id": item.cell.run_id, "label": item.cell.label, "coordinates": item.cell.coordinates,
             "parameters": vars(item.parameters) | {"total": item.parameters.total},
             "seconds": item.estimate.seconds, "memory_mb": item.estimate.memory_mb, "state": state}
            for item, state in zip(planned, states, strict=True)
        ]  # fmt: skip
        totals = {
            "sweep": str(request.sweep), "to_run": len(left), "jobs": jobs, "hours": hours, "hours_of": kind,
            "disk_bytes": disk, "classes": [vars(one) for one in classes],
        }  # fmt: skip
        click.echo(json.dumps({**totals, "cells": rows}))
        return
    print_plan(Console(), planned, states)
    if left:
        click.echo()
        print_classes(Console(), classes, kind)
    known = "by cells that finished" if factors != GUESS else "a guess until cells have finished"
    click.echo(
        f"\n{len(planned)} cells in {request.sweep}, {len(left)} to run in {jobs} jobs: {hours[1]:,.1f} {kind} hours "
        f"likely ({hours[0]:,.1f} to {hours[2]:,.1f}; {known}), {size(disk)} of disk."
    )
    if profile is None and left:
        click.echo(f"On the {at_once} cores here about {duration(hours[1] * 3600 / at_once)}.")
    if max_hours is not None and hours[1] > max_hours:
        click.echo(f"That is above --max-gpu-hours {max_hours:,.0f}: a launch would be refused.")
    click.echo("Nothing was launched.")


def _report_launch(
    sweep: Path, entries: list[Entry], launched: Launched, as_json: bool, *, here: bool
) -> int:
    """Says what came of a launch. Returns the exit code: not 0 where cells that ran here are left over."""
    left = len(entries) - launched.over
    code = 0 if not here or not left else INTERRUPTED if launched.interrupted else 1
    if as_json:
        jobs = [record.job for record in launched.arrays]
        click.echo(json.dumps({
            "sweep": str(sweep), "cells": len(entries), "submitted": launched.submitted, "jobs": jobs,
            "over": launched.over, "given_up": launched.given_up, "busy": launched.busy,
            "refusal": launched.refusal,
        }))  # fmt: skip
        return code
    labels = {entry.run_id: entry.label for entry in entries}
    for run_id, reason in launched.given_up.items():
        click.echo(f"{'failed' if here else 'given up'}: {labels[run_id]} ({run_id}): {reason}", err=True)
        if here:
            click.echo(f"        log: {sweep / 'cells' / run_id / 'log.txt'}", err=True)
    if launched.busy:
        count = len(launched.busy)
        click.echo(f"{count} cells are held by another process: {', '.join(launched.busy)}", err=True)
    if launched.refusal:
        click.echo(
            f"the cluster takes no more now ({launched.refusal}); launch again later for the rest", err=True
        )
    if not left:
        click.echo(f"All {len(entries)} cells are over. Next: python analysis/fit_scaling_laws.py {sweep}")
    elif here:
        click.echo(
            f"{launched.over} of {len(entries)} cells are over. The same command goes on with the others.",
            err=True,
        )
    else:
        arrays = f"{launched.submitted} submitted in {len(launched.arrays)} arrays"
        click.echo(f"{sweep}: {len(entries)} cells, {launched.over} over, {arrays}")
    return code


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


def _watch(sweep: Path, entries: list[Entry], *, retry: bool, as_json: bool) -> None:
    """Shows the status until no cell is left that could still finish; with `retry`, submits again by cause."""
    from sweeps.execute import launch_on_slurm

    retried = time.monotonic()
    while True:
        began = time.monotonic()
        found = _look(sweep, entries)
        pause = max(WATCH_SECONDS, WATCH_PAUSES * (time.monotonic() - began))
        if sys.stdout.isatty() and not as_json:
            click.clear()
        _show_status(found, sweep, entries, as_json=as_json)
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
        time.sleep(pause)


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
