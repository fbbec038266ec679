"""One interface, three executors: what a launch does is the same whether cells run in this process, in processes of
this machine or as jobs of a real Slurm."""

import getpass
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.results import read_run
from slurm.mini.cluster import MiniSlurm
from tests.slurm.slurm_cluster import Sweep, start_cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("executors")]
Make = Callable[..., Sweep]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MiniSlurm]:
    with start_cluster(nodes=1) as cluster:
        yield cluster


@pytest.fixture(params=["inline", "local", "slurm"])
def make(cluster: MiniSlurm, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Sweep] = []

    def build(**settings: Any) -> Sweep:
        made.append(Sweep(cluster, tmp_path / f"sweep{len(made)}", executor=request.param, **settings))
        return made[-1]

    yield build
    made[0].slurm("scancel", f"--user={getpass.getuser()}")


def launch_to_its_end(sweep: Sweep, *words: str) -> dict[str, Any]:
    """A launch, and on Slurm the wait for its jobs. Returns the answer of the launch."""
    answer = sweep.launch(*words, code=None)
    wait_until(lambda: not {"pending", "running"} & set(sweep.states()), every=0.3, what=sweep.output)
    return answer


def test_a_failed_cell_stops_no_other_and_a_relaunch_runs_what_is_missing(make: Make) -> None:
    sweep = make(cells=2)
    rows = json.loads(sweep.answer("plan", f"grid={sweep.folder}/tiny.toml", "--json"))["cells"]
    broken = sweep.place / "cells" / rows[1]["run_id"]
    (broken / "run.h5").mkdir(parents=True)
    assert launch_to_its_end(sweep)["submitted"] == 2
    assert sweep.states() == ["done", "failed"]
    assert "directory" in sweep.rows()[1]["reason"].lower()
    (broken / "run.h5").rmdir()
    before = (sweep.directory(0) / "run.h5").stat().st_mtime_ns
    answer = launch_to_its_end(sweep)
    assert (answer["submitted"], sweep.states()) == (1, ["done"] * 2)
    assert (sweep.directory(0) / "run.h5").stat().st_mtime_ns == before
    answer = launch_to_its_end(sweep)
    assert (answer["submitted"], answer["cells"], answer["over"]) == (0, 2, 2)


def test_a_cancelled_cell_is_not_run(make: Make) -> None:
    sweep = make(cells=2)
    entries = json.loads(sweep.answer("plan", f"grid={sweep.folder}/tiny.toml", "--json"))["cells"]
    (sweep.place / "cells").mkdir(parents=True)
    (sweep.place / "CANCELLED.json").write_text(json.dumps({"run_ids": [entries[0]["run_id"]]}))
    assert launch_to_its_end(sweep)["submitted"] == 1
    assert sweep.states() == ["cancelled", "done"]


def test_gather_follows(make: Make) -> None:
    sweep = make()
    launch_to_its_end(sweep, "--then", "gather")
    wait_until((sweep.place / "dataset.nc").exists, what=sweep.output)


def test_the_run_file_is_the_same(cluster: MiniSlurm, tmp_path: Path) -> None:
    results = []
    for executor in ("inline", "local", "slurm"):
        sweep = Sweep(cluster, tmp_path / executor, executor=executor)
        launch_to_its_end(sweep)
        results.append(read_run(sweep.directory() / "run.h5"))
    for result in results[1:]:
        np.testing.assert_array_equal(result.per_task, results[0].per_task)
        np.testing.assert_array_equal(result.per_run, results[0].per_run)
