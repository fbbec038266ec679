"""Launches on a real Slurm: what is submitted, by how many launchers, and what a launch survives."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from slurm.mini.cluster import MiniSlurm
from sweeps.on_slurm import SETTLING_SECONDS
from tests.slurm.slurm_cluster import LONG, Make, Sweep, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


def test_packed_cells_run_and_a_relaunch_submits_only_what_was_lost(make: Make) -> None:
    sweep = make(cells=5, profile={"cells_per_job": 2, "cpus": 2, "max_running": 2})
    launched = sweep.launch()
    assert (launched["submitted"], len(launched["jobs"])) == (5, 1)
    assert sweep.launch()["submitted"] == 0, "cells in the queue were submitted twice"
    sweep.wait_until_done()
    assert [row["state"] for row in sweep.status()] == ["done"] * 5
    assert sweep.launch()["submitted"] == 0
    for row in sweep.rows()[1:3]:
        (sweep.place / "cells" / row["run_id"] / "run.h5").unlink()
    assert sweep.launch()["submitted"] == 2
    wait_until(lambda: sweep.states() == ["done"] * 5)
    assert sweep.launch()["submitted"] == 0


def test_a_corrupt_marker_is_no_result(make: Make) -> None:
    sweep = make()
    sweep.launch()
    wait_until(lambda: sweep.states() == ["done"])
    sweep.wait_until_idle()
    marker = sweep.directory() / "DONE.json"
    marker.write_text('{"run_id": ')
    row = json.loads(sweep.answer("status", "tiny", "--verify", "--json"))["cells"][0]
    assert (row["state"], row["reason"]) == ("missing", "DONE.json is damaged")
    assert sweep.launch()["submitted"] == 1
    wait_until(lambda: sweep.states() == ["done"])
    assert json.loads(marker.read_text())["outcome"] == "done"


def test_arrays_are_split_at_the_clusters_limit_and_a_full_queue_takes_what_fits(make: Make) -> None:
    """MaxArraySize is 1,001, MaxJobCount 2,150: 1,100 cells go into two arrays; of 1,100 more some are left over."""
    sweep, more = (make(cells=1_100, profile={"partition": "low"}) for _ in range(2))
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=DOWN")
    launched = sweep.launch()
    assert (launched["submitted"], len(launched["jobs"]), launched["refusal"]) == (1_100, 2, "")
    assert sweep.states() == ["pending"] * 1_100
    room = 2_150 - len(sweep.slurm("squeue", "--array", "--noheader", "--states=all").splitlines())
    launched = more.launch()
    submitted = launched["submitted"]
    assert room - 49 < submitted < room, "the first array, and of the second what fits"
    assert "unable to accept" in launched["refusal"]
    assert sorted(more.states()) == ["missing"] * (1_100 - submitted) + ["pending"] * submitted
    more.command("cancel", "tiny")
    assert set(more.states()) == {"cancelled"}
    assert more.launch()["submitted"] == 0, "cancel is final"
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP")


def test_a_controller_that_is_away_for_20_seconds(cluster: MiniSlurm, make: Make) -> None:
    sweep, other = make(), make()
    sweep.launch()
    time.sleep(6)  # it writes its state down every few seconds
    cluster.kill_controller()
    timer = threading.Timer(20, cluster.start_controller)
    timer.start()
    try:
        assert "1 cells" in sweep.command("status", "tiny"), "status answers, from the files"
        assert other.launch()["submitted"] == 1, "a launch waits for the controller"
    finally:
        timer.join()
    for place in (sweep, other):
        wait_until(lambda place=place: is_done_or_retried(place), every=2.0, what=place.output)
        assert (place.directory() / "log.txt").read_text().count(": done at step") == 1


def is_done_or_retried(sweep: Sweep) -> bool:
    """A node may refuse a job whose number it knows: Slurm then holds the job, and a retry takes it from there."""
    if set(sweep.states()) & {"missing", "held", "stopped"}:
        sweep.retry()
    return sweep.states() == ["done"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_launcher_killed_at_sbatch_neither_loses_nor_doubles(make: Make, tmp_path: Path, when: str) -> None:
    """kill -9 of the launcher once its intention is on disk and Slurm has not heard of it, or has and nobody wrote down
    the answer. So young an intention is waited for; here it is made older."""
    sweep = make(cells=2, steps=LONG, profile={"cells_per_job": 2})
    deadly = tmp_path / "bin/sbatch"
    deadly.parent.mkdir()
    sbatch = shutil.which("sbatch")
    real = f'{sbatch} "$@" > /dev/null\n' if when == "after" else ""
    asks = f'[ "$1" = --test-only ] && exec {sbatch} "$@"\n'  # the check before the launch
    deadly.write_text(f"#!/bin/bash\n{asks}{real}kill -9 $PPID\n")
    deadly.chmod(0o755)
    launcher = sweep.start(*sweep.launch_words(), PATH=f"{deadly.parent}:{os.environ['PATH']}")
    launcher.communicate(timeout=60)
    assert launcher.returncode == -signal.SIGKILL
    path = next((sweep.place / "slurm").glob("*.json"))
    record = json.loads(path.read_text())
    assert record["job"] is None, "the intention was written down first"
    path.write_text(json.dumps({**record, "created": record["created"] - SETTLING_SECONDS}))
    launched = sweep.launch()
    assert launched["submitted"] == (0 if when == "after" else 2)
    wait_until(lambda: sweep.states() == ["running"] * 2, every=0.5)
    names = sweep.slurm("squeue", "--noheader", "--format=%j").split()
    assert [name.startswith("mtrl-") for name in names] == [True]
    records = [json.loads(path.read_text()) for path in (sweep.place / "slurm").glob("*.json")]
    assert [one["job"] is None for one in records] == [False]


def test_two_launchers_at_once_submit_every_cell_once(make: Make) -> None:
    sweep = make(cells=300, profile={"partition": "low"})
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=DOWN")
    launchers = [sweep.start(*sweep.launch_words()) for _ in range(3)]
    answers = [launcher.communicate(timeout=120) for launcher in launchers]
    codes = [launcher.returncode for launcher in launchers]
    submitted = [json.loads(answer)["submitted"] for answer, _ in answers if answer]
    assert sum(submitted) == 300, answers
    for code, (answer, said) in zip(codes, answers, strict=True):
        assert code == 0 or (not answer and "is being launched by process" in said), said
    waiting = sweep.slurm("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i").split()
    assert len(waiting) == 300
    assert sweep.states() == ["pending"] * 300
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP")
    sweep.command("cancel", "tiny")


def test_a_record_from_the_future_is_waited_for_no_longer_than_others(make: Make) -> None:
    """Another node's clock runs ahead by a day."""
    sweep = make()
    sweep.launch()
    sweep.wait_until_done()
    sweep.wait_until_idle()
    path = next((sweep.place / "slurm").glob("*.json"))
    record = json.loads(path.read_text())
    record |= {"token": "ffffffff-a", "job": None, "created": record["created"] + 86_400}
    (path.parent / "ffffffff-a.json").write_text(json.dumps(record))
    assert "waiting 15 s" in sweep.command(*sweep.launch_words(), seconds=60)
    assert not (path.parent / "ffffffff-a.json").exists()


def test_hostile_values_stay_values(make: Make, tmp_path: Path) -> None:
    evil = f"$(touch {tmp_path}/owned); `touch {tmp_path}/owned` 'x' %j"
    folder = tmp_path / "a folder; touch owned $(touch owned) %u"
    sweep = Sweep(
        make().cluster, folder, profile={"options": {"comment": evil}, "container": ["env", f"EVIL={evil}"]}
    )
    sweep.launch()
    sweep.wait_until_done()
    assert sweep.states() == ["done"]
    assert not list(tmp_path.rglob("owned"))
