"""What a Slurm job does with its cells: forked processes around a stand-in for the trainer."""

import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest

from slurm.job import OwnCells, SharedCells, run_job, run_packed
from slurm.profiles import Profile
from slurm.records import History, Record, Task
from slurm.state import (
    CellState,
    cell_directory,
    read_json,
    read_state,
    write_cancelled,
    write_done,
    write_failed,
    write_json,
)
from slurm.worker import CellJob, StopFlag, hold_cell, is_held
from tests.slurm.slurm_cluster import wait_until
from tests.slurm.stand_in import CONFIG, progress, write_run_file

Trainer = Callable[..., str]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trainer], None]:
    """Puts a function in the place of `mtrl.train.train`."""

    def put(train: Trainer) -> None:
        module = types.ModuleType("mtrl.train")
        module.train = train  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mtrl.train", module)

    return put


@pytest.fixture
def run(trainer: Callable[[Trainer], None], tmp_path: Path) -> Callable[..., list[str]]:
    """Runs `count` cells in `slots` with that trainer; returns their states."""

    def run(train: Trainer, *, count: int, slots: int = 1, stop_after: float | None = None) -> list[str]:
        trainer(train)
        names = [f"{number:012x}" for number in range(count)]
        jobs = [CellJob(name, cell_directory(tmp_path, name), CONFIG.model_dump_json()) for name in names]
        with StopFlag() as stop:
            if stop_after is not None:
                threading.Timer(stop_after, os.kill, (os.getpid(), signal.SIGUSR2)).start()
            run_packed(lambda: jobs.pop(0) if jobs else None, slots, stop)
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
    """Each cell notes when it worked. The first waits for the second; no three work at the same time."""

    def train(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
        start = time.monotonic()
        if number_of(directory) == 0:
            wait_until(cell_directory(tmp_path, f"{1:012x}").exists)
        time.sleep(0.1)
        (directory / "seen.json").write_text(json.dumps([start, time.monotonic()]))
        return finish(directory, report)

    assert run(train, count=5, slots=2) == ["done"] * 5
    spans = [json.loads(path.read_text()) for path in tmp_path.glob("cells/*/seen.json")]
    at_once = [sum(first <= start < last for first, last in spans) for start, _ in spans]
    assert max(at_once) <= 2


def test_a_job_never_waits_for_no_cell(
    run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_for = []

    def wait(cells: list[Any], timeout: float) -> list[Any]:
        waited_for.append(len(cells))
        return connection.wait(cells, timeout)

    monkeypatch.setattr("slurm.job.wait", wait)
    assert run(lambda config, directory, *, stop, report: finish(directory, report), count=2) == ["done"] * 2
    assert set(waited_for) == {1}


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


def test_a_killed_main_process_takes_its_cells_with_it_and_they_save(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    def train(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
        report(progress(5))
        while not stop():
            time.sleep(0.01)
        return "stopped"

    main = os.fork()
    if not main:
        run(train, count=2, slots=2)
        os._exit(1)
    beats = [cell_directory(tmp_path, f"{number:012x}") / "heartbeat.json" for number in range(2)]
    try:
        wait_until(lambda: all((read_json(path) or {}).get("state") == "running" for path in beats))
    finally:
        os.kill(main, signal.SIGKILL)
        os.waitpid(main, 0)
    wait_until(lambda: all((read_json(path) or {})["state"] == "stopped" for path in beats))


def write_cells(sweep: Path, count: int) -> list[Task]:
    """A manifest of so many cells."""
    tasks = []
    with (sweep / "manifest.jsonl").open("wb") as file:
        for seed in range(count):
            config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"seed": seed})})
            tasks.append(Task(config.run_id, file.tell(), History(begun=2)))
            line = {"run_id": config.run_id, "config": config.model_dump(mode="json")}
            file.write(json.dumps(line).encode() + b"\n")
    return tasks


