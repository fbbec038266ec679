"""Sweeps and runs of earlier versions: what was finished stays finished, and the rest goes on."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from analysis.frames import open_sweep
from mtrl.overrides import build_config, override
from mtrl.results import RunFileError, read_run
from mtrl.run_folder import ended, find_run
from mtrl.run_ids import flatten
from slurm.survey import survey
from sweeps import grid as grids
from sweeps.grid import expand, load_grid
from sweeps.manifest import add_cells, read_manifest, recorded_cells
from tests.analysis.reference_analysis import write_run

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(__file__).resolve().parent / "data"
# The run ids of two cells that are done, one that was stopped and one that was never begun, made at commits 52dabc5
# and 045d983.
CELLS = {
    1: ("bee9584c3612", "1b11d4100cb2", "0f5ac9b37b7a", "cdc647cd0688"),
    2: ("ef663b134c29", "2c405198c8dc", "290c2b52c2f4", "d7a5b45f6a79"),
}
# What a run of that schema did where its settings do not say so.
MEANT = {1: "evaluate.whole_episodes=true", 2: "agent.products=float32"}


@pytest.fixture(params=CELLS)
def schema(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def old(schema: int, tmp_path: Path) -> Path:
    """The sweep of that schema."""
    with tarfile.open(DATA / f"sweep-schema-{schema}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / f"sweep-schema-{schema}/runs/old"


def grid_of(old: Path) -> Path:
    return old.parent.parent / "old.toml"


def test_cells_of_an_earlier_version_are_found_in_its_manifest(old: Path, schema: int) -> None:
    cells = expand(load_grid(str(grid_of(old))))
    before = (old / "manifest.jsonl").read_bytes()
    names = list(CELLS[schema])
    finished, also_finished, stopped, never_begun = names
    assert [cell.run_id for cell in recorded_cells(old, cells)] == names
    assert [entry.run_id for entry in add_cells(old, cells)] == names
    assert (old / "manifest.jsonl").read_bytes() == before
    assert not {cell.run_id for cell in cells} & set(names)
    states = {cell.run_id: cell.state for cell in survey(old, names, None).cells.values()}
    assert states == {finished: "done", also_finished: "done", stopped: "stopped", never_begun: "missing"}


def test_cells_that_write_out_an_earlier_default_are_those_of_that_version(old: Path, schema: int) -> None:
    grid = load_grid(str(grid_of(old)))
    both = expand(grids.override(grid, ["agent.products=float32,auto"]))
    written, left = (
        [cell for cell in both if cell.config.agent.products == kind] for kind in ("float32", "auto")
    )
    if schema == 1:  # whose cells play whole episodes
        written = expand(grids.override(grid, ["agent.products=float32", "evaluate.whole_episodes=true"]))
    recorded = recorded_cells(old, [*written, *left])
    assert [cell.run_id for cell in recorded] == [*CELLS[schema], *(cell.config.run_id for cell in left)]


def test_a_sweep_of_an_earlier_version_is_launched_to_its_end(old: Path, schema: int) -> None:
    finished, _, stopped, _ = CELLS[schema]
    before = (old / "cells" / finished / "run.h5").read_bytes()
    first = read_run(old / "cells" / stopped / "run.h5")
    command = [sys.executable, ROOT / "sweeps/launch.py", f"grid={grid_of(old)}", "--runs", old.parent]
    plan = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True)
    assert "4 cells in" in plan.stdout
    assert "2 to run" in plan.stdout
    done = subprocess.run([*command, "executor=inline"], capture_output=True, text=True, check=True)
    assert "4 cells, 2 to run" in done.stderr
    assert "All 4 cells are over" in done.stdout
    assert (old / "cells" / finished / "run.h5").read_bytes() == before
    assert "goes on at step 151" in (old / "cells" / stopped / "log.txt").read_text()
    whole = read_run(old / "cells" / stopped / "run.h5")
    assert len(whole.env_steps) == whole.evaluations_planned == 2
    np.testing.assert_array_equal(whole.per_task[:1], first.per_task)
    assert sorted(path.name for path in (old / "cells").iterdir()) == sorted(
        entry.run_id for entry in read_manifest(old)
    )


def test_a_run_of_two_versions_is_gathered_once(old: Path, tmp_path: Path) -> None:
    config = read_manifest(old)[0].cell.config
    write_run(tmp_path / "new/cells" / config.run_id / "run.h5", config, success=[0.1, 0.2])
    dataset = open_sweep(old, tmp_path / "new")
    assert "is the same run as" in "\n".join(dataset.attrs["repeated"])
    assert dataset.sizes.get("run", dataset.run_id.size) == 3


def test_a_run_that_leaves_products_out_is_the_run_of_what_they_were(tmp_path: Path) -> None:
    """A CPU computes auto in float32, as an earlier version did by default; a GPU may compute it in TF32."""
    left_out, written = (build_config("debug", words) for words in ({}, {"agent.products": "float32"}))
    write_run(tmp_path / "old/cells/a/run.h5", written, success=[0.1])
    write_run(tmp_path / "cpu/cells/b/run.h5", left_out, success=[0.1, 0.2])
    write_run(tmp_path / "gpu/cells/c/run.h5", left_out, success=[0.1, 0.2], products="tf32")
    dataset = open_sweep(*(tmp_path / name for name in ("old", "cpu", "gpu")))
    assert len(dataset.attrs["repeated"]) == 1
    configs = dataset.config.values.ravel() if "config" in dataset else []
    assert sorted({json.loads(text)["agent"]["products"] for text in configs if text}) == ["float32", "tf32"]


def test_a_single_run_of_an_earlier_version_is_found(old: Path, schema: int, tmp_path: Path) -> None:
    finished = CELLS[schema][0]
    config = read_manifest(old)[0].cell.config
    other = build_config("debug", {"train.seed": 7})
    assert find_run(old / "cells", config) == old / "cells" / finished
    assert ended(find_run(old / "cells", config), config) == "done"
    assert find_run(old / "cells", other) == old / "cells" / other.run_id
    shutil.copytree(old / "cells" / finished, tmp_path / "single" / config.run_id)
    assert find_run(tmp_path / "single", config) == tmp_path / "single" / config.run_id
    with pytest.raises(RunFileError, match=r"train\.seed is 7, was 0"):
        ended(old / "cells" / finished, override(config.model_dump(mode="json"), {"train.seed": 7}))


def test_a_single_run_that_an_earlier_version_began_goes_on_with_the_same_command(
    old: Path, schema: int, tmp_path: Path
) -> None:
    """Its evaluations played whole episodes, or its products were float32, and nothing in the words says so."""
    stopped = CELLS[schema][2]
    begun = next(entry for entry in read_manifest(old) if entry.run_id == stopped)
    today = flatten(build_config("debug", {}).model_dump(mode="json")) | {"agent.products": "float32"}
    words = [f"{key}={_word(value)}" for key, value in flatten(begun.config).items() if today[key] != value]
    place = tmp_path / "runs/single" / stopped
    shutil.copytree(old / "cells" / stopped, place)
    command = [sys.executable, "-m", "mtrl.cli", "train", "preset=debug", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "was begun by an earlier version" in done.stdout
    assert MEANT[schema] in done.stdout
    assert [path.name for path in place.parent.iterdir()] == [stopped], done.stdout
    assert ended(place, begun.cell.config) == "done"
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "holds this run, finished" in again.stdout
    named = subprocess.run(
        [*command, "--out", place], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "holds this run, finished" in named.stdout


def test_a_run_of_this_version_is_not_taken_for_one_that_an_earlier_version_began(tmp_path: Path) -> None:
    config, whole = (build_config("debug", words) for words in ({}, {"evaluate.whole_episodes": True}))
    write_run(tmp_path / whole.run_id / "run.h5", whole, success=[0.1, 0.2])
    assert find_run(tmp_path, config) == tmp_path / config.run_id


def _word(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else json.dumps(value).strip('"')
