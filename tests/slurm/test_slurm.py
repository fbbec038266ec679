"""What happens when ... : sweeps on a real Slurm (slurm/mini), one case each, every cell a tiny real run."""

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrl.results import read_run
from slurm.mini.cluster import MiniSlurm
from sweeps.on_slurm import SETTLING_SECONDS
from tests.slurm.slurm_cluster import ROOT, Sweep, main_process, start_cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
LONG = 1_000_000  # vector steps: never over within a test
STEPS = 4_000  # some seconds, and two on the quickest machine: what strikes in the middle must not come late
Make = Callable[..., Sweep]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MiniSlurm]:
    with start_cluster(max_jobs=2_150) as cluster:
        yield cluster


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
    launched = more.launch()
    submitted = launched["submitted"]
    assert 1_001 < submitted < 1_050, "the first array, and of the second what fits"
    assert "unable to accept" in launched["refusal"]
    assert sorted(more.states()) == ["missing"] * (1_100 - submitted) + ["pending"] * submitted
    more.command("cancel", "tiny")
    assert set(more.states()) == {"cancelled"}
    assert more.launch()["submitted"] == 0, "cancel is final"
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP")


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


def test_out_of_memory_gets_more_memory(make: Make, tmp_path: Path) -> None:
    """The job holds 2.9 GB more than anybody planned for: 2,080 MB is too little, and 3,120; 4,680 are enough, with the
    CPU's torch (its two processes take .5 GB) and with CUDA's (up to 1.5 GB).

    Slurm looks every second, so the memory is there some seconds before the job may end."""
    ready = f"{tmp_path}/held-$SLURM_JOB_ID"
    code = 'import sys, time; held = b"x" * 2_900_000_000; open(sys.argv[1], "w").close(); time.sleep(90)'
    hog = f"{sys.executable} -c '{code}' {ready} &"
    profile = {"memory_mb": 130, "setup": [hog, f"while ! test -e {ready}; do sleep 0.2; done; sleep 3"]}
    sweep = make(steps=STEPS, profile=profile)
    asked: list[int] = []
    while not (asked and sweep.states() == ["done"]) and len(asked) < 4:
        assert (sweep.retry() if asked else sweep.launch())["submitted"] == 1
        record = max((sweep.place / "slurm").glob("*.json"))
        asked.append(json.loads(record.read_text())["memory_mb"])
        wait_until(lambda: not {"pending", "running"} & set(sweep.states()), every=0.5, what=sweep.output)
    assert asked == [2080, 3120, 4680]


def test_an_exception_is_tried_once_more_and_then_shown(make: Make) -> None:
    sweep = make(cells=2)
    rows = json.loads(sweep.answer("plan", f"grid={sweep.folder}/tiny.toml", "--json"))["cells"]
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


QUICK = """
import sweeps.watch
sweeps.watch.WATCH_SECONDS = sweeps.watch.RETRY_SECONDS = 2
from sweeps.launch import main
main()
"""


def test_a_launch_that_waits_tries_a_failing_cell_again_and_ends_with_exit_code_1(make: Make) -> None:
    sweep = make(cells=2)
    rows = json.loads(sweep.answer("plan", f"grid={sweep.folder}/tiny.toml", "--json"))["cells"]
    broken = sweep.place / "cells" / rows[0]["run_id"]
    (broken / "run.h5").mkdir(parents=True)
    words = [*sweep.launch_words()[:-1], "--wait", "--runs", f"{sweep.folder}/runs"]

    def wait() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", QUICK, *words], env=sweep.cluster.environment, cwd=ROOT,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    ended = wait()
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"failed: seed 0 ({broken.name}): " in ended.stderr
    assert "1 of 2 cells are over." in ended.stderr
    assert json.loads((broken / "heartbeat.json").read_text())["attempt"] == 2, "by cause: once more"
    (broken / "run.h5").rmdir()
    ended = wait()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 of 2 cells are over." in ended.stderr


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


def test_one_pending_task_cancelled_from_outside_is_lost_alone_and_found_without_accounting(
    make: Make,
) -> None:
    """Of an array whose tasks run one at a time; Slurm then forgets the task without ever having begun it, and there is
    no accounting to ask."""
    sweep = make(cells=3, steps=200, profile={"max_running": 1})
    job = sweep.launch()["jobs"][0]
    sweep.slurm("scancel", f"{job}_2")
    wait_until(
        lambda: sweep.states() == ["done", "done", "missing"], every=0.5, what=lambda: f"{sweep.rows()}"
    )
    assert sweep.rows()[2]["reason"] == "no longer in Slurm's queue"
    assert sweep.retry()["submitted"] == 1
    wait_until(lambda: sweep.states() == ["done"] * 3, every=0.5)


