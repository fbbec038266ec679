"""What gives way first when sweeps grow to 100,000 cells and ten people run them: counts, then a simulation.

The file-system operations of each command and of a cell are counted with strace. The counts then drive a simulated
metadata server: cells send heartbeats and checkpoints, every user watches the status, one user launches again. The
servers (`SERVERS`) are assumptions, written out in the result; the counts are measured.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from slurm.profiles import Profile
from slurm.records import Record, Task, write_record
from slurm.state import cell_directory, write_done, write_json
from sweeps.grid import expand, load_grid, override
from sweeps.manifest import Entry, add_cells, open_sweep_folder
from sweeps.watch import WATCH_PAUSES, WATCH_SECONDS

ROOT = Path(__file__).resolve().parent.parent
TRACED = "%file,fsync,fdatasync,flock,ftruncate,getdents64"
CELLS = 100_000  # of each sweep
RUNNING = 2_000  # of each user's cells, at once
CELL_HOURS = 8.0
CHECKPOINT_SECONDS = 300.0
CHECKPOINT_BYTES = 1e8  # MT10 with a replay of 10 x 50,000 transitions
SECONDS = 900.0  # simulated
TINY = {
    "env.tasks": "reach-v3", "env.horizon": 20, "env.goals_per_task": 1, "agent.batch_per_task": 8,
    "network.actor.width": 8, "network.critic.width": 8, "train.vector_steps": 60, "train.random_steps": 30,
    "evaluate.every": 30, "evaluate.episodes": 1, "run.device": "cpu",
}  # fmt: skip


@dataclass(frozen=True)
class Server:
    """What answers file-system operations: an assumption, from vendors' and administrators' usual figures."""

    name: str
    operations_per_second: float  # of metadata, over all clients
    round_trip: float  # seconds that one client waits for one operation on an idle server
    bytes_per_second: float


SERVERS = (
    Server("NFS", 10_000, 0.5e-3, 1e9),
    Server("Lustre", 40_000, 1.0e-3, 20e9),
)


@dataclass(frozen=True)
class Counts:
    """Operations on the sweep's folder, counted."""

    cell: int  # one cell, from start to DONE.json, without heartbeats and checkpoints on the way
    heartbeat: float
    checkpoint: float
    status: int  # whatever the number of cells that are over
    status_begun: float  # more for each cell that is begun and not over
    launch: int
    launch_over: float  # more for each cell that is over


def count_operations(words: Sequence[str], folder: Path) -> int:
    """System calls of the command and its children that name a path below `folder` or sync or lock a file there."""
    with tempfile.NamedTemporaryFile(suffix=".strace") as log:
        trace = ["strace", "-f", "-y", "-qq", "-o", log.name, "-e", f"trace={TRACED}", "-e", "signal=none"]
        done = subprocess.run([*trace, *words], capture_output=True, text=True, cwd=folder.parent)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = Path(log.name).read_text(errors="replace").splitlines()
    calls = [line for line in lines if str(folder) in line and "resumed>" not in line]
    free = re.compile(r"\d+ +(execve|chdir|getcwd|readlink)|AT_EMPTY_PATH")  # nothing is asked of the server
    return sum(not free.search(line) for line in calls)


def new_sweep(folder: Path, cells: int, **settings: object) -> list[Entry]:
    words = [f"{key}={value}" for key, value in {**TINY, **settings}.items()]
    grid = override(load_grid("scaling"), ["~network.critic.width", *words, f"train.seed=range({cells})"])
    open_sweep_folder(folder)
    return add_cells(folder, expand(grid))


def pretend(folder: Path, entries: Sequence[Entry], *, over: bool) -> None:
    """Leaves what a worker leaves: of cells that are over, or of cells at work."""
    for entry in entries:
        directory = cell_directory(folder, entry.run_id)
        directory.mkdir(parents=True)
        if over:
            (directory / "run.h5").write_bytes(b"x")
            write_done(directory, entry.run_id, "done", seconds=1.0, attempts=1, job=None)
        else:
            write_json(directory / "heartbeat.json", {"state": "running", "time": 0.0, "vector_step": 1})


