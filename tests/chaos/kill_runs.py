"""kill -9 at random moments of a run until it is done: it leaves what an unkilled run leaves, bit for bit.

    python -m tests.chaos.kill_runs --trials 51 --seed 1

A trial kills one run several times: while it starts, steps, learns, evaluates, and writes its run file or a checkpoint.
Then the run file (but for its clocks) and agent.pt are compared with those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from mtrl.config import Config
from mtrl.overrides import build_config
from mtrl.train import train

SHORT: dict[str, Any] = {
    "env.tasks": "drawer-close-v3+reach-v3",
    "env.horizon": 20,
    "env.goals_per_task": 3,
    "replay.capacity": 100,  # the ring goes round
    "train.vector_steps": 150,
    "train.random_steps": 30,
    "evaluate.every": 40,
    "evaluate.episodes": 1,
    "run.device": "cpu",
    "run.checkpoint_seconds": 0.03,  # so that many kills strike within a save
} | {f"network.{part}.width": 8 for part in ("actor", "critic")}
PRESETS: dict[str, Config] = {
    "paper": build_config("paper", SHORT | {"agent.batch_per_task": 8}),
    "brc": build_config("brc", SHORT | {"agent.batch": 16}),
    "simba, prioritized, 3-step stacked rows, resets": build_config(
        "simba",
        SHORT
        | {
            "agent.batch_per_task": 8,
            "agent.reset_every": 70,
            "replay.mode": "prioritized",
            "replay.n_step": 3,
            "replay.beta_end": 1.0,
            "replay.rows": "frame_stack",
        },
    ),
}
KILLS = 6  # of one trial at most


@dataclass
class Report:
    trials: int = 0
    kills: int = 0
    within_a_save: int = 0  # kills that left an unfinished checkpoint
    differences: list[str] = field(default_factory=list)


def kill_runs(trials: int, seed: int, folder: Path, names: tuple[str, ...] = tuple(PRESETS)) -> Report:
    """Runs `trials` trials, the presets `names` in turn, in `folder`."""
    report, chance = Report(), random.Random(seed)
    whole: dict[str, tuple[float, dict[str, bytes]]] = {}
    for trial in range(trials):
        name = names[trial % len(names)]
        if name not in whole:
            start = time.monotonic()
            undisturbed = folder / f"whole {trial}"
            os.waitpid(start_run(PRESETS[name], undisturbed), 0)
            whole[name] = (time.monotonic() - start, left_behind(undisturbed))
        seconds, expected = whole[name]
        directory = folder / str(trial)
        disturb(PRESETS[name], directory, seconds, chance, report)
        found = left_behind(directory)
        wrong = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        report.differences += [f"trial {trial} ({name}): {key}" for key in wrong]
        report.trials += 1
    return report


def disturb(config: Config, directory: Path, seconds: float, chance: random.Random, report: Report) -> None:
    """Runs `config` to its end, with a kill at a random moment of each of its first lives, of one at least."""
    before = report.kills
    for _ in range(KILLS):
        process = start_run(config, directory)
        if ends_within(process, chance.uniform(0, seconds)):
            if report.kills > before:
                return
            shutil.rmtree(directory)  # nothing struck: once more
            continue
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        report.kills += 1
        report.within_a_save += any((directory / "checkpoint").glob("*.unfinished"))
    os.waitpid(start_run(config, directory), 0)


def start_run(config: Config, directory: Path) -> int:
    """The process id of a child that trains the run, or goes on with it."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = 0 if train(config, directory) == "done" else 1
        finally:
            os._exit(code)
    return process


def ends_within(process: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    return False


def left_behind(directory: Path) -> dict[str, bytes]:
    """agent.pt and every part of the run file but its clocks; empty where the run did not end."""
    left = {}
    with contextlib.suppress(OSError):
        left["agent.pt"] = (directory / "agent.pt").read_bytes()
        with h5py.File(directory / "run.h5") as file:
            left |= {f"attribute {name}": repr(value).encode() for name, value in file.attrs.items()}
            left |= {name: file[name][()].tobytes() for name in file if file[name].dtype != object}
            left |= {name: repr(file[name][()]).encode() for name in file if file[name].dtype == object}
        del left["timing"]
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=51)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = kill_runs(given.trials, given.seed, Path(folder))
    print(report)
    sys.exit(bool(report.differences))


if __name__ == "__main__":
    main()
