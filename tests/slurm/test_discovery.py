"""`launch` on a machine with a cluster that nobody has described: the profile that is found, and what can never run."""

import json
import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.mini.cluster import MiniSlurm
from tests.slurm.slurm_cluster import Sweep, start_cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("executors")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MiniSlurm]:
    with start_cluster(nodes=2, cpus=4, memory=3_000, gpus=2) as cluster:
        yield cluster


@pytest.fixture
def sweep(cluster: MiniSlurm, tmp_path: Path) -> Iterator[Sweep]:
    sweep = Sweep(cluster, tmp_path / "sweep")
    yield sweep
    sweep.slurm("scancel", f"--user={os.environ.get('USER', 'root')}")


def run(sweep: Sweep, *words: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, answer and messages of a launch without a profile, in a home of its own."""
    home = {"XDG_CONFIG_HOME": str(sweep.folder / "home"), **environment}
    process = sweep.start(f"grid={sweep.folder}/tiny.toml", *words, **home)
    answer, said = process.communicate(timeout=120)
    assert "Traceback (most" not in said, said
    return process.returncode, answer, said


def saved(sweep: Sweep) -> Path:
    return sweep.folder / "home/mtrl/profiles/default.toml"


def test_a_profile_is_found_shown_saved_and_used_again(sweep: Sweep) -> None:
    code, answer, said = run(sweep)
    assert (code, answer) == (1, "")
    assert "say --yes to launch with this profile" in said
    assert not saved(sweep).exists()
    code, answer, said = run(sweep, "--yes", "--json")
    assert code == 0, said
    assert json.loads(answer)["submitted"] == 1
    for line in ('partition = "main"', "minutes = 240", "cpus = 2", "memory_mb = 1500", "gpus = 1"):
        assert line in said
        assert line in saved(sweep).read_text()
    assert "core hours" in said, "the cost stands beside the profile"
    assert "Nothing was launched" not in said
    sweep.wait_until_done()
    code, answer, said = run(sweep, "--json")
    assert (code, json.loads(answer)["submitted"]) == (0, 0), said
    assert "No profile is named" not in said
    assert f"profile default ({saved(sweep)})" in said


def test_cells_that_run_on_the_cpu_ask_for_no_gpu(sweep: Sweep) -> None:
    """The profile keeps its GPU for other grids; a profile that the words name is taken as it is."""
    for _ in range(2):  # with the profile as found, and as saved
        code, _, said = run(sweep, "--yes", "train.seed=0,1")
        assert code == 0, said
        assert "their jobs ask for no GPU" in said
        assert "cpus = 1, memory_mb = 750\n" in said
        assert "gpus = 1" in saved(sweep).read_text()
        record = json.loads(max((sweep.place / "slurm").glob("*.json")).read_text())
        asked = [record["profile"][key] for key in ("gpus", "cpus", "memory_mb")]
        assert asked == [0, 1, 750]
        sweep.command("cancel", "tiny")
        sweep.command("retry", "tiny", "--cancelled")
    for words in (["run.device=cuda"], ["profile=default"]):
        code, answer, said = run(sweep, "--dry-run", *words)
        assert "their jobs ask for no GPU" not in said
        assert "GPU hours" in answer, said


def test_the_environment_chooses_the_partition(sweep: Sweep) -> None:
    code, _, said = run(sweep, "--dry-run", SBATCH_PARTITION="low")
    assert code == 0, said
    code, _, said = run(sweep, SBATCH_PARTITION="low")
    assert 'partition = "low"' in said
    assert "minutes = 60" in said
    code, _, said = run(sweep, SBATCH_PARTITION="lwo")
    assert code == 1
    assert "no partition 'lwo'; did you mean 'low'?" in said


@pytest.mark.parametrize("reply", ["y", "n"])
def test_a_terminal_is_asked(sweep: Sweep, reply: str) -> None:
    words = ["python", "sweeps/launch.py", f"grid={sweep.folder}/tiny.toml", "--runs", f"{sweep.folder}/runs"]
    environment = {**sweep.cluster.environment, "XDG_CONFIG_HOME": str(sweep.folder / "home")}
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe("python", words, environment)
    text = ""
    while "default.toml? [y/N]" not in text.replace("\r\n", ""):
        text += os.read(terminal, 1024).decode(errors="replace")
    os.write(terminal, f"{reply}\n".encode())
    while True:
        try:
            text += os.read(terminal, 1024).decode(errors="replace")
        except OSError:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (code, saved(sweep).exists()) == ((0, True) if reply == "y" else (1, False)), text
    assert sweep.place.exists() == (reply == "y")


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"partition": "nope"}, "no partition 'nope'"),
    ({"partition": "low", "minutes": 600}, "partition low allows 60; write minutes = 60"),
    ({"cpus": 64}, "the largest node has 4 CPUs; write cpus = 4"),
    ({"memory_mb": 900_000}, "the largest node has 3000 MB; write memory_mb = 3000"),
    ({"gpus": 3}, "the largest node has 2 GPUs; write gpus = 2"),
    ({"gpus": 1, "gpu_type": "a100"}, "no node has GPUs of type a100; there are: fake"),
    ({"options": {"nodelist": "n77"}}, "Invalid node name specified"),
    ({"constraint": "fast"}, "Invalid feature specification"),
    ({"signal_seconds": 600}, "signal_seconds = 600 is not less than the wall time of 600 s"),
]


@pytest.mark.parametrize(("settings", "message"), IMPOSSIBLE)
def test_what_can_never_run_is_refused_before_it_is_submitted(
    cluster: MiniSlurm, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    sweep = Sweep(cluster, tmp_path, profile=settings)
    profile = f"profile={tmp_path}/test.toml"
    assert message in sweep._run("doctor", profile, code=1, runs=False, seconds=60)[1]
    assert message in sweep.command(*sweep.launch_words(), code=1)
    assert not sweep.slurm("squeue", "--noheader", "--states=PENDING")


def test_a_partition_that_takes_no_jobs_is_refused_and_one_that_is_down_is_named(sweep: Sweep) -> None:
    words = ("doctor", f"profile={sweep.folder}/test.toml")
    try:
        sweep.slurm("scontrol", "update", "PartitionName=main", "State=DRAIN")
        assert "partition main takes no jobs" in sweep._run(*words, code=1, runs=False, seconds=60)[1]
        sweep.slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
        assert "partition main is down" in sweep._run(*words, code=0, runs=False, seconds=60)[1]
    finally:
        sweep.slurm("scontrol", "update", "PartitionName=main", "State=UP")


def test_memory_that_no_node_has_is_an_error_and_the_other_cell_runs(sweep: Sweep) -> None:
    grid = sweep.folder / "tiny.toml"
    wide = grid.read_text().replace('"network.critic.width" = 8\n', "")
    grid.write_text(wide + '"network.critic.width" = [8, 8000]\n')
    answer, said = sweep._run(*sweep.launch_words(), code=1, runs=True, seconds=60)
    assert (json.loads(answer)["submitted"], json.loads(answer)["refused_for_good"]) == (1, True)
    assert "launch again later" not in said
    assert "Change the profile" in sweep.command(*sweep.launch_words()[:-1], code=1)
    wait_until(lambda: "done" in sweep.states())


def test_a_cluster_that_is_not_up_is_named(sweep: Sweep, tmp_path: Path) -> None:
    code, answer, said = run(sweep, "profile=mini", SLURM_CONF=f"{tmp_path}/none/slurm.conf")
    assert (code, answer) == (1, "")
    assert "make mini-cluster" in said


def test_a_controller_that_is_away_is_named_in_seconds(sweep: Sweep, tmp_path: Path) -> None:
    """Its file is there, and nobody listens."""
    there = Path(sweep.cluster.environment["SLURM_CONF"]).read_text()
    (tmp_path / "slurm.conf").write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1", there))
    launcher = sweep.start(*sweep.launch_words(), SLURM_CONF=f"{tmp_path}/slurm.conf")
    assert launcher.stderr is not None
    assert "Slurm's controller does not answer" in launcher.stderr.readline()
    launcher.kill()
    launcher.communicate()


def test_a_job_beyond_its_partitions_time_limit_is_held(cluster: MiniSlurm, tmp_path: Path) -> None:
    """The limit was lowered after the launch; Slurm leaves such a job pending for ever."""
    sweep = Sweep(cluster, tmp_path, profile={"partition": "low", "minutes": 30})
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=DOWN")
    sweep.launch()
    sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP", "MaxTime=10")
    try:
        sweep.wait_for("held")
        assert sweep.rows()[0]["reason"] == "PartitionTimeLimit"
        assert "partition low allows 10; write minutes = 10" in sweep.command("retry", "tiny", code=1)
        profile = tmp_path / "test.toml"
        profile.write_text(profile.read_text().replace("minutes = 30", "minutes = 10"))
        sweep.command("retry", "tiny", f"profile={profile}")
        sweep.wait_until_done()
    finally:
        sweep.slurm("scontrol", "update", "PartitionName=low", "State=UP", "MaxTime=60")
