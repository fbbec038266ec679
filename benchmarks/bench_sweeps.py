"""A sweep of 10,000 cells against the bars of its design: expansion, plan, submission, status, relaunch, --help.

The peer of each case is a bar in seconds (`bar`): ratio > 1 means within it. What runs in this process is timed by
its processor time, because on a shared machine the clock on the wall times the neighbours; --help, the overhead of a
job and what waits for Slurm are timed by the wall. Submission and the statuses run on the real Slurm of slurm/mini;
without its packages they are left out.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from interleave import Row

from slurm.commands import call
from slurm.limits import read_limits
from slurm.mini.cluster import MiniSlurm, MiniSlurmError, require_programs
from slurm.profiles import Profile
from slurm.queue import read_queue
from slurm.records import Record, Task, write_record
from slurm.state import cell_directory, write_done
from slurm.submit import CellRequest, plan_arrays, submit
from slurm.survey import survey
from sweeps.grid import Cell, expand, load_grid, override
from sweeps.manifest import Entry, add_cells, open_sweep_folder, read_manifest
from sweeps.on_slurm import launch_on_slurm
from sweeps.plan import disk_needed, plan_cells

ROOT = Path(__file__).resolve().parent.parent
WALL = time.perf_counter
TINY = (
    "env.tasks=reach-v3", "env.horizon=20", "env.goals_per_task=1", "agent.batch_per_task=8",
    "network.actor.width=8", "network.critic.width=8", "train.vector_steps=60", "train.random_steps=30",
    "evaluate.every=60", "evaluate.episodes=1", "run.device=cpu",
)  # fmt: skip
WORDS = ("~env.tasks", "env.tasks=MT10", "network.actor.width+network.critic.width=32,64")


def cells_of(count: int) -> list[Cell]:
    return expand(override(load_grid("scaling"), [*WORDS, f"train.seed=range({count // 2})"]))


def row(
    case: str,
    work: Callable[[], object],
    bar: float,
    runs: int,
    clock: Callable[[], float] = time.process_time,
) -> Row:
    seconds = []
    for _ in range(runs):
        start = clock()
        work()
        seconds.append(clock() - start)
    return _row(case, bar, seconds)


def _row(case: str, bar: float, seconds: list[float]) -> Row:
    seconds.sort()
    middle, runs = seconds[len(seconds) // 2], len(seconds)
    spread = (seconds[-1] - seconds[0]) / middle
    return Row(case, f"bar {bar:g} s", middle * 1e6, bar * 1e6, bar / middle, 1, runs, spread)


def planning_rows(count: int, runs: int) -> list[Row]:
    """Expansion (validated and hashed), the plan, --help."""
    expansion = row(f"expand {count} cells", lambda: [cell.run_id for cell in cells_of(count)], 1.0, runs)
    help_words = [sys.executable, str(ROOT / "sweeps/launch.py"), "--help"]
    return [
        expansion,
        row(
            f"plan {count} cells",
            lambda: disk_needed(plan_cells(cells_of(count), gpu=True), count),
            2.0,
            runs,
        ),
        row("--help", lambda: subprocess.run(help_words, capture_output=True, check=True), 0.3, runs, WALL),
    ]


def overhead_rows(folder: Path, runs: int) -> list[Row]:
    """What a job takes beside importing the trainer and training, and what one more cell in it takes."""
    more = 20
    alone, packed = [], []
    for turn in range(runs):
        seconds = [_overhead_of_job(folder / f"{count}-{turn}", count) for count in (1, 1 + more)]
        alone.append(seconds[0])
        packed.append((seconds[1] - seconds[0]) / more)
    return [_row("job, beside import and training", 0.150, alone), _row("one more cell in it", 0.020, packed)]


JOB = """
import sys, time
from pathlib import Path
from slurm.job import import_trainer, run_job
import_trainer()
start = time.perf_counter()
run_job(Path(sys.argv[1]), "token")
print(time.perf_counter() - start)
"""


def _overhead_of_job(sweep: Path, count: int) -> float:
    """The wall seconds of a job of so many tiny cells, one after another, from the import of the trainer on, less those
    in which they trained."""
    open_sweep_folder(sweep)
    words = [*TINY, f"train.seed=range({count})"]
    entries = add_cells(sweep, expand(override(load_grid("scaling"), words)))
    tasks = [Task(entry.run_id, entry.offset) for entry in entries]
    write_record(sweep, Record("token", [tasks], Profile(name="bench").model_dump(mode="json"), 100))
    done = subprocess.run([sys.executable, "-c", JOB, str(sweep)], check=True, capture_output=True, text=True)
    markers = [json.loads((cell_directory(sweep, task.run_id) / "DONE.json").read_text()) for task in tasks]
    return float(done.stdout.split()[-1]) - sum(marker["seconds"] for marker in markers)


def pretend_finished(sweep: Path, entries: list[Entry]) -> None:
    """Markers as a worker leaves them, over a run file that nobody opens as long as its stamp is right."""
    for entry in entries:
        directory = cell_directory(sweep, entry.run_id)
        directory.mkdir(parents=True)
        (directory / "run.h5").write_bytes(b"x")
        write_done(directory, entry.run_id, "done", seconds=1.0, attempts=1, job=None)


def cluster_rows(count: int, runs: int, folder: Path) -> list[Row]:
    """Submission, status and relaunch, on a cluster of its own whose partition is down: nothing runs."""
    cluster = MiniSlurm(folder / "cluster", max_jobs=3 * count + 10)
    os.environ.update(cluster.environment)
    try:
        cluster.start()
        call(["scontrol", "update", "PartitionName=main", "State=DOWN"])
        return _cluster_rows(count, runs, folder / "sweep")
    finally:
        cluster.stop()


def _cluster_rows(count: int, runs: int, sweep: Path) -> list[Row]:
    profile = Profile(name="bench")
    open_sweep_folder(sweep)
    entries = add_cells(sweep, cells_of(count))
    requests = [CellRequest(Task(entry.run_id, entry.offset), 1_000) for entry in entries]

    def submit_all() -> None:
        arrays = plan_arrays(requests, profile, read_limits())
        done = submit(sweep, arrays, lambda record: None)
        assert not done.left_over, done.refusal
        assert len(done.records) <= max(1, count // 1_000)

    def status(expected: str) -> None:
        found = survey(sweep, [entry.run_id for entry in read_manifest(sweep)], read_queue())
        assert {cell.state for cell in found.cells.values()} == {expected}

    rows = [row(f"submit {count} cells", submit_all, 5.0, 1, WALL)]
    rows.append(row(f"status, {count} pending", lambda: status("pending"), 1.0, runs))
    call(["scancel", f"--user={getpass.getuser()}"])
    pretend_finished(sweep, entries)

    def first_look() -> None:
        (sweep / "finished.jsonl").unlink(missing_ok=True)
        status("done")

    rows.append(row(f"status, {count} done, first look", first_look, 1.0, runs))
    rows.append(row(f"status, {count} done, again", lambda: status("done"), 1.0, runs))

    def relaunch(expected: int) -> None:
        launched = launch_on_slurm(sweep, entries, profile)
        assert launched.submitted == expected, launched

    rows.append(row(f"relaunch of {count} finished", lambda: relaunch(0), 5.0, runs))
    for entry in entries[:7]:
        (cell_directory(sweep, entry.run_id) / "run.h5").unlink()
    rows.append(row("relaunch with 7 lost", lambda: relaunch(7), 5.0, 1, WALL))
    return rows


@click.command()
@click.option("--quick", is_flag=True, help="200 cells: to see that it works.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows to this file.")
def main(quick: bool, path: Path | None) -> None:
    count, runs = (200, 3) if quick else (10_000, 3)
    rows = planning_rows(count, runs)
    with tempfile.TemporaryDirectory() as place:
        rows += overhead_rows(Path(place), runs)
    try:
        require_programs()
        with tempfile.TemporaryDirectory(prefix=f"mtrl-bench-{getpass.getuser()}-", dir="/tmp") as place:
            Path(place).chmod(0o755)
            rows += cluster_rows(count, runs, Path(place))
    except MiniSlurmError as error:
        click.echo(f"without a cluster: {error}", err=True)
    for one in rows:
        click.echo(f"{one.case:36} {one.ours_us / 1e6:8.3f} s   {one.peer:22} ratio {one.ratio:6.2f}")
    if path:
        path.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
