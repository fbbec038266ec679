"""One real Slurm (slurm/mini) for the files test_slurm_*.py. Every cell in them is a tiny real run."""

import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.mini.cluster import MiniSlurm
from tests.slurm.slurm_cluster import Make, Sweep, start_cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[MiniSlurm]:
    with start_cluster(max_jobs=2_150) as cluster:
        yield cluster


@pytest.fixture
def make(cluster: MiniSlurm, tmp_path: Path) -> Iterator[Make]:
    """Makes a sweep. Whatever it left in the queue is gone before the next test."""
    made: list[Sweep] = []

    def build(**settings: Any) -> Sweep:
        made.append(Sweep(cluster, tmp_path / f"sweep{len(made)}", **settings))
        return made[-1]

    yield build
    if made:
        made[0].slurm("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
        made[0].slurm("scancel", f"--user={getpass.getuser()}")
        made[0].wait_until_idle()
