"""What a wait for a sweep ends with: an exit code, and the cells that are not over."""

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm.state import State, cell_directory, write_done, write_json
from slurm.survey import Survey, survey
from sweeps.grid import expand, load_grid
from sweeps.launch import main
from sweeps.launched import Launched
from sweeps.manifest import Entry, add_cells, open_sweep_folder
from sweeps.show import show_end
from sweeps.watch import watch


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    open_sweep_folder(tmp_path)
    return add_cells(tmp_path, expand(load_grid("smoke"))[:3])


def finish(sweep: Path, entry: Entry) -> None:
    directory = cell_directory(sweep, entry.run_id)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.h5").write_bytes(b"x")
    write_done(directory, entry.run_id, "done", seconds=1.0, attempts=1, job=None)


def seen(sweep: Path, entries: list[Entry]) -> Survey:
    return survey(sweep, [entry.run_id for entry in entries], None)


def test_a_failed_cell_is_named_and_gives_exit_code_1(
    tmp_path: Path, entries: list[Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, entries[0])
    finish(tmp_path, entries[1])
    broken = cell_directory(tmp_path, entries[2].run_id)
    broken.mkdir()
    write_json(broken / "FAILED.json", {"error": "ValueError: no such thing"})
    assert show_end(seen(tmp_path, entries), tmp_path, entries, as_json=False) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"failed: {entries[2].label} ({entries[2].run_id}): ValueError: no such thing",
        "2 of 3 cells are over.",
    ]
    finish(tmp_path, entries[2])
    assert show_end(seen(tmp_path, entries), tmp_path, entries, as_json=False) == 0


@pytest.mark.parametrize(("state", "code"), [("failed", 1), ("done", 0)])
def test_a_launch_that_waits_ends_with_that_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, code: int
) -> None:
    def watched(sweep: Path, entries: list[Entry], **options: bool) -> Survey:
        if state == "done":
            for entry in entries:
                finish(sweep, entry)
        return seen(sweep, entries)

    monkeypatch.setattr("sweeps.watch.watch", watched)
    monkeypatch.setattr("sweeps.cluster.check_cluster", lambda profile: None)
    monkeypatch.setattr("sweeps.execute.launch_on_slurm", lambda *words, **options: Launched(8, 0, {}))
    words = [
        "launch",
        "grid=smoke",
        "profile=example",
        "--without-kernels",
        "--wait",
        "--runs",
        str(tmp_path),
    ]
    assert CliRunner().invoke(main, words).exit_code == code


def test_a_wait_ends_with_what_is_seen_after_the_last_retry(
    tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell fails between the look that sees it at work and the retry that gives it up."""
    finish(tmp_path, entries[0])
    finish(tmp_path, entries[1])
    broken = cell_directory(tmp_path, entries[2].run_id)
    broken.mkdir()
    write_json(broken / "heartbeat.json", {"state": "running", "time": time.time(), "vector_step": 1})

    def give_up(*words: object, **options: object) -> Launched:
        write_json(broken / "FAILED.json", {"error": "ValueError: no such thing"})
        return Launched(0, 2, {entries[2].run_id: "ValueError"})

    monkeypatch.setattr("sweeps.watch.launch_on_slurm", give_up)
    monkeypatch.setattr("sweeps.watch.last_profile", lambda sweep: "lab")
    monkeypatch.setattr("sweeps.watch.RETRY_SECONDS", -1)
    monkeypatch.setattr("sweeps.watch.time.sleep", lambda seconds: None)
    found = watch(tmp_path, entries, retry=True, as_json=True)
    assert [found.cells[entry.run_id].state for entry in entries] == ["done", "done", "failed"]