def test_scancel_from_outside_is_not_undone_by_the_worker(make: Make) -> None:
    sweep = make(steps=LONG)
    job = sweep.launch()["jobs"][0]
    sweep.wait_for_step(10)
    sweep.slurm("scancel", f"{job}_0")
    sweep.wait_for("stopped")
    assert "CANCELLED" in sweep.rows()[0]["reason"]
    assert sweep.launch()["submitted"] == 1, "the next launch goes on with it"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Puts a file system of its own, of that size, at a folder; again with another size, it grows."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        again = ["remount"] if folder in mounted else []
        words = ["mount", "-t", "tmpfs", "-o", ",".join([*again, f"size={size}"]), "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_fails_the_cell_and_the_next_launch_goes_on(
    make: Make, small_disk: Callable[[Path, str], None]
) -> None:
    sweep = make(steps=200)
    small_disk(sweep.place / "cells", "24k")
    sweep.launch()
    wait_until(lambda: sweep.states()[0] in ("failed", "stopped"), every=0.5, what=sweep.output)
    row = sweep.rows()[0]
    assert "space left" in row["reason"] or "FAILED" in row["reason"], row
    assert not (sweep.directory() / "DONE.json").exists()
    small_disk(sweep.place / "cells", "100m")
    assert sweep.launch()["submitted"] == 1
    wait_until(lambda: sweep.states() == ["done"], what=sweep.output)


def test_a_write_that_fails_fails_the_cell(make: Make) -> None:
    """A limit on the size of files does to a write what a quota does."""
    sweep = make(steps=200, profile={"setup": ["ulimit -f 8"]})
    sweep.launch()
    wait_until(lambda: sweep.states()[0] in ("failed", "stopped"), every=0.5, what=sweep.output)
    profile = sweep.folder / "test.toml"
    profile.write_text(profile.read_text().replace("ulimit -f 8", "true"))
    sweep.launch()
    wait_until(lambda: sweep.states() == ["done"], what=sweep.output)


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
    sweep = make(cells=6, steps=STEPS // 4, profile={"pull": True, "max_running": 2})
    launched = sweep.launch()
    assert (launched["submitted"], len(launched["jobs"])) == (6, 1)
    sweep.wait_for_step(10, cells=2)
    main = main_process(sweep.beats()[0]["pid"])  # now: the cell may be over once the launch has looked
    assert sweep.launch()["submitted"] == 0
    os.kill(main, signal.SIGKILL)
    wait_until(lambda: sweep.states() == ["done"] * 6, what=lambda: f"{sweep.rows()} {sweep.output()}")
    logs = [(path / "log.txt").read_text() for path in (sweep.place / "cells").iterdir()]
    assert [log.count(": done at step") for log in logs] == [1] * 6
    assert sweep.launch()["submitted"] == 0


def test_cells_that_jobs_share_are_cancelled_one_and_all(make: Make) -> None:
    sweep = make(cells=4, steps=LONG, profile={"pull": True, "max_running": 1})
    sweep.launch()
    sweep.wait_for_step(10)
    waits = next(row["run_id"] for row in sweep.rows() if row["state"] == "pending")
    sweep.command("cancel", "tiny", waits)
    assert sorted(sweep.states()) == ["cancelled", "pending", "pending", "running"]
    sweep.command("cancel", "tiny")
    wait_until(lambda: sweep.states() == ["cancelled"] * 4, every=0.5)
    sweep.wait_until_idle()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"setup": ["module load nothing-like-this"]}, "module: command not found"),
        ({"python": "/nowhere/bin/python"}, "/nowhere/bin/python: "),
    ],
)
def test_the_cause_of_a_job_that_fails_before_its_cell_begins_is_shown(
    make: Make, settings: dict[str, Any], words: str
) -> None:
    sweep = make(profile=settings)
    sweep.launch()
    wait_until(lambda: "FAILED" in sweep.rows()[0]["reason"], what=sweep.output)
    output = str(next((sweep.place / "slurm").glob("*.out")))
    for command in ("status", "tail"):
        said = sweep.command(command, "tiny")
        assert words in said
        assert output in said


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
    assert len(waiting) == 300  # a job that an earlier test left may still be completing
    assert sweep.states() == ["pending"] * 300
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP")
    sweep.command("cancel", "tiny")


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


def test_gather_fit_and_a_command_follow_as_a_job(make: Make) -> None:
    sweep = make(cells=2)
    sweep.launch("--then", f'gather,fit,"echo over, and {sweep.place.name} > {sweep.folder}/told"')
    sweep.wait_until_done()
    told = sweep.folder / "told"
    wait_until(lambda: told.exists() and bool(told.read_text()), what=sweep.output)
    assert told.read_text() == "over, and tiny\n"
    assert (sweep.place / "dataset.nc").exists()
    assert (sweep.place / "report" / "report.html").exists()


