"""The command `mtrl-sweep`, also `python sweeps/launch.py`: plans, launches and watches sweeps.

    python sweeps/launch.py grid=smoke
    python sweeps/launch.py grid=scaling --dry-run
    python sweeps/launch.py grid=scaling profile=lab --max-gpu-hours 5000

Few modules are imported at the top, so that --help answers at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from mtrl.cli import CleanErrors
from sweeps.completion import complete_cell, complete_profile, complete_sweep, complete_words

if TYPE_CHECKING:
    from sweeps.manifest import Entry


class Commands(CleanErrors):
    """Takes `launch` if no command is named."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        words = complete_words(context, self.params[0], incomplete)
        return [*super().shell_complete(context, incomplete), *map(CompletionItem, words)]

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            args = ["launch", *args]
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except RuntimeError as error:
            if type(error).__name__ != "SlurmError":
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mtrl-scaling")
def main() -> None:
    """Launch sweeps of training runs, here or on a Slurm cluster.

    \b
    launch.py grid=smoke                            run the unfinished cells of a grid; on Slurm if there is one
    launch.py grid=scaling --dry-run                cells, parameters and cost; launches nothing
    launch.py grid=scaling profile=lab              submit it to Slurm with the profile lab.toml
    launch.py grid=scaling train.seed=0,1,2         with other values
    launch.py grid=scaling ~train.seed              without one of its axes
    """


RUNS = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of all sweeps.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SWEEP = click.argument("name", metavar="SWEEP", shell_complete=complete_sweep)
PROFILE = click.argument("words", nargs=-1, metavar="[profile=NAME]", shell_complete=complete_profile)
WORDS = click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="grid=NAME [KEY=VALUE | ~KEY]...",
    shell_complete=complete_words,
)
NAME = click.option("--name", help="Name of the sweep.  [default: the grid's]")
CAP = click.option(
    "--max-gpu-hours", type=float, help="Refuse a higher estimate (core hours if the profile has no GPU)."
)
SHARD = click.option(
    "--shard", metavar="K/N", help="Take only part K of N, for one of N clusters (docs/cluster.md)."
)


@main.command()
@WORDS
@RUNS
@NAME
@JSON
@CAP
@SHARD
@click.option("--dry-run", is_flag=True, help="The same as the command `plan`.")
@click.option("--yes", is_flag=True, help="Do not ask before more than 100 hours or 100,000 cells.")
@click.option("--wait", is_flag=True, help="Stay, and retry lost cells until every cell is over (Slurm).")
@click.option(
    "--then", metavar='gather,fit,"COMMAND"', help="Run these when the cells have ended (on Slurm: as a job)."
)
@click.option("--without-kernels", is_flag=True, help="Allow GPU jobs of a build without CUDA kernels.")
def launch(
    words: tuple[str, ...], runs: Path, name: str | None, as_json: bool, max_gpu_hours: float | None,
    shard: str | None, dry_run: bool, yes: bool, wait: bool, then: str | None, without_kernels: bool,
) -> None:  # fmt: skip
    """Run the cells of a grid that are not finished."""
    from sweeps.after import commands_after, split_words
    from sweeps.approval import approve
    from sweeps.cluster import check_cluster, on_cluster, settle_profile
    from sweeps.execute import run
    from sweeps.manifest import add_cells, open_sweep_folder
    from sweeps.plan import make_plan
    from sweeps.request import read_request
    from sweeps.show import show_end, show_launch, show_plan
    from sweeps.watch import watch as watch_sweep

    request = on_cluster(read_request(words, runs, name, shard=shard, yes=yes or dry_run))
    if dry_run:
        show_plan(make_plan(request), as_json, max_gpu_hours)
        return
    plan = make_plan(request)
    settled = settle_profile(plan, max_gpu_hours, yes=yes)
    approve(plan, max_gpu_hours, yes=yes or settled, without_kernels=without_kernels)
    if request.profile and not settled:
        check_cluster(request.profile)
    after = split_words(then)
    commands_after([request.sweep], after)
    open_sweep_folder(request.sweep)
    entries = add_cells(request.sweep, request.cells)
    launched = run(request.sweep, entries, request.executor, request.profile, then=after)
    code = show_launch(request.sweep, entries, launched, as_json, here=request.executor != "slurm")
    if wait and request.executor == "slurm":
        found = watch_sweep(request.sweep, entries, retry=True, as_json=as_json)
        code = show_end(found, request.sweep, entries, as_json)
    sys.exit(code)


