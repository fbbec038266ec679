"""A cluster of slurm/mini for tests, tiny real cells for it, and the command line around them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm.mini.cluster import MiniSlurm
from slurm.queue import read_queue
from slurm.survey import survey
from sweeps.manifest import read_manifest

ROOT = Path(__file__).resolve().parent.parent
GRID = """
preset = "debug"
[fixed]
"env.horizon" = 20
"env.goals_per_task" = 1
"agent.batch_per_task" = 8
"network.actor.width" = 8
"network.critic.width" = 8
"train.vector_steps" = {steps}
"train.random_steps" = 30
"evaluate.every" = {steps}
"evaluate.episodes" = 1
"run.device" = "cpu"
"run.checkpoint_seconds" = {checkpoint_seconds}
[axes]
"train.seed" = "range({cells})"
"""


@dataclass
class Sweep:
    """A grid of tiny cells, a profile, and a folder, on one cluster."""

    cluster: MiniSlurm
    folder: Path
    cells: int = 1
    steps: int = 60
    checkpoint_seconds: float = 300.0
    profile: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = {"cells": self.cells, "steps": self.steps, "checkpoint_seconds": self.checkpoint_seconds}
        (self.folder / "tiny.toml").write_text(GRID.format(**numbers))
        settings = {
            "partition": "main",
            "minutes": 10,
            "memory_mb": 1500,
            "heartbeat_seconds": 0.2,
            **self.profile,
        }
        options = settings.pop("options", {})
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += ["[options]", *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
        (self.folder / "test.toml").write_text("\n".join(lines))

    @property
    def place(self) -> Path:
        return self.folder / "runs/tiny"

    def command(self, *words: str, code: int | None = 0) -> str:
        """Runs the sweep command. Returns what it prints."""
        done = subprocess.run(
            [sys.executable, str(ROOT / "sweeps/launch.py"), *words, "--runs", str(self.folder / "runs")],
            capture_output=True, text=True, timeout=120, env=self.cluster.environment,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stdout + done.stderr
        assert "Traceback (most" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def launch(self, *words: str) -> dict[str, Any]:
        profile = f"profile={self.folder / 'test.toml'}"
        answer: dict[str, Any] = json.loads(self.command(
            f"grid={self.folder / 'tiny.toml'}", profile, "--yes", "--json", *words
        ).splitlines()[-1])  # fmt: skip
        return answer

    def retry(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.command("retry", "tiny", "--json").splitlines()[-1])
        return answer

    def status(self) -> list[dict[str, Any]]:
        """`status --json`, as a user asks for it."""
        answer: list[dict[str, Any]] = json.loads(self.command("status", "tiny", "--json").splitlines()[-1])[
            "cells"
        ]
        return answer

    def rows(self) -> list[dict[str, Any]]:
        """The same without starting a process: tests ask often."""
        os.environ.update(self.cluster.environment)
        found = survey(self.place, [entry.run_id for entry in read_manifest(self.place)], read_queue())
        return [
            {"run_id": cell.run_id, "state": cell.state, "reason": cell.reason}
            for cell in found.cells.values()
        ]

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]

    def directory(self, cell: int = 0) -> Path:
        return self.place / "cells" / self.rows()[cell]["run_id"]

    def slurm(self, *words: str) -> str:
        return subprocess.run(
            words, env=self.cluster.environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    def beats(self) -> list[dict[str, Any]]:
        """The heartbeats, by the files alone."""
        found = []
        for path in sorted(self.place.glob("cells/*/heartbeat.json")):
            try:
                found.append(json.loads(path.read_text()))
            except OSError:
                continue
        return found

    def wait_for_step(self, step: int, cells: int = 1) -> None:
        """Until that many cells are at work beyond that step."""
        wait_until(
            lambda: (
                sum(b["state"] == "running" and (b["vector_step"] or 0) >= step for b in self.beats())
                >= cells
            )
        )

    def wait_for(self, *states: str) -> None:
        """Until every cell is in one of these states."""
        wait_until(lambda: set(self.states()) <= set(states), every=0.5, what=lambda: f"{self.rows()}")

    def wait_until_done(self) -> None:
        wait_until(
            lambda: len(list(self.place.glob("cells/*/DONE.json"))) == self.cells,
            what=lambda: f"{self.rows()}",
        )

    def output(self) -> str:
        """What the jobs printed."""
        return "".join(path.read_text() for path in sorted((self.place / "slurm").glob("*.out")))


def wait_until(
    condition: Callable[[], bool],
    seconds: float = 90,
    every: float = 0.1,
    what: Callable[[], str] = lambda: "",
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain; {what()}"
        time.sleep(every)


def is_required() -> bool:
    """In CI a missing Slurm is an error, elsewhere a reason to skip."""
    return bool(os.environ.get("CI"))