def test_slurm_mails_at_the_end(make: Make) -> None:
    sweep = make(profile={"options": {"mail-type": "END", "mail-user": "me@example.org"}})
    [job] = sweep.launch()["jobs"]
    mail = sweep.cluster.folder / "log/mail"
    wait_until(lambda: mail.exists() and f"Job_id={job}" in mail.read_text(), what=sweep.output)
    assert "me@example.org" in mail.read_text()
    assert "Ended" in mail.read_text()


def test_what_follows_a_sweep_ends_with_it_and_comes_again_with_a_retry(make: Make) -> None:
    sweep = make(profile={"partition": "low"})
    follower = ("squeue", "--noheader", f"--user={getpass.getuser()}", "--states=PENDING", "--format=%j")
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=DOWN")
    try:
        sweep.launch("--then", "gather")
        assert len(sweep.slurm(*follower).split()) == 2, "the cell, and what follows"
        sweep.command("cancel", "tiny")
        wait_until(lambda: not sweep.slurm(*follower))
        sweep.command("retry", "tiny", "--cancelled")
        assert len(sweep.slurm(*follower).split()) == 2, "the cell, and what follows"
    finally:
        sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP")
    dataset = sweep.place / "dataset.nc"
    wait_until(dataset.exists, what=sweep.output)
    dataset.unlink()
    assert sweep.launch()["submitted"] == 0
    said = sweep.command(*sweep.launch_words(), "--then", "gather")
    assert "at once: no job of the sweep is left to wait for" in said
    wait_until(dataset.exists, what=sweep.output)


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


@pytest.fixture(scope="module")
def accounted() -> Iterator[MiniSlurm]:
    """A second cluster, of one node, with accounting; it forgets ended jobs at once."""
    with start_cluster(nodes=1, accounting=True, min_job_age=2) as cluster:
        yield cluster


def test_accounting_knows_why_a_job_ended_that_the_queue_has_forgotten(
    accounted: MiniSlurm, tmp_path: Path
) -> None:
    sweep = Sweep(accounted, tmp_path, steps=LONG)
    job = sweep.launch()["jobs"][0]
    sweep.wait_for_step(10)
    sweep.slurm("scancel", f"{job}_0")
    queued = ("squeue", "--noheader", "--states=all", f"--user={getpass.getuser()}")
    wait_until(lambda: not sweep.slurm(*queued), every=1.0)
    row = sweep.status()[0]
    assert (row["state"], row["reason"]) == ("stopped", "job CANCELLED on n0")


def test_accounting_gives_the_account_of_a_found_profile_and_knows_every_qos(
    accounted: MiniSlurm, tmp_path: Path
) -> None:
    sweep = Sweep(accounted, tmp_path, profile={"qos": "nroma"})
    process = sweep.start("plan", f"grid={tmp_path}/tiny.toml", XDG_CONFIG_HOME=f"{tmp_path}/home")
    account = "root" if getpass.getuser() == "root" else "lab"  # Slurm gives root an account of its own
    assert f'account = "{account}"' in process.communicate(timeout=60)[1]
    assert "no QOS 'nroma'" in sweep.command(*sweep.launch_words(), code=1)


def test_submit_limits_are_met_exactly(accounted: MiniSlurm, tmp_path: Path) -> None:
    """One limit that is read before (of the user), and one that only sbatch tells (of the account, all users)."""
    sweep = Sweep(accounted, tmp_path, cells=12, profile={"partition": "low", "account": "lab"})
    modify = ("sacctmgr", "--immediate", "modify")
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=DOWN")
    sweep.slurm(*modify, "user", getpass.getuser(), "set", "MaxSubmitJobs=5")
    wait_until(lambda: json.loads(sweep.answer("doctor", "--json", runs=False))["limits"]["max_submit"] == 5)
    launched = sweep.launch()
    assert (launched["submitted"], len(launched["jobs"])) == (5, 1)
    assert "you may have" in launched["refusal"]
    sweep.slurm(*modify, "user", getpass.getuser(), "set", "MaxSubmitJobs=-1")
    sweep.slurm(*modify, "account", "lab", "set", "GrpSubmitJobs=9")
    time.sleep(1)
    launched = sweep.launch()
    assert launched["submitted"] == 4, launched
    assert "submit limit" in launched["refusal"]
    assert sorted(sweep.states()) == ["missing"] * 3 + ["pending"] * 9
    sweep.slurm(*modify, "account", "lab", "set", "GrpSubmitJobs=-1")
    time.sleep(1)
    assert sweep.launch()["submitted"] == 3
    sweep.command("cancel", "tiny")