@main.command()
@WORDS
@RUNS
@NAME
@JSON
@CAP
@SHARD
def plan(
    words: tuple[str, ...], runs: Path, name: str | None, as_json: bool, max_gpu_hours: float | None,
    shard: str | None,
) -> None:  # fmt: skip
    """Show what a launch would run and cost."""
    from sweeps.cluster import on_cluster
    from sweeps.plan import make_plan
    from sweeps.request import read_request
    from sweeps.show import show_plan

    request = on_cluster(read_request(words, runs, name, shard=shard))
    show_plan(make_plan(request), as_json, max_gpu_hours)


@main.command()
@JSON
def grids(as_json: bool) -> None:
    """List the grids: the question, the cells and the cost of each, on cores like those of this machine."""
    from sweeps.offer import show_grids

    show_grids(as_json)


@main.command()
@SWEEP
@RUNS
@JSON
@click.option("--watch", is_flag=True, help="Show it repeatedly until every cell is over.")
@click.option("--verify", is_flag=True, help="Check every finished cell's run file again.")
def status(name: str, runs: Path, as_json: bool, watch: bool, verify: bool) -> None:
    """Show the state of every cell of SWEEP."""
    from sweeps.manifest import find_sweep, read_manifest
    from sweeps.show import show_status
    from sweeps.watch import look
    from sweeps.watch import watch as watch_sweep

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep)
    if watch:
        watch_sweep(sweep, entries, retry=False, as_json=as_json)
        return
    show_status(look(sweep, entries, verify=verify), sweep, entries, as_json)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="SWEEP...", shell_complete=complete_sweep)
@RUNS
@JSON
@click.option("--watch", is_flag=True, help="Write it repeatedly until every cell is over.")
@click.option("--serve", is_flag=True, help="Serve it to a browser on 127.0.0.1, and write it repeatedly.")
@click.option("--port", default=0, help="For --serve.  [default: a free one]")
def page(names: tuple[str, ...], runs: Path, as_json: bool, watch: bool, serve: bool, port: int) -> None:
    """Write a page about SWEEP for a browser: a file that needs no network. Several sweeps share one page."""
    from sweeps.manifest import find_sweep
    from sweeps.page.keep import keep_page, write_now
    from sweeps.page.serve import serve as serve_page
    from sweeps.page.serve import tunnel
    from sweeps.page.write import page_path

    sweeps = [find_sweep(name, runs) for name in names]
    path = page_path(sweeps)
    over = write_now(sweeps, path, live=watch or serve)
    click.echo(json.dumps({"page": str(path), "over": over}) if as_json else path)
    if serve:
        with serve_page(path, port) as address:
            click.echo(f"{address}\nfrom another machine first: {tunnel(address)}\nCtrl-C ends it.", err=True)
            keep_page(sweeps, path)
            while True:  # the page of a finished sweep can still be read
                time.sleep(60)
    elif watch:
        keep_page(sweeps, path)


@main.command()
@SWEEP
@click.argument("cell", required=False, shell_complete=complete_cell)
@RUNS
@JSON
@click.option("-n", "lines", default=30, show_default=True, help="Number of lines.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come.")
def tail(name: str, cell: str | None, runs: Path, as_json: bool, lines: int, follow: bool) -> None:
    """Print the progress of CELL (a run id, or its beginning) and the end of its log.

    Without CELL: of the cell that wrote last.
    """
    from sweeps.manifest import find_sweep, read_manifest
    from sweeps.tail import follow_log, last_at_work, last_lines, show_job_output, where_it_stands

    sweep = find_sweep(name, runs)
    folder = last_at_work(sweep, _choose(read_manifest(sweep), [cell] if cell else []))
    if folder is None:
        show_job_output(sweep, lines, as_json)
        return
    log, stands = folder / "log.txt", where_it_stands(folder)
    if as_json:
        text = last_lines(folder, lines)
        click.echo(json.dumps({"run_id": folder.name, "log": str(log), "stands": stands, "lines": text}))
        return
    click.echo(f"== {log}\n{stands or 'no heartbeat yet'}", err=True)
    for line in last_lines(folder, lines):
        click.echo(line)
    if follow:
        follow_log(log)


