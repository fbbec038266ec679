"""Shards: each cell on exactly one cluster, whatever order or machine asks; and what is missing where."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.frames import load
from mtrl.overrides import build_config
from slurm.state import cell_directory
from sweeps.grid import GridError, expand, load_grid, override
from sweeps.launch import main
from sweeps.manifest import add_cells, open_sweep_folder
from sweeps.shard import take_shard
from tests.analysis.reference_analysis import write_run


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_cell_is_in_one_shard(count: int) -> None:
    cells = expand(load_grid("scaling"))
    shards = [take_shard(cells, f"{number}/{count}") for number in range(1, count + 1)]
    assert sorted(cell.run_id for shard in shards for cell in shard) == sorted(cell.run_id for cell in cells)
    assert max(map(len, shards)) < 1.5 * len(cells) / count, "shards are of like size"
    assert [cell.run_id for cell in take_shard(cells[::-1], f"1/{count}")][::-1] == [
        cell.run_id for cell in shards[0]
    ]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(GridError, match="is not k/n, as in 1/2"):
        take_shard(expand(load_grid("smoke")), text)


def test_an_empty_shard_is_refused() -> None:
    cells = expand(load_grid("smoke"))[:1]
    with pytest.raises(GridError, match="use fewer shards"):
        [take_shard(cells, f"{number}/2") for number in (1, 2)]


def test_a_plan_of_shards_adds_up(tmp_path: Path) -> None:
    def planned(*more: str) -> list[str]:
        words = ["plan", "grid=smoke", "--json", "--runs", str(tmp_path), *more]
        return [row["run_id"] for row in json.loads(CliRunner().invoke(main, words).stdout)["cells"]]

    both = planned("--shard", "1/2") + planned("--shard", "2/2")
    assert sorted(both) == sorted(planned())


def test_sweeps_of_two_clusters_are_gathered_and_each_says_what_it_lacks(tmp_path: Path) -> None:
    """Cluster west has run all of its shard; of east's one cell has half a run file and one has none."""
    cells = expand(override(load_grid("smoke"), ["evaluate.every=6000"]))
    roots = [tmp_path / "west/smoke", tmp_path / "east/smoke"]
    for number, root in enumerate(roots, 1):
        open_sweep_folder(root)
        entries = add_cells(root, take_shard(cells, f"{number}/2"))
        for place, entry in enumerate(entries):
            success = [0.1] if root == roots[1] and place == 1 else [0.1, 0.9]
            if root == roots[0] or place:
                write_run(cell_directory(root, entry.run_id) / "run.h5", entry.cell.config, success=success)
    words = [sys.executable, "-m", "analysis.gather", *roots, "--out", tmp_path / "both.nc"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    west, east = done.stderr.splitlines()
    here = len(take_shard(cells, "1/2")), len(take_shard(cells, "2/2"))
    assert west == f"{roots[0]}: all {here[0]} cells are over"
    assert east.startswith(f"{roots[1]}: {here[1] - 2} of {here[1]} cells are over; not ")
    assert all(f"({cell.run_id})" in east for cell in take_shard(cells, "2/2")[:2])
    assert load(tmp_path / "both.nc").run_id.size == len(cells) - 1
    shutil.rmtree(roots[1] / "cells")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[1].startswith(f"{roots[1]}: 0 of {here[1]} cells are over; not ")
    (roots[1] / "manifest.jsonl").unlink()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"no run files under {roots[1]}" in done.stderr


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    config = build_config("debug")
    write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=[0.1, 0.9])
    (tmp_path / "dataset.nc/in the way").mkdir(parents=True)
    words = [sys.executable, "-m", "analysis.gather", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"Error: cannot write {tmp_path / 'dataset.nc'}: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
