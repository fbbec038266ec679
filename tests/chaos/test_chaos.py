"""A short seed of chaos; the long ones are run by hand: python -m tests.chaos.chaos --seed 1."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.mini.cluster import MiniSlurm
from tests.chaos.chaos import Report, run_chaos
from tests.slurm.slurm_cluster import start_cluster


@pytest.fixture
def cluster() -> Iterator[MiniSlurm]:
    with start_cluster(kill_wait=30) as cluster:  # Slurm's own default
        yield cluster


@pytest.mark.slurm
@pytest.mark.xdist_group("chaos")
def test_a_short_seed(cluster: MiniSlurm, tmp_path: Path) -> None:
    report = run_chaos(cluster, tmp_path, seed=0, cells=4, faults=5, node_deaths=1, cell_seconds=5, slots=2)
    assert report.intact, report
    assert sum(report.faults.values()) >= 3, report


def test_the_limit_on_work_done_again_follows_the_pace_and_the_number_of_kills() -> None:
    report = Report(1, 9, faults={"kill": 9, "TERM": 30}, repeated={"kill": [50] * 9, "TERM": [0] * 30})
    report.save_interval = 100
    assert report.sound
    report.repeated["kill"] = [90] * 9  # of 9 kills 0.79 intervals are allowed; warned cells do not dilute it
    assert not report.sound
    report.save_interval = 200
    assert report.sound
    report.repeated["node+TERM"] = [400] * 9
    assert not report.sound
    report.repeated = {"main": [0], "TERM": [1]}
    assert not report.sound, "nothing is done again after a warning"