@pytest.fixture
def shared(tmp_path: Path) -> Record:
    """The record of job 7, whose two tasks share six cells that the manifest has."""
    tasks = write_cells(tmp_path, 6)
    for task in tasks:
        cell_directory(tmp_path, task.run_id).mkdir(parents=True)
    return Record("1-a", [tasks], Profile(name="lab").model_dump(mode="json"), 100, job="7", jobs=2)


def taken(sweep: Path, record: Record) -> list[int]:
    """The seeds of the cells that a job of the array takes."""
    cells = SharedCells(sweep, record)
    return [seed_of(job) for _ in range(10) if (job := cells.take())]


def seed_of(job: CellJob | None) -> int:
    assert job is not None
    seed: int = json.loads(job.config)["train"]["seed"]
    return seed


@pytest.mark.parametrize("whose", [OwnCells, SharedCells])
@pytest.mark.parametrize(
    ("old", "new"), [(b'"seed": 1', b'"seed": 9'), (b'"config": {', b'"config": {{'), (b"{", b"[")]
)
def test_a_damaged_line_of_the_manifest_fails_its_cell_alone(
    tmp_path: Path, whose: Any, old: bytes, new: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = write_cells(tmp_path, 3)
    manifest = tmp_path / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(old, new, 1)[-len(lines[1]) :]  # of the same length: the other offsets hold
    manifest.write_bytes(b"".join(lines))
    record = Record("1-a", [tasks], Profile(name="lab").model_dump(mode="json"), 100, job="7")
    cells = whose(tmp_path, record, *([0] if whose is OwnCells else []))
    assert [seed_of(cells.take()), seed_of(cells.take()), cells.take()] == [0, 2, None]
    state = read_state(tmp_path, tasks[1].run_id)
    assert (state.state, state.reason) == (
        "failed", f"{manifest}, line 2, is damaged; a launch of the grid writes it anew"
    )  # fmt: skip
    assert cells.taken == tasks, "the job must not end as if all its cells were done"
    assert "line 2, is damaged" in capsys.readouterr().err


def test_jobs_that_share_cells_take_those_that_are_free(tmp_path: Path, shared: Record) -> None:
    places = [cell_directory(tmp_path, task.run_id) for task in shared.tasks[0]]
    assert taken(tmp_path, shared) == [0, 1, 2, 3, 4, 5]
    write_run_file(places[0])
    write_done(places[0], places[0].name, "done")
    write_failed(places[1], places[1].name, "E", cause="exception", job="7_1")
    write_failed(places[2], places[2].name, "E", cause="exception", job="6_1")
    write_cancelled(tmp_path, {places[3].name})
    assert taken(tmp_path, shared) == [2, 4, 5], "6_1 belongs to an earlier array"
    cells = SharedCells(tmp_path, shared)
    with hold_cell(places[2]):
        first = cells.take()
    assert (seed_of(first), seed_of(cells.take())) == (4, 2), "its lock is free again"
    write_json(places[4] / "heartbeat.json", {"state": "running", "attempt": 4})
    write_json(places[5] / "heartbeat.json", {"state": "running", "attempt": 5})
    assert taken(tmp_path, shared) == [2, 4], "a third attempt of this array ended without a word"
    write_json(places[5] / "heartbeat.json", {"state": "stopped", "attempt": 50})
    assert taken(tmp_path, shared) == [2, 4, 5]


def test_a_job_that_shares_cells_waits_a_little_for_one_whose_job_died(
    tmp_path: Path, shared: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell of a killed job saves before it ends, and is held until then."""
    cells, stop = SharedCells(tmp_path, shared), StopFlag()
    with ExitStack() as others:
        places = [cell_directory(tmp_path, task.run_id) for task in shared.tasks[0]]
        saving = ExitStack()
        for place in places:
            (saving if place is places[4] else others).enter_context(hold_cell(place))
        monkeypatch.setattr(SharedCells, "PAUSE", 0.1)
        assert cells.take() is None
        threading.Timer(0.3, saving.close).start()
        assert cells.wait_for_one(stop)
        assert seed_of(cells.take()) == 4
        monkeypatch.setattr(SharedCells, "PATIENCE", 0.3)
        assert not cells.wait_for_one(stop), "the others hold theirs as long as they train"
        stop.signal = signal.SIGTERM
        monkeypatch.setattr(SharedCells, "PATIENCE", 3600.0)
        assert not cells.wait_for_one(stop)
        stop.signal = None
        monkeypatch.setattr(SharedCells, "PATIENCE", 5.0)
        write_failed(places[0], places[0].name, "E", cause="exception", job="7_1")
        others.close()
        assert cells.wait_for_one(stop)
    assert seed_of(cells.take()) == 1, "the first is over"


def test_a_job_waits_for_no_cancelled_cell(
    tmp_path: Path, shared: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedCells, "PAUSE", 0.1)
    monkeypatch.setattr(SharedCells, "PATIENCE", 0.5)
    cells = SharedCells(tmp_path, shared)
    with ExitStack() as others:
        for task in shared.tasks[0]:
            others.enter_context(hold_cell(cell_directory(tmp_path, task.run_id)))
        assert not cells.wait_for_one(StopFlag())
        assert len(cells.waiting) == 6
        write_cancelled(tmp_path, {task.run_id for task in shared.tasks[0]})
        assert not cells.wait_for_one(StopFlag())
    assert cells.waiting == []


def test_a_job_looks_at_no_cell_behind_the_first_free_one(
    tmp_path: Path, shared: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep may have 10,000 cells, on a file system that its jobs share."""
    looks: list[str] = []
    looks_at_a_take: list[int] = []

    def look(sweep: Path, run_id: str) -> CellState:
        looks.append(run_id)
        return read_state(sweep, run_id)

    def take_one(take: Callable[[], CellJob | None], slots: int, stop: StopFlag) -> set[str]:
        take()
        looks_at_a_take.append(len(looks))
        stop.signal = signal.SIGTERM
        return set()

    monkeypatch.setattr("slurm.job.read_record", lambda sweep, token: shared)
    monkeypatch.setattr("slurm.job.read_state", look)
    monkeypatch.setattr("slurm.job.run_packed", take_one)
    run_job(tmp_path, "1-a")
    assert looks_at_a_take == [1]


@pytest.mark.parametrize("jobs", [0, 2])
@pytest.mark.parametrize("lets_go", [True, False])
def test_a_cell_that_another_process_held_is_run_once_it_lets_go(
    tmp_path: Path,
    shared: Record,
    monkeypatch: pytest.MonkeyPatch,
    trainer: Callable[[Trainer], None],
    jobs: int,
    lets_go: bool,
) -> None:
    """As where two jobs take the same cell at once: the lock decides, and the other must not lose it."""
    trainer(lambda config, directory, *, stop, report: finish(directory, report))
    monkeypatch.setattr("slurm.job.read_record", lambda sweep, token: replace(shared, jobs=jobs))
    monkeypatch.setattr("slurm.job._Cells.PATIENCE", 10.0 if lets_go else 0.3)
    monkeypatch.setattr("slurm.job._Cells.PAUSE", 0.1)
    place, *others = [cell_directory(tmp_path, task.run_id) for task in shared.tasks[0]]
    looked: set[Path] = set()

    def look(at: Path) -> bool:
        """At the first look the other job does not have it yet."""
        first = at not in looked
        looked.add(at)
        return not first and is_held(at)

    monkeypatch.setattr("slurm.job.is_held", look)
    with ExitStack() as holder:
        holder.enter_context(hold_cell(place))
        if lets_go:
            threading.Timer(1.0, holder.close).start()
        code = run_job(tmp_path, "1-a")
    assert [read_state(tmp_path, other.name).state for other in others] == ["done"] * 5
    assert read_state(tmp_path, place.name).state == ("done" if lets_go else "missing")
    assert code == (0 if lets_go or jobs else 1)
