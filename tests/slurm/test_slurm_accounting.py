"""A real Slurm with accounting: reasons, accounts, QOS and submit limits."""

import getpass
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.mini.cluster import MiniSlurm, outgoing_ports
from tests.slurm.slurm_cluster import LONG, Sweep, start_cluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


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


def test_a_database_keeps_its_temporary_files_apart_and_takes_no_port(accounted: MiniSlurm) -> None:
    """A server that starts removes those that it finds in its folder, also another's that is being installed."""
    words = [
        "mariadb",
        "--no-defaults",
        f"--socket={accounted.folder}/run/mariadb.sock",
        "-Ne",
        "select @@tmpdir, @@skip_networking",
    ]
    asked = subprocess.run(words, capture_output=True, text=True, check=True)
    assert asked.stdout.split() == [f"{accounted.folder}/database-tmp", "1"]


def test_daemons_listen_where_the_kernel_puts_no_outgoing_connection(accounted: MiniSlurm) -> None:
    low, high = outgoing_ports()
    if low < 10_100 and high > 64_900:
        pytest.skip("the kernel keeps all ports for outgoing connections")
    text = "".join((accounted.folder / "etc" / name).read_text() for name in ("slurm.conf", "slurmdbd.conf"))
    ports = [int(port) for port in re.findall(r"Port=(\d+)", text)]
    assert ports
    assert not [port for port in ports if low <= port <= high]


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
