"""Where a cell stands while it runs, and the end of its log."""

import time
from pathlib import Path

import pytest

from slurm.state import cell_directory, write_json
from sweeps.grid import expand, load_grid
from sweeps.manifest import Entry, add_cells, open_sweep_folder
from sweeps.tail import last_at_work, last_lines, where_it_stands


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    open_sweep_folder(tmp_path)
    return add_cells(tmp_path, expand(load_grid("smoke")))


def beat(folder: Path, **facts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "heartbeat.json", {"state": "running", "host": "node7", "time": time.time() - 12, **facts}
    )


def test_a_running_cell_shows_its_progress_before_it_prints_anything(
    tmp_path: Path, entries: list[Entry]
) -> None:
    assert last_at_work(tmp_path, entries) is None
    folder = cell_directory(tmp_path, entries[3].run_id)
    beat(folder, vector_step=None, vector_steps=None, success=None)
    (folder / "log.txt").write_text("")
    assert last_at_work(tmp_path, entries) == folder
    assert where_it_stands(folder) == "running on node7: starting, as of 12 s ago"
    beat(folder, vector_step=1200, vector_steps=12_000, success=0.4)
    assert where_it_stands(folder) == "running on node7: step 1,200 of 12,000, success 0.40, as of 12 s ago"
    assert last_lines(folder, 30) == []


def test_the_cell_that_wrote_last_is_taken(tmp_path: Path, entries: list[Entry]) -> None:
    first, second = (cell_directory(tmp_path, entry.run_id) for entry in entries[:2])
    beat(first)
    second.mkdir(parents=True)
    (second / "log.txt").write_text("one\ntwo\nthree\n")
    assert last_at_work(tmp_path, entries) == second
    assert last_lines(second, 2) == ["two", "three"]
    assert where_it_stands(second) == ""
    assert last_at_work(tmp_path, entries[:1]) == first