JOB = "import sys; from slurm.job import run_task; run_task(sys.argv[1], sys.argv[2])"


def count_cell(
    place: Path, name: str, *, heartbeat_seconds: float = 1e4, over: int = 0, **settings: object
) -> int:
    """Operations of one cell, run as a job of Slurm runs it, in a sweep where `over` others are over."""
    folder = place / name
    entry, *others = new_sweep(folder, 1 + over, **settings)
    pretend(folder, others, over=True)
    profile = Profile(name="count", heartbeat_seconds=heartbeat_seconds)
    record = Record("token", [[Task(entry.run_id, entry.offset)]], profile.model_dump(mode="json"), 100)
    write_record(folder, record)
    return count_operations([sys.executable, "-c", JOB, str(folder), "token"], folder)


def command(name: str, folder: Path, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "sweeps/launch.py"), name, *words, "--runs", str(folder.parent)]


def count_status(place: Path, over: int, begun: int) -> int:
    """A status that has looked before: what is over is remembered."""
    folder = place / f"status{over}-{begun}"
    entries = new_sweep(folder, over + begun + 1)
    pretend(folder, entries[:over], over=True)
    pretend(folder, entries[over : over + begun], over=False)
    words = command("status", folder, folder.name)
    subprocess.run(words, check=True, capture_output=True)
    return count_operations(words, folder)


def count_launch(place: Path, over: int) -> int:
    """A launch that finds everything over: it looks at every run file."""
    folder = place / f"launch{over}"
    pretend(folder, new_sweep(folder, over), over=True)
    words = [f"{key}={value}" for key, value in TINY.items()]
    grid = ["grid=scaling", "~network.critic.width", *words, f"train.seed=range({over})", "executor=local"]
    return count_operations(command("launch", folder, *grid, "--name", folder.name), folder)


def count_all(place: Path) -> Counts:
    """All counts, each from small sweeps in `place`. Raises AssertionError where one grows that should not."""
    cell = count_cell(place, "plain")
    beating = count_cell(place, "beating", heartbeat_seconds=1e-9)
    saving = count_cell(place, "saving", **{"run.checkpoint_seconds": 1e-9})
    steps = int(str(TINY["train.vector_steps"]))
    few, many = count_status(place, 5, 0), count_status(place, 50, 0)
    assert few == many, f"status takes {few} operations with 5 cells over and {many} with 50"
    some = count_status(place, 5, 20)
    small, large = count_launch(place, 10), count_launch(place, 60)
    per_cell = (large - small) / 50
    return Counts(
        cell=cell,
        heartbeat=(beating - cell) / steps,
        checkpoint=(saving - cell) / (steps - 1),
        status=few,
        status_begun=(some - few) / 20,
        launch=round(small - 10 * per_cell),
        launch_over=per_cell,
    )


@dataclass(frozen=True)
class Load:
    """What a simulated quarter of an hour came to on one server, with so many users."""

    server: str
    users: int
    heartbeat_seconds: float
    busy: float  # share of the time that the server works; more than about 0.7 is felt by everybody
    wait_ms: float  # of one operation at the server, mean
    status_seconds: float | None  # the file-system part of one `status`, median; None: longer than all that
    relaunch_seconds: float | None  # the same of a launch that finds all cells over
    checkpoint_share: float  # of the bandwidth