@main.command()
@SWEEP
@click.argument("cells", nargs=-1, shell_complete=complete_cell)
@RUNS
@JSON
def cancel(name: str, cells: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """End CELLS of SWEEP, or all that are not over.

    They save a checkpoint, from which `retry --cancelled` resumes them.
    """
    from sweeps.cancel import cancel as cancel_cells
    from sweeps.follow import end_follower
    from sweeps.manifest import find_sweep, read_manifest
    from sweeps.watch import look

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep)
    found = look(sweep, entries)
    chosen = {entry.run_id for entry in _choose(entries, cells) if not found.cells[entry.run_id].finished}
    ended, shared = cancel_cells(sweep, chosen)
    if not cells and found.queue:
        end_follower(sweep, found.queue)
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
@click.option("--cancelled", is_flag=True, help="Cancelled cells too.")
@click.option("--watch", is_flag=True, help="Stay, and retry until every cell is over.")
def retry(name: str, words: tuple[str, ...], runs: Path, as_json: bool, cancelled: bool, watch: bool) -> None:
    """Run the unfinished cells of SWEEP again. Whether and how depends on why each ended (docs/cluster.md)."""
    from slurm.profiles import load_profile
    from slurm.records import last_profile
    from slurm.state import write_cancelled
    from sweeps.cluster import check_cluster
    from sweeps.execute import run
    from sweeps.manifest import find_sweep, read_manifest
    from sweeps.show import show_end, show_launch
    from sweeps.watch import watch as watch_sweep

    sweep = find_sweep(name, runs)
    entries = read_manifest(sweep, verify=True)
    if cancelled:
        write_cancelled(sweep, set())
    named = _profile_names(words)
    profile = load_profile(named[0]) if named else last_profile(sweep)
    if profile:
        check_cluster(profile)
    launched = run(sweep, entries, "slurm" if profile else "local", profile, by_rule=True)
    code = show_launch(sweep, entries, launched, as_json, here=profile is None)
    if watch and profile:
        code = show_end(watch_sweep(sweep, entries, retry=True, as_json=as_json), sweep, entries, as_json)
    sys.exit(code)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="SWEEP...", shell_complete=complete_sweep)
@RUNS
@JSON
def gather(names: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Collect the results of SWEEP (or of several) into one dataset.nc, and say which cells of which are missing."""
    import subprocess

    from sweeps.after import commands_after
    from sweeps.manifest import find_sweep

    places = [find_sweep(name, runs) for name in names]
    (command,) = commands_after(places, ["gather"])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(1)
    dataset = done.stdout.strip()
    click.echo(json.dumps({"sweeps": list(map(str, places)), "dataset": dataset}) if as_json else dataset)


@main.command()
@PROFILE
@JSON
def doctor(words: tuple[str, ...], as_json: bool) -> None:
    """Show what the cluster allows, and check whether a profile can run there."""
    from slurm.limits import read_limits
    from slurm.profiles import load_profile
    from sweeps.cluster import check_cluster

    profiles = [load_profile(name) for name in _profile_names(words)]
    for profile in profiles:
        check_cluster(profile)
    limits = read_limits(profiles[0].account, profiles[0].qos) if profiles else read_limits()
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


def _choose(entries: list[Entry], beginnings: Sequence[str]) -> list[Entry]:
    """The entries whose run ids begin with one of `beginnings`; all entries if `beginnings` is empty.

    Raises ValueError for a beginning without an entry.
    """
    for beginning in beginnings:
        if not any(entry.run_id.startswith(beginning) for entry in entries):
            raise ValueError(f"no cell '{beginning}' in this sweep; `status` lists the run ids")
    return [entry for entry in entries if not beginnings or entry.run_id.startswith(tuple(beginnings))]


if __name__ == "__main__":
    main()
