"""Preemption, time limits, requeues, dead nodes and killed processes on a real Slurm: nothing is lost."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from mtrl.results import read_run
from slurm.mini.cluster import MiniSlurm
from tests.slurm.slurm_cluster import LONG, STEPS, Make, Sweep, main_process, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cluster: MiniSlurm) -> Path:
    """The folder of the cell that the tests disturb, trained without a disturbance."""
    sweep = Sweep(cluster, tmp_path_factory.mktemp("undisturbed"), steps=STEPS)
    sweep.command(f"grid={sweep.folder}/tiny.toml", "executor=inline")
    return sweep.directory()


def finished_alike(one: Path, other: Path) -> None:
    """Two run files with the same numbers, bit for bit."""
    first, second = read_run(one / "run.h5"), read_run(other / "run.h5")
    np.testing.assert_array_equal(first.per_task, second.per_task)
    np.testing.assert_array_equal(first.per_run, second.per_run)


@pytest.mark.parametrize(("grace", "own_signal"), [(0, False), (10, False), (10, True)])
def test_preemption_loses_nothing(
    cluster: MiniSlurm, make: Make, grace: int, own_signal: bool, undisturbed: Path
) -> None:
    sweep = make(
        steps=STEPS,
        checkpoint_seconds=0.2,
        profile={"partition": "low", "options": {"nodelist": "n0"}},
    )
    sweep.slurm("scontrol", "update", "PartitionName=low", f"GraceTime={grace}")
    cluster.set_user_signal(own_signal)
    sweep.launch()
    with sweep.held_still(STEPS // 10):
        words = ["--partition=high", "--nodelist=n0", "--exclusive", "--time=1", "--output=/dev/null"]
        sweep.slurm("sbatch", *words, "--wrap=sleep 1")
    sweep.wait_until_done()
    wait_until(lambda: sweep.states() == ["done"])
    beat = sweep.beats()[0]
    assert beat["attempt"] == 2
    finished_alike(sweep.directory(), undisturbed)
    if grace:  # told in time: it went on at the very step where it stopped
        assert "stopped in state" in sweep.output()
        assert beat["repeated_steps"] == 0


def test_the_time_limit_hands_over_to_a_next_job(make: Make, undisturbed: Path) -> None:
    """A limit of one minute, told before it: the job saves, asks for another go, and goes on at that step. Slurm looks
    every 30 s, and early: with 15 s the signal comes 15 to 45 s after the start. The cell waits for it."""
    sweep = make(steps=STEPS, checkpoint_seconds=0.2, profile={"minutes": 1, "signal_seconds": 15})
    sweep.launch()
    with sweep.held_still(STEPS // 10):
        pass
    sweep.wait_until_done()
    wait_until(lambda: sweep.states() == ["done"])
    beat = sweep.beats()[0]
    assert beat["attempt"] > 1
    assert beat["repeated_steps"] == 0
    assert "stopped in state RUNNING" in sweep.output()
    finished_alike(sweep.directory(), undisturbed)


@pytest.mark.slow
def test_a_job_cut_off_at_its_time_limit_is_retried(make: Make, undisturbed: Path) -> None:
    """A cell that does not listen in time: Slurm ends its job, which counts as free as the cell has moved on."""
    sweep = make(steps=STEPS, checkpoint_seconds=0.2, profile={"minutes": 1, "signal_seconds": 1})
    sweep.launch()
    sweep.wait_for_step(STEPS // 10)
    wait_until(lambda: any(sweep.place.glob("cells/*/checkpoint/*/checksums.json")))
    pid = sweep.beats()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: sweep.states() == ["stopped"], seconds=150, every=1.0)
    assert "TIMEOUT" in sweep.rows()[0]["reason"]
    assert sweep.retry()["submitted"] == 1
    sweep.wait_until_done()
    finished_alike(sweep.directory(), undisturbed)


def test_scontrol_requeue(make: Make) -> None:
    sweep = make(steps=LONG, checkpoint_seconds=0.5)
    job = sweep.launch()["jobs"][0]
    sweep.wait_for_step(100)
    sweep.slurm("scontrol", "requeue", f"{job}_0")
    wait_until(lambda: sweep.beats()[0]["attempt"] == 2)
    sweep.wait_for_step(100)
    assert sweep.states() == ["running"]


def test_a_node_that_dies_takes_nothing_with_it(cluster: MiniSlurm, make: Make) -> None:
    """Slurm requeues its jobs elsewhere, or holds them; a held job counts as lost and is submitted again."""
    sweep = make(cells=2, steps=LONG, checkpoint_seconds=0.5, profile={"options": {"nodelist": "n3"}})
    sweep.launch()
    sweep.wait_for_step(100, cells=2)
    cluster.kill_node(3)
    wait_until(lambda: "running" not in sweep.states(), every=0.5, what=lambda: f"{sweep.rows()}")
    sweep.slurm("scontrol", "hold", f"jobname={job_name(sweep)}")
    sweep.wait_for("held")
    assert sweep.retry()["submitted"] == 2
    cluster.start_node(3)
    wait_until(lambda: [beat["attempt"] for beat in sweep.beats()] == [2, 2])
    wait_until(lambda: sweep.states() == ["running"] * 2, every=0.5)


def job_name(sweep: Sweep) -> str:
    return "mtrl-" + next((sweep.place / "slurm").glob("*.json")).stem


def test_a_dead_slurmd_leaves_its_cell_alone(cluster: MiniSlurm, make: Make, undisturbed: Path) -> None:
    """The cell goes on without its slurmd; the twin that Slurm may start elsewhere finds the cell held."""
    sweep = make(steps=STEPS)
    sweep.launch()
    sweep.wait_for_step(10)
    node = int(sweep.rows()[0]["reason"].removeprefix("n"))
    cluster.kill_daemon(node)
    sweep.wait_until_done()
    assert sweep.states() == ["done"]
    cluster.start_node(node)
    assert sweep.beats()[0]["attempt"] == 1
    finished_alike(sweep.directory(), undisturbed)


def test_a_killed_worker_and_its_stale_lock_are_no_obstacle(make: Make, undisturbed: Path) -> None:
    sweep = make(steps=STEPS, checkpoint_seconds=0.5)
    sweep.launch()
    sweep.wait_for_step(STEPS // 10)
    os.kill(sweep.beats()[0]["pid"], signal.SIGKILL)
    sweep.wait_for("failed")
    assert "killed by signal 9" in sweep.rows()[0]["reason"]
    assert sweep.retry()["submitted"] == 1
    sweep.wait_until_done()
    finished_alike(sweep.directory(), undisturbed)


def test_a_killed_main_process_ends_its_cells_and_nothing_is_done_again(
    make: Make, undisturbed: Path
) -> None:
    """There are no cgroups here: Slurm would leave the cell training."""
    sweep = make(steps=STEPS)
    sweep.launch()
    sweep.wait_for_step(STEPS // 10)
    pid = sweep.beats()[0]["pid"]
    os.kill(main_process(pid), signal.SIGKILL)
    wait_until(lambda: sweep.beats()[0]["state"] == "stopped")
    sweep.wait_for("stopped")
    assert sweep.retry()["submitted"] == 1
    sweep.wait_until_done()
    assert ", 0 steps again" in (sweep.directory() / "log.txt").read_text()
    finished_alike(sweep.directory(), undisturbed)


def test_jobs_that_pull_take_the_cells_of_one_that_died(make: Make) -> None:
    """Two jobs share six cells. The main process of one is killed: the other runs all that is left, without a retry."""
    sweep = make(cells=6, steps=STEPS, profile={"pull": True, "max_running": 2})
    launched = sweep.launch()
    assert (launched["submitted"], len(launched["jobs"])) == (6, 1)
    sweep.wait_for_step(10, cells=2)
    assert sweep.launch()["submitted"] == 0
    pid = next(beat["pid"] for beat in sweep.beats() if beat["state"] == "running")
    os.kill(main_process(pid), signal.SIGKILL)
    wait_until(lambda: sweep.states() == ["done"] * 6, what=lambda: f"{sweep.rows()} {sweep.output()}")
    logs = [(path / "log.txt").read_text() for path in (sweep.place / "cells").iterdir()]
    assert [log.count(": done at step") for log in logs] == [1] * 6
    assert sweep.launch()["submitted"] == 0
