"""Chaos: a sweep of tiny real cells on a real Slurm while a seeded generator kills things.

    python -m tests.chaos.chaos --seed 1 --cells 120 --faults 29 --node-deaths 4

Faults: kill -9 of a cell's process, of a job's main process and of a launcher while it submits; USR2 and TERM to a job,
scontrol requeue, scancel, and the death of a node. Between faults the sweep is retried as `mtrl-sweep retry --watch`
would. In the end every cell must be done, once, and equal bit for bit to the same cell trained undisturbed. Work done
again: none after a signal; after a kill on average half the steps between two saves, within three standard errors.
"""

from __future__ import annotations

import argparse
import getpass
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.results import read_run
from slurm.mini.cluster import MiniSlurm
from tests.slurm.slurm_cluster import Sweep, main_process, wait_until

NODE_AWAY_SECONDS = 8.0  # longer than the controller waits for a silent node
KINDS = ("kill", "main", "launcher", "USR2", "TERM", "requeue", "scancel")
WITH_WARNING = {"launcher", "USR2", "TERM", "requeue", "scancel"}
WITHOUT_WARNING = {"kill", "node"}  # "main" ends a job, whose cells are told
CHECKPOINT_SECONDS = 1.0
RESUMED = r"attempt (\d+): goes on at step \d+, (\d+) steps again"


@dataclass
class Report:
    """What a run of chaos came to."""

    seed: int
    cells: int
    faults: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    finished_twice: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    # steps done again, by what struck the attempt before
    repeated: dict[str, list[int]] = field(default_factory=dict)
    save_interval: float = 0.0  # steps between two saves, at the pace of cells that nothing struck
    steps: int = 0
    seconds: float = 0.0

    @property
    def repeated_per_kill(self) -> float:
        """Steps done again by a cell that was struck without a warning, on average."""
        return statistics.fmean(self._after_kills or [0])

    @property
    def most_repeated_per_kill(self) -> float:
        """What that average may be. A kill comes at any moment between two saves: half of the steps between them, and
        three standard errors of so many kills more. One step, too, which is cut off in its middle."""
        kills = max(1, len(self._after_kills))
        return self.save_interval * (1 / 2 + 3 / math.sqrt(12 * kills)) + 1

    @property
    def _after_kills(self) -> list[int]:
        return [
            n
            for kind, steps in self.repeated.items()
            if WITHOUT_WARNING & set(kind.split("+"))
            for n in steps
        ]

    @property
    def intact(self) -> bool:
        """Whether every cell was finished once, as undisturbed, and nothing was done again after a warning."""
        warned = [steps for kind, steps in self.repeated.items() if set(kind.split("+")) <= WITH_WARNING]
        return not (self.lost or self.finished_twice or self.different or any(map(any, warned)))

    @property
    def sound(self) -> bool:
        return self.intact and self.repeated_per_kill <= self.most_repeated_per_kill


@dataclass
class Strikes:
    """What struck which attempt of which cell."""

    kinds: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, beat: dict[str, Any], kind: str) -> None:
        self.kinds[beat["run_id"], beat["attempt"]].add(kind)


def run_chaos(
    cluster: MiniSlurm,
    folder: Path,
    *,
    seed: int,
    cells: int,
    faults: int,
    node_deaths: int,
    cell_seconds: float,
    slots: int,
    cells_per_job: int = 1,
    pull: bool = False,
) -> Report:
    """Trains the cells undisturbed, then under `faults` faults of which `node_deaths` take a node; compares.

    Cells are long enough to train for about `cell_seconds` here, or faults would come too late on a quick machine.
    """
    start = time.monotonic()
    generator = random.Random(seed)
    steps = round(cell_seconds * _steps_per_second(cluster, folder / "pace"))
    calm = Sweep(cluster, folder / "calm", cells=cells, steps=steps)
    calm.command(f"grid={calm.folder}/tiny.toml", "executor=inline", seconds=60 + 10 * cells)
    profile = {"max_running": slots, "cells_per_job": cells_per_job, "heartbeat_seconds": 0.05, "pull": pull}
    sweep = Sweep(cluster, folder / "chaos", cells=cells, steps=steps, checkpoint_seconds=CHECKPOINT_SECONDS,
                  profile=profile)  # fmt: skip
    strikes = Strikes()
    sweep.launch()
    plan = ["node"] * node_deaths + generator.choices(KINDS, k=faults - node_deaths)
    generator.shuffle(plan)
    report = Report(seed, cells, steps=cells * steps)
    for number, kind in enumerate(plan):
        wait_until(
            lambda: bool(_at_work(sweep)) or _all_done(sweep) or _keep_going(sweep),
            seconds=120,
            every=0.3,
        )
        if _strike(cluster, sweep, kind, generator, strikes):
            report.faults[kind] = report.faults.get(kind, 0) + 1
        time.sleep(generator.uniform(0.2, 1.5))
        if number % 4 == 3:
            _keep_going(sweep)
    wait_until(lambda: _all_done(sweep) or _keep_going(sweep), seconds=60 + 8 * cells, every=2.0,
               what=lambda: f"{sweep.rows()}")  # fmt: skip
    _compare(calm, sweep, report, strikes)
    report.seconds = time.monotonic() - start
    return report


def _steps_per_second(cluster: MiniSlurm, folder: Path) -> float:
    pace = Sweep(cluster, folder, steps=1_000)
    pace.command(f"grid={folder}/tiny.toml", "executor=inline")
    marker = json.loads(next(pace.place.glob("cells/*/DONE.json")).read_text())
    return pace.steps / float(marker["seconds"])


def _at_work(sweep: Sweep) -> list[dict[str, Any]]:
    """Heartbeats of cells in the middle of training, their process alive."""
    return [
        beat
        for beat in sweep.beats()
        if beat["state"] == "running" and beat["vector_step"] and Path(f"/proc/{beat['pid']}").exists()
    ]


