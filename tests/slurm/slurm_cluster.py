"""A cluster of slurm/mini for tests, tiny real cells for it, and the command line around them."""

import getpass
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from slurm.mini.cluster import MiniSlurm, MiniSlurmError, require_programs
from slurm.queue import read_queue
from slurm.survey import survey
from sweeps.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
LONG = 1_000_000  # vector steps: never over within a test
STEPS = 4_000  # some seconds, and two on the quickest machine: what strikes in the middle must not come late
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
    """A grid of tiny cells, a profile, and a folder, on one cluster, or with another executor on this machine."""

    cluster: MiniSlurm
    folder: Path
    cells: int = 1
    steps: int = 60
    checkpoint_seconds: float = 300.0
    profile: dict[str, Any] = field(default_factory=dict)
    executor: str = "slurm"

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

    def start(self, *words: str, runs: bool = True, **environment: str) -> subprocess.Popen[str]:
        """The sweep command, started."""
        where = ["--runs", str(self.folder / "runs")] if runs else []
        return subprocess.Popen(
            [sys.executable, str(ROOT / "sweeps/launch.py"), *words, *where],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            env={**self.cluster.environment, **environment},
        )  # fmt: skip

    def command(self, *words: str, code: int | None = 0, seconds: float = 120) -> str:
        """Runs the sweep command. Returns all that it prints."""
        return "".join(self._run(*words, code=code, runs=True, seconds=seconds))

    def answer(self, *words: str, code: int | None = 0, runs: bool = True) -> str:
        """The same without what it says on the way."""
        return self._run(*words, code=code, runs=runs, seconds=120)[0]

    def _run(self, *words: str, code: int | None, runs: bool, seconds: float) -> tuple[str, str]:
        process = self.start(*words, runs=runs)
        answer, said = process.communicate(timeout=seconds)
        assert code is None or process.returncode == code, answer + said
        assert "Traceback (most" not in said, said
        return answer, said

    def launch_words(self) -> list[str]:
        where = f"profile={self.folder / 'test.toml'}" if self.executor == "slurm" else ""
        return [f"grid={self.folder / 'tiny.toml'}", where or f"executor={self.executor}", "--yes", "--json"]

    def launch(self, *words: str, code: int | None = 0) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.answer(*self.launch_words(), *words, code=code))
        return answer

    def retry(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.answer("retry", "tiny", "--json"))
        return answer

    def status(self) -> list[dict[str, Any]]:
        """`status --json`, as a user asks for it."""
        answer: list[dict[str, Any]] = json.loads(self.answer("status", "tiny", "--json"))["cells"]
        return answer

    def rows(self) -> list[dict[str, Any]]:
        """The same without starting a process: tests ask often."""
        with mock.patch.dict(os.environ, self.cluster.environment):
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
            ),
            what=lambda: f"{self.rows()} {self.beats()} {self.output()}",
        )

    @contextmanager
    def held_still(self, step: int) -> Iterator[int]:
        """Within, the process of the sweep's one cell stands still, beyond that step and with a checkpoint behind it;
        it goes on once it was told to stop, or something else ended it. So what is to strike in the middle of the
        run does, on a machine of any speed."""
        self.wait_for_step(step)
        wait_until(lambda: any(self.place.glob("cells/*/checkpoint/*/checksums.json")))
        pid = int(self.beats()[0]["pid"])
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: _state(pid).get("State", "T").strip().startswith("T"))
        try:
            yield pid
            wait_until(lambda: _is_told_or_gone(pid), what=self.output)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def wait_for(self, *states: str) -> None:
        """Until every cell is in one of these states."""
        wait_until(lambda: set(self.states()) <= set(states), every=0.5, what=lambda: f"{self.rows()}")

    def wait_until_done(self) -> None:
        wait_until(
            lambda: len(list(self.place.glob("cells/*/DONE.json"))) == self.cells,
            what=lambda: f"{self.rows()}",
        )

    def wait_until_idle(self) -> None:
        """Until Slurm has ended its jobs, also where their cells are over."""
        wait_until(lambda: not self.slurm("squeue", "--noheader", f"--user={getpass.getuser()}"))

    def output(self) -> str:
        """What the jobs printed."""
        return "".join(path.read_text() for path in sorted((self.place / "slurm").glob("*.out")))


Make = Callable[..., Sweep]


@contextmanager
def start_cluster(**settings: Any) -> Iterator[MiniSlurm]:
    """A cluster for tests; afterwards nothing is left of it."""
    try:
        require_programs(accounting=settings.get("accounting", False))
    except MiniSlurmError as error:
        if is_required():
            raise
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix=f"mtrl-test-slurm-{getpass.getuser()}-", dir="/tmp") as place:
        cluster = MiniSlurm(Path(place) / "cluster", **settings)
        Path(place).chmod(0o755)  # munge's socket must be reachable
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
        assert not processes_of(cluster), "the cluster left processes behind"
        assert not cluster.folder.exists()


def processes_of(cluster: MiniSlurm) -> list[str]:
    """The commands of the processes that work in the cluster's folder or name it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(cluster.folder) in command or str((place / "cwd").readlink()).startswith(
                str(cluster.folder)
            ):
                found.append(command)
    return found


def _is_told_or_gone(pid: int) -> bool:
    """Whether the stopped process has a TERM waiting for it, goes on, or has ended."""
    facts = _state(pid)
    if not facts or not facts["State"].strip().startswith("T"):
        return True
    waiting = int(facts["SigPnd"], 16) | int(facts["ShdPnd"], 16)
    return bool(waiting & 1 << signal.SIGTERM - 1)


def _state(pid: int) -> dict[str, str]:
    """What the kernel says of the process; empty once it is gone."""
    try:
        return dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return {}


def main_process(pid: int) -> int:
    """The main process of the job whose cell has that process. Raises ProcessLookupError once it is gone."""
    try:
        parent = int(_state(pid)["PPid"])
        command = Path(f"/proc/{parent}/cmdline").read_bytes()
    except (KeyError, OSError):
        raise ProcessLookupError(pid) from None
    if b"submitit" not in command:
        raise ProcessLookupError(pid)
    return parent


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
