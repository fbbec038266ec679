"""Cells that are cancelled on a real Slurm, by `mtrl-sweep cancel` and by scancel."""

import pytest

from tests.slurm.slurm_cluster import LONG, Make, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


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