def _all_done(sweep: Sweep) -> bool:
    return len(list(sweep.place.glob("cells/*/DONE.json"))) == sweep.cells


def _keep_going(sweep: Sweep) -> bool:
    """Submits what was lost, once nothing else is at work; what was given up for want of progress is launched again,
    as its owner would. Returns False: there is more to wait for."""
    if set(sweep.states()) & {"pending", "running"}:
        return False
    if sweep.retry()["given_up"]:
        sweep.launch()
    return False


def _strike(cluster: MiniSlurm, sweep: Sweep, kind: str, generator: random.Random, strikes: Strikes) -> bool:
    """One fault. Returns whether there was anything left to hit."""
    beats = _at_work(sweep)
    if not beats:
        return False
    beat = generator.choice(beats)
    with suppress(ProcessLookupError):
        if kind == "node":
            nodes = {row["run_id"]: row["reason"] for row in sweep.rows()}
            node = nodes[beat["run_id"]]
            number = int(node[1:]) if node.startswith("n") and node[1:].isdigit() else generator.randrange(4)
            for other in beats:
                if nodes[other["run_id"]] == f"n{number}":
                    strikes.note(other, kind)
            cluster.kill_node(number)
            time.sleep(NODE_AWAY_SECONDS)
            cluster.start_node(number)
            return True
        for other in beats:
            if other is beat or (kind != "kill" and other["job"] == beat["job"]):
                strikes.note(other, kind)
        if kind == "kill":
            os.kill(beat["pid"], signal.SIGKILL)
        elif kind == "main":
            os.kill(main_process(beat["pid"]), signal.SIGKILL)
        elif kind == "launcher":
            _kill_a_launcher(sweep, beat["job"], generator)
        elif kind in ("requeue", "scancel"):
            words = ["scontrol", "requeue"] if kind == "requeue" else ["scancel"]
            _call(sweep, *words, beat["job"])
        else:
            _call(sweep, "scancel", f"--signal={kind}", "--batch", beat["job"])
    return True


def _kill_a_launcher(sweep: Sweep, job: str, generator: random.Random) -> None:
    """Ends a job, so that there is something to submit, and kills the launcher that finds it, anywhere on its way."""
    _call(sweep, "scancel", job)
    with suppress(AssertionError):
        wait_until(lambda: all(beat["job"] != job for beat in _at_work(sweep)), seconds=30)
    launcher = sweep.start(*sweep.launch_words())
    with suppress(subprocess.TimeoutExpired):
        launcher.communicate(timeout=generator.uniform(0.5, 4.0))
    launcher.kill()
    launcher.communicate()


def _call(sweep: Sweep, *words: str) -> None:
    """A command of Slurm that may come too late: the job may just have ended, or its node be away; scancel then waits
    for minutes."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(words, env=sweep.cluster.environment, capture_output=True, timeout=20)


def _compare(calm: Sweep, sweep: Sweep, report: Report, strikes: Strikes) -> None:
    for entry in calm.rows():
        run_id = entry["run_id"]
        directory = sweep.place / "cells" / run_id
        if not (directory / "DONE.json").exists():
            report.lost.append(run_id)
            continue
        log = (directory / "log.txt").read_text()
        if log.count(": done at step") != 1:
            report.finished_twice.append(run_id)
        one, other = (read_run(place.place / "cells" / run_id / "run.h5") for place in (calm, sweep))
        same = all(
            np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
            for name in ("env_steps", "per_task", "per_run", "random_policy")
        )
        if not same:
            report.different.append(run_id)
        before = 0
        for attempt, steps in re.findall(RESUMED, log):
            struck = [strikes.kinds[run_id, number] for number in range(before, int(attempt))]
            kinds = "+".join(sorted(set().union(*struck))) or "something else"
            report.repeated.setdefault(kinds, []).append(int(steps))
            before = int(attempt)
    report.save_interval = round(
        CHECKPOINT_SECONDS * report.steps / report.cells / _seconds_of_a_cell(sweep, calm)
    )


def _seconds_of_a_cell(sweep: Sweep, calm: Sweep) -> float:
    """Of a cell that nothing struck: beside the others and under the load of the same run, if there is one."""
    markers = [
        [json.loads(path.read_text()) for path in place.place.glob("cells/*/DONE.json")]
        for place in (sweep, calm)
    ]
    whole = [marker["seconds"] for marker in markers[0] if marker["attempts"] == 1]
    return statistics.median(whole or [marker["seconds"] for marker in markers[1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (
        ("seed", 1),
        ("cells", 120),
        ("faults", 29),
        ("node-deaths", 4),
        ("slots", 4),
        ("cells-per-job", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cell-seconds", type=float, default=2.0)
    parser.add_argument("--pull", action="store_true", help="jobs share the cells")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=f"mtrl-chaos-{getpass.getuser()}-", dir="/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        cluster = MiniSlurm(folder / "cluster", kill_wait=30)  # Slurm's own default
        try:
            cluster.start()
            report = run_chaos(
                cluster, folder, seed=options.seed, cells=options.cells, faults=options.faults,
                node_deaths=options.node_deaths, cell_seconds=options.cell_seconds, slots=options.slots,
                cells_per_job=options.cells_per_job, pull=options.pull,
            )  # fmt: skip
        finally:
            cluster.stop()
    text = json.dumps(
        {
            **vars(report),
            "repeated_per_kill": round(report.repeated_per_kill, 1),
            "most_repeated_per_kill": round(report.most_repeated_per_kill, 1),
            "sound": report.sound,
        }
    )
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    sys.exit(0 if report.sound else 1)


if __name__ == "__main__":
    main()
