"""What a Slurm job does with its cells: forked processes around a stand-in for the trainer."""

import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurm.job import run_packed
from slurm.state import cell_directory, read_json, read_state
from slurm.worker import CellJob, StopFlag
from tests.slurm.stand_in import CONFIG, progress, write_run_file

Trainer = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs `count` cells in `slots` with that trainer; returns their states."""

    def run(train: Trainer, *, count: int, slots: int = 1, stop_after: float | None = None) -> list[str]:
        module = types.ModuleType("mtrl.train")
        module.train = train  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mtrl.train", module)
        names = [f"{number:012x}" for number in range(count)]
        jobs = [CellJob(name, cell_directory(tmp_path, name), CONFIG.model_dump_json()) for name in names]
        with StopFlag() as stop:
            if stop_after is not None:
                threading.Timer(stop_after, os.kill, (os.getpid(), signal.SIGUSR2)).start()
            run_packed(jobs, slots, stop)
        return [read_state(tmp_path, name).state for name in names]

    return run


def number_of(directory: Path) -> int:
    return int(directory.name, 16)


def finish(directory: Path, report: Any) -> str:
    report(progress(9))
    write_run_file(directory)
    return "done"


def test_a_cell_imports_nothing_anew(run: Callable[..., list[str]], tmp_path: Path) -> None:
    def train(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
        (directory / "seen.json").write_text(
            json.dumps([name in sys.modules for name in ("mujoco", "metaworld")])
        )
        return finish(directory, report)

    assert run(train, count=2) == ["done", "done"]
    for path in tmp_path.glob("cells/*/seen.json"):
        assert json.loads(path.read_text()) == [True, True]


def test_slots_are_filled_and_not_overfilled(run: Callable[..., list[str]], tmp_path: Path) -> None:
    """Each cell notes when it worked; the last two overlap, and no three do."""

    def train(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
        start = time.monotonic()
        time.sleep(0.1 + 0.2 * (number_of(directory) % 2))
        (directory / "seen.json").write_text(json.dumps([start, time.monotonic()]))
        return finish(directory, report)

    assert run(train, count=5, slots=2) == ["done"] * 5
    spans = [json.loads(path.read_text()) for path in tmp_path.glob("cells/*/seen.json")]
    at_once = [sum(first <= start < last for first, last in spans) for start, _ in spans]
    assert max(at_once) == 2


def test_a_killed_cell_is_noted_and_the_next_one_runs(run: Callable[..., list[str]], tmp_path: Path) -> None:
    def train(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
        report(progress(5))
        if number_of(directory) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(directory, report)

    assert run(train, count=3) == ["done", "failed", "done"]
    failed = read_json(cell_directory(tmp_path, f"{1:012x}") / "FAILED.json") or {}
    assert (failed["error"], failed["cause"]) == ("the process was killed by signal 9", "killed")


def test_told_to_stop_the_running_save_and_no_more_start(run: Callable[..., list[str]]) -> None:
    def train(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
        report(progress(5))
        while not stop():
            time.sleep(0.01)
        return "stopped"

    assert run(train, count=4, slots=2, stop_after=1.0) == ["stopped", "stopped", "missing", "missing"]
