"""A short seed of chaos; the long ones are run by hand: python -m tests.chaos.chaos --seed 1."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.mini.cluster import MiniSlurm
from tests.chaos.chaos import run_chaos
from tests.slurm.slurm_cluster import start_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("chaos")]


@pytest.fixture
def cluster() -> Iterator[MiniSlurm]:
    with start_cluster(kill_wait=30) as cluster:  # Slurm's own default
        yield cluster


def test_a_short_seed(cluster: MiniSlurm, tmp_path: Path) -> None:
    report = run_chaos(cluster, tmp_path, seed=0, cells=4, faults=5, node_deaths=1, cell_seconds=5, slots=2)
    assert report.intact, report
    assert sum(report.faults.values()) >= 3, report
