"""One grid on two clusters, each with its own disk: every cell once, gathered in a third place by run files alone."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from analysis.frames import open_sweep
from tests.slurm.slurm_cluster import Sweep, start_cluster, wait_until

KEPT = ("run.h5", "DONE.json", "manifest.jsonl")  # as docs/cluster.md copies


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sweep]]:
    with ExitStack() as stack:
        clusters = [stack.enter_context(start_cluster()) for _ in range(2)]
        yield [Sweep(cluster, tmp_path_factory.mktemp("shard"), cells=6) for cluster in clusters]


def copy_results(source: Path, target: Path) -> None:
    """By rsync, as docs/cluster.md says, where there is one."""
    if shutil.which("rsync"):
        target.mkdir(parents=True)
        rules = ["--include=*/", *(f"--include={name}" for name in KEPT), "--exclude=*", "--prune-empty-dirs"]
        subprocess.run(["rsync", "-a", *rules, f"{source}/", f"{target}/"], check=True)
        return
    for path in source.rglob("*"):
        if path.name in KEPT:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


def test_two_clusters_share_a_grid(shards: list[Sweep], tmp_path: Path) -> None:
    west, east = shards
    submitted = [
        sweep.launch("--shard", f"{number}/2")["submitted"] for number, sweep in enumerate(shards, 1)
    ]
    assert sum(submitted) == 6
    assert all(submitted)
    wait_until(lambda: west.states() == ["done"] * submitted[0])
    wait_until(lambda: east.states() == ["done"] * submitted[1])
    assert east.launch("--shard", "2/2")["submitted"] == 0, "a relaunch of a shard runs nothing of the other"
    roots = [tmp_path / "west/tiny", tmp_path / "east/tiny"]
    for sweep, root in zip(shards, roots, strict=True):
        copy_results(sweep.place, root)
    assert open_sweep(*roots).run_id.size == 6
    lost = next((roots[1] / "cells").iterdir())
    shutil.rmtree(lost)
    words = [sys.executable, "-m", "analysis.gather", *roots]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stderr.splitlines()
    assert said[0] == f"{roots[0]}: all {submitted[0]} cells are over"
    assert said[1].startswith(f"{roots[1]}: {submitted[1] - 1} of {submitted[1]} cells are over; not ")
    assert lost.name in said[1]
