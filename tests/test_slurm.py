"""What happens when ... : sweeps on a real Slurm (slurm/mini), one case each, every cell a tiny real run."""

import getpass
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slurm_cluster import Sweep, is_required, wait_until

from mtrl.results import read_run
from slurm.mini.cluster import MiniSlurm, MiniSlurmError, require_programs

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
LONG = 1_000_000  # vector steps: never over within a test
STEPS = 1_200  # some seconds
LONGER = 10_000  # long enough for Slurm, which thinks in seconds, to strike in the middle
Make = Callable[..., Sweep]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MiniSlurm]:
    try:
        require_programs()
    except MiniSlurmError as error:
        if is_required():
            raise
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix=f"mtrl-test-slurm-{getpass.getuser()}-", dir="/tmp") as place:
        cluster = MiniSlurm(Path(place) / "cluster", max_jobs=2_150)
        Path(place).chmod(0o755)  # munge's socket must be reachable
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def make(cluster: MiniSlurm, tmp_path: Path) -> Iterator[Make]:
    """Makes a sweep; whatever it left in the queue ends with the test."""
    made: list[Sweep] = []

    def build(**settings: Any) -> Sweep:
        made.append(Sweep(cluster, tmp_path / f"sweep{len(made)}", **settings))
        return made[-1]

    yield build
    for sweep in made:
        sweep.slurm("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
        sweep.slurm("scancel", f"--user={getpass.getuser()}")


@pytest.fixture(scope="module")
def undisturbed_longer(tmp_path_factory: pytest.TempPathFactory, cluster: MiniSlurm) -> Path:
    """The same for the faults that Slurm takes seconds to deal out."""
    sweep = Sweep(cluster, tmp_path_factory.mktemp("longer"), steps=LONGER)
    sweep.command(f"grid={sweep.folder}/tiny.toml", "executor=inline")
    return sweep.directory()


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


def test_packed_cells_run_and_a_relaunch_submits_only_what_was_lost(make: Make) -> None:
    sweep = make(cells=5, profile={"cells_per_job": 2, "cpus": 2, "max_running": 2})
    launched = sweep.launch()
    assert (launched["submitted"], len(launched["jobs"])) == (5, 1)
    assert sweep.launch()["submitted"] == 0, "cells in the queue were submitted twice"
    sweep.wait_until_done()
    assert [row["state"] for row in sweep.status()] == ["done"] * 5
    assert sweep.launch()["submitted"] == 0
    lost = [row["run_id"] for row in sweep.rows()[1:3]]
    (sweep.place / "cells" / lost[0] / "run.h5").unlink()
    (sweep.place / "cells" / lost[1] / "DONE.json").write_text('{"run_id": ')
    assert sweep.launch()["submitted"] == 2
    sweep.wait_until_done()
    wait_until(lambda: sweep.states() == ["done"] * 5)


def test_arrays_are_split_at_the_clusters_limit_and_a_full_queue_refuses_the_rest(make: Make) -> None:
    """MaxArraySize is 1,001, MaxJobCount 2,150: 1,100 cells go into two arrays, of 1,100 more only the first fits."""
    sweep, more = (make(cells=1_100, profile={"partition": "low"}) for _ in range(2))
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=DOWN")
    launched = sweep.launch()
    assert (launched["submitted"], len(launched["jobs"]), launched["refusal"]) == (1_100, 2, "")
    assert sweep.states() == ["pending"] * 1_100
    launched = more.launch()
    assert (launched["submitted"], len(launched["jobs"])) == (1_001, 1)
    assert "unable to accept" in launched["refusal"]
    assert sorted(more.states()) == ["missing"] * 99 + ["pending"] * 1_001
    more.command("cancel", "tiny")
    assert set(more.states()) == {"cancelled"}
    assert more.launch()["submitted"] == 0, "cancel is final"
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP")


@pytest.mark.parametrize(("grace", "own_signal"), [(0, False), (10, False), (10, True)])
def test_preemption_loses_nothing(
    cluster: MiniSlurm, make: Make, grace: int, own_signal: bool, undisturbed_longer: Path
) -> None:
    sweep = make(
        cells=1,
        steps=LONGER,
        checkpoint_seconds=1.0,
        profile={"partition": "low", "options": {"nodelist": "n0"}},
    )
    sweep.slurm("scontrol", "update", "PartitionName=low", f"GraceTime={grace}")
    cluster.set_user_signal(own_signal)
    sweep.launch()
    sweep.wait_for_step(LONGER // 10)
    urgent = [
        "sbatch",
        "--parsable",
        "--partition=high",
        "--nodelist=n0",
        "--exclusive",
        "--time=1",
        "--wrap=sleep 1",
    ]
    sweep.slurm(*urgent, "--output=/dev/null")
    sweep.wait_until_done()
    assert sweep.beats()[0]["attempt"] == 2
    finished_alike(sweep.directory(), undisturbed_longer)
    if grace:  # told in time: it went on at the very step where it stopped
        assert "stopped in state" in sweep.output()


@pytest.mark.slow
def test_the_time_limit_hands_over_to_a_next_job(make: Make, undisturbed_longer: Path) -> None:
    """A limit of one minute, told 55 s before it: the job saves, asks for another go, and goes on."""
    sweep = make(steps=LONGER, profile={"minutes": 1, "signal_seconds": 55})
    sweep.launch()
    sweep.wait_until_done()
    assert sweep.beats()[0]["attempt"] > 1
    finished_alike(sweep.directory(), undisturbed_longer)


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
    cluster.start_node(node)
    assert sweep.beats()[0]["attempt"] == 1
    finished_alike(sweep.directory(), undisturbed)


def test_out_of_memory_gets_more_memory(make: Make) -> None:
    """Beside the cell the job holds 1.3 GB more than anybody planned for: 960 MB is too little, and 1,440; 2,160 do."""
    hog = f"{sys.executable} -c 'import time; held = b\"x\" * 1_300_000_000; time.sleep(300)' &"
    sweep = make(steps=100, profile={"memory_mb": 60, "setup": [hog, "sleep 3"]})
    asked = []
    while not (asked and sweep.states() == ["done"]) and len(asked) < 4:
        assert (sweep.retry() if asked else sweep.launch())["submitted"] == 1
        record = max((sweep.place / "slurm").glob("*.json"))
        asked.append(json.loads(record.read_text())["memory_mb"])
        wait_until(lambda: not {"pending", "running"} & set(sweep.states()), every=0.5, what=sweep.output)
    assert asked == [960, 1440, 2160]


def test_an_exception_is_tried_once_more_and_then_shown(make: Make) -> None:
    sweep = make(cells=2)
    rows = json.loads(sweep.command("plan", f"grid={sweep.folder}/tiny.toml", "--json"))["cells"]
    broken = sweep.place / "cells" / rows[0]["run_id"]
    (broken / "run.h5").mkdir(parents=True)
    sweep.launch()
    sweep.wait_for("failed", "done")
    assert sweep.retry()["submitted"] == 1
    sweep.wait_for("failed", "done")
    answer = sweep.retry()
    assert answer["submitted"] == 0
    assert "directory" in answer["given_up"][broken.name].lower()
    row = next(row for row in sweep.status() if row["run_id"] == broken.name)
    assert (row["state"], "Traceback" in row["traceback"]) == ("failed", True)
    assert "Is a directory" in sweep.command("tail", "tiny", broken.name[:6])
    (broken / "run.h5").rmdir()
    launched = sweep.launch()
    assert launched["submitted"] == 1, f"a launch by hand is another try: {launched}"
    sweep.wait_until_done()


def test_one_cancelled_cell_is_final_and_the_other_goes_on(make: Make) -> None:
    sweep = make(cells=2, steps=LONG)
    sweep.launch()
    sweep.wait_for_step(10, cells=2)
    chosen = sweep.rows()[0]["run_id"]
    sweep.command("cancel", "tiny", chosen)
    wait_until(lambda: sweep.states() == ["cancelled", "running"], every=0.5)
    assert (sweep.launch()["submitted"], sweep.retry()["submitted"]) == (0, 0)
    assert list((sweep.place / "cells" / chosen / "checkpoint").glob("[0-9]*")), "it saved before it ended"
    sweep.command("retry", "tiny", "--cancelled")
    wait_until(lambda: sweep.states() == ["running", "running"], every=0.5)


def test_scancel_from_outside_is_not_undone_by_the_worker(make: Make) -> None:
    sweep = make(steps=LONG)
    job = sweep.launch()["jobs"][0]
    sweep.wait_for_step(10)
    sweep.slurm("scancel", f"{job}_0")
    sweep.wait_for("stopped")
    assert "CANCELLED" in sweep.rows()[0]["reason"]
    assert sweep.launch()["submitted"] == 1, "the next launch goes on with it"


def test_a_full_disk_fails_the_cell_and_no_other(make: Make) -> None:
    """`ulimit -f` stands for the full disk: a write beyond it fails in the same place."""
    sweep = make(steps=200, profile={"setup": ["ulimit -f 8"]})
    sweep.launch()
    sweep.wait_for("failed", "stopped", "missing")
    assert sweep.rows()[0]["state"] in ("failed", "missing", "stopped")
    (sweep.folder / "test.toml").write_text(
        (sweep.folder / "test.toml").read_text().replace("ulimit -f 8", "true")
    )
    sweep.launch()
    sweep.wait_until_done()


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


def test_a_launcher_that_dies_between_sbatch_and_bookkeeping_neither_loses_nor_doubles(make: Make) -> None:
    sweep = make(steps=LONG)
    sweep.launch()
    path = next((sweep.place / "slurm").glob("*.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "job": None}))  # sbatch answered, and nobody wrote it down
    assert sweep.launch()["submitted"] == 0
    assert json.loads(path.read_text())["job"] == record["job"]
    sweep.command("cancel", "tiny")
    path.write_text(
        json.dumps({**record, "job": None, "created": time.time() - 60, "token": "never-heard-of"})
    )
    path.rename(path.with_name("never-heard-of.json"))  # written down, and sbatch never ran
    assert sweep.command("retry", "tiny", "--cancelled", "--json")
    assert not path.with_name("never-heard-of.json").exists()


def test_hostile_values_stay_values(make: Make, tmp_path: Path) -> None:
    evil = f"$(touch {tmp_path}/owned); `touch {tmp_path}/owned` 'x' %j"
    folder = tmp_path / "a folder; touch owned $(touch owned) %A"
    sweep = Sweep(
        make().cluster, folder, profile={"options": {"comment": evil}, "container": ["env", f"EVIL={evil}"]}
    )
    sweep.launch()
    sweep.wait_until_done()
    assert not list(tmp_path.rglob("owned"))


def test_gather_and_fit_follow_as_a_job(make: Make) -> None:
    sweep = make(cells=2)
    sweep.launch("--then", "gather,fit")
    sweep.wait_until_done()
    wait_until(lambda: (sweep.place / "report" / "report.html").exists(), what=sweep.output)
    assert (sweep.place / "dataset.nc").exists()
