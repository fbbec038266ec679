"""The manifest: it only grows, mends itself after a crash, and leads to each line by its offset."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from sweeps.grid import Cell, expand, load_grid, override
from sweeps.manifest import (
    LaunchError,
    add_cells,
    find_sweep,
    hold_sweep,
    open_sweep_folder,
    read_manifest,
    record_launch,
)


@pytest.fixture
def cells() -> list[Cell]:
    return expand(override(load_grid("smoke"), ["train.seed=range(2)"]))


def test_round_trip(tmp_path: Path, cells: list[Cell]) -> None:
    entries = add_cells(tmp_path, cells)
    assert entries == read_manifest(tmp_path)
    assert [entry.cell for entry in entries] == cells
    content = (tmp_path / "manifest.jsonl").read_bytes()
    for entry in entries:
        assert json.loads(content[entry.offset :].splitlines()[0])["run_id"] == entry.run_id


def test_only_new_cells_are_appended(tmp_path: Path, cells: list[Cell]) -> None:
    add_cells(tmp_path, cells[:6])
    before = (tmp_path / "manifest.jsonl").read_bytes()
    assert [entry.run_id for entry in add_cells(tmp_path, cells[4:8])] == [cell.run_id for cell in cells[4:8]]
    assert (tmp_path / "manifest.jsonl").read_bytes().startswith(before)
    assert len(read_manifest(tmp_path)) == 8


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_torn_last_line_is_written_anew(tmp_path: Path, cells: list[Cell], kept: float) -> None:
    add_cells(tmp_path, cells[:3])
    path = tmp_path / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][: int(len(lines[2]) * kept)])
    assert len(read_manifest(tmp_path)) == 2
    entries = add_cells(tmp_path, cells[:4])
    assert entries == read_manifest(tmp_path)[:4]
    assert [entry.run_id for entry in entries] == [cell.run_id for cell in cells[:4]]


@pytest.mark.parametrize(
    ("was", "damaged"),
    [(b'"seed":1', b'"seed":7'), (b'"run_id":"', b'"run_id":"0'), (b'"width":16', b'"width":-6')],
)
def test_a_damaged_line_that_is_still_json_is_named_and_left_out(
    tmp_path: Path, cells: list[Cell], capsys: pytest.CaptureFixture[str], was: bytes, damaged: bytes
) -> None:
    add_cells(tmp_path, cells[:4])
    path = tmp_path / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert was in lines[1]
    path.write_bytes(lines[0] + lines[1].replace(was, damaged) + b"".join(lines[2:]))
    sound = [cells[number].run_id for number in (0, 2, 3)]
    assert [entry.run_id for entry in read_manifest(tmp_path, verify=True)] == sound
    said = capsys.readouterr().err
    assert f"{path}, line 2 ({cells[1].label})" in said
    assert said.count("\n") == 1
    assert [entry.run_id for entry in add_cells(tmp_path, cells[:4])] == [cell.run_id for cell in cells[:4]]
    capsys.readouterr()
    assert len(read_manifest(tmp_path, verify=True)) == 4
    assert not capsys.readouterr().err  # a later line holds the cell


def test_second_launcher_is_told_of_the_first(tmp_path: Path) -> None:
    with (
        hold_sweep(tmp_path),
        pytest.raises(LaunchError, match=r"being launched by process \d+ on"),
        hold_sweep(tmp_path),
    ):
        pass
    with hold_sweep(tmp_path):
        pass


def test_unwritable_folder_is_named() -> None:
    with pytest.raises(LaunchError, match=r"cannot write to /proc/sweep.*--runs"):
        open_sweep_folder(Path("/proc/sweep"))


def test_unknown_sweep_lists_the_known(tmp_path: Path, cells: list[Cell]) -> None:
    add_cells_in(tmp_path / "smoke", cells)
    assert find_sweep("smoke", tmp_path) == tmp_path / "smoke"
    assert find_sweep(str(tmp_path / "smoke"), Path("elsewhere")) == tmp_path / "smoke"
    with pytest.raises(LaunchError, match="no sweep 'smok'; there are: smoke"):
        find_sweep("smok", tmp_path)


def add_cells_in(sweep: Path, cells: list[Cell]) -> None:
    open_sweep_folder(sweep)
    add_cells(sweep, cells)


def test_a_launch_is_recorded_with_its_provenance(tmp_path: Path) -> None:
    record_launch(tmp_path, cells=3)
    record_launch(tmp_path, cells=4)
    first, second = (json.loads(line) for line in (tmp_path / "launches.jsonl").read_text().splitlines())
    assert (first["cells"], second["cells"]) == (3, 4)
    assert {"command", "host", "commit", "changes", "packages", "python", "time"} <= set(first)
    assert first["packages"]["mujoco"] == version("mujoco")
    if first["changes"]:
        assert (tmp_path / "changes" / f"{first['changes']}.diff").stat().st_size
