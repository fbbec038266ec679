"""The display of a local launch."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from slurm.state import cell_directory, write_json
from sweeps.grid import expand, load_grid, override
from sweeps.live import LiveCells
from sweeps.manifest import Entry, add_cells, open_sweep_folder


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    open_sweep_folder(tmp_path)
    words = ["~network.critic.width", "env.tasks=reach-v3", "network.actor.width=16", "train.seed=range(4)"]
    return add_cells(tmp_path, expand(override(load_grid("scaling"), words)))


def beat(sweep: Path, entry: Entry, step: int) -> None:
    directory = cell_directory(sweep, entry.run_id)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "heartbeat.json", {"vector_step": step, "vector_steps": 100})


def drawn(live: LiveCells, screen: io.StringIO) -> str:
    Console(file=screen, width=100).print(live._draw())
    return screen.getvalue()


def test_time_left_goes_by_the_work_done_since_the_launch(
    tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    beat(tmp_path, entries[0], 50)  # of an earlier launch
    screen = io.StringIO()
    live = LiveCells(Console(file=screen), tmp_path, entries, [10, 10, 10, 30])
    live.tick({entries[0].run_id, entries[1].run_id})
    assert live.seconds_left() is None
    now[0] = 40.0  # spent on starting
    beat(tmp_path, entries[1], 5)
    assert live.seconds_left() is None
    now[0] = 90.0
    beat(tmp_path, entries[0], 60)
    assert live.seconds_left() is None
    assert "left" not in drawn(live, screen)
    now[0] = 140.0
    beat(tmp_path, entries[0], 75)
    beat(tmp_path, entries[1], 30)
    assert live.seconds_left() == pytest.approx(100 * 49.5 / 5)  # 5 planned seconds took 100
    assert "0 of 4 cells over, 2 at work, about 16.5 min left" in drawn(live, screen)
    live.finish(entries[0].run_id, "failed")  # what it had left is not waited for
    assert live.seconds_left() == pytest.approx(100 * 47 / 5)  # and does not count as trained
    live.finish(entries[1].run_id, "done")
    assert live.seconds_left() == pytest.approx(100 * 40 / 12)


def test_a_stopped_cell_is_not_over(tmp_path: Path, entries: list[Entry]) -> None:
    screen = io.StringIO()
    live = LiveCells(Console(file=screen), tmp_path, entries, [1, 1, 1, 1])
    live.tick({entry.run_id for entry in entries[:3]})
    live.finish(entries[0].run_id, "done")
    live.finish(entries[1].run_id, "stopped")
    assert "[1/4] stopped" in screen.getvalue()
    assert "1 of 4 cells over, 1 at work" in drawn(live, screen)
