"""What follows a sweep on a real Slurm: the job of `--then`, and mail."""

import getpass

import pytest

from tests.slurm.slurm_cluster import Make, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


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