def simulate(counts: Counts, server: Server, users: int, heartbeat_seconds: float, seed: int) -> Load:
    """Every user has RUNNING cells at work out of CELLS and watches the status; the first one launches again at once.

    A first-come-first-served queue of single operations. Heartbeats and checkpoints arrive at random times, and so do
    the ends of cells (each cell takes CELL_HOURS); a watching or launching client sends its next operation once it has
    the answer to the last.
    """
    generator = random.Random(seed)
    rates = {  # bursts per second, operations of one burst
        "heartbeat": (users * RUNNING / heartbeat_seconds, round(counts.heartbeat)),
        "checkpoint": (users * RUNNING / CHECKPOINT_SECONDS, round(counts.checkpoint)),
        "cell": (users * RUNNING / (CELL_HOURS * 3600), counts.cell),
    }
    status_operations = round(counts.status + RUNNING * counts.status_begun)
    ties = itertools.count()
    events: list[
        tuple[float, int, str, int, float]
    ] = []  # time, tie, kind; of a client operations left, its start

    def at(moment: float, kind: str, left: int = 0, began: float | None = None) -> None:
        heapq.heappush(events, (moment, next(ties), kind, left, moment if began is None else began))

    for kind, (rate, _) in rates.items():
        at(generator.expovariate(rate), kind)
    for _ in range(users):
        at(generator.uniform(0, WATCH_SECONDS), "status", status_operations)
    at(0.0, "relaunch", round(counts.launch + CELLS * counts.launch_over))
    service, now, free_at, busy, waited, operations = 1 / server.operations_per_second, 0.0, 0.0, 0.0, 0.0, 0
    statuses: list[float] = []
    relaunch: float | None = None
    while now < SECONDS:
        now, _, kind, left, began = heapq.heappop(events)
        count = rates[kind][1] if kind in rates else 1
        begin = max(now, free_at)
        free_at = begin + count * service
        busy, waited, operations = busy + count * service, waited + count * (begin - now), operations + count
        answered = free_at + server.round_trip
        if kind in rates:
            at(now + generator.expovariate(rates[kind][0]), kind)
        elif left > 1:
            at(answered, kind, left - 1, began)
        elif kind == "status":
            statuses.append(answered - began)
            pause = max(WATCH_SECONDS, WATCH_PAUSES * (answered - began))
            at(answered + pause, kind, status_operations)
        else:
            relaunch = round(answered - began)
    written = users * RUNNING * CHECKPOINT_BYTES / CHECKPOINT_SECONDS
    return Load(
        server.name, users, heartbeat_seconds, round(busy / now, 3), round(waited / operations * 1e3, 2),
        round(statistics.median(statuses), 1) if statuses else None, relaunch,
        round(written / server.bytes_per_second, 2),
    )  # fmt: skip


@click.command()
@click.option(
    "--json", "path", type=click.Path(path_type=Path), help="Write counts and simulation to this file."
)
def main(path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        counts = count_all(Path(place))
    click.echo(json.dumps(asdict(counts)))
    loads = [
        simulate(counts, server, users, heartbeat_seconds, seed=0)
        for server in SERVERS
        for users in (1, 10)
        for heartbeat_seconds in (30.0, 120.0)
    ]
    click.echo(
        "server  users  heartbeat  busy  wait of one operation  status  relaunch  checkpoints' bandwidth"
    )
    for load in loads:
        click.echo(
            f"{load.server:8}{load.users:5}{load.heartbeat_seconds:9.0f} s{load.busy:6.0%}{load.wait_ms:20.2f} ms"
            f"{load.status_seconds or float('nan'):7.1f} s{load.relaunch_seconds or float('nan'):8.0f} s"
            f"{load.checkpoint_share:10.0%}"
        )
    if path:
        assumed = {"cells": CELLS, "running": RUNNING, "watch_seconds": WATCH_SECONDS, "cell_hours": CELL_HOURS,
                   "checkpoint_seconds": CHECKPOINT_SECONDS, "checkpoint_bytes": CHECKPOINT_BYTES,
                   "servers": [asdict(server) for server in SERVERS]}  # fmt: skip
        content = {
            "counts": asdict(counts),
            "assumed": assumed,
            "simulated": [asdict(load) for load in loads],
        }
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
