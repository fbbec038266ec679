"""Estimates: their order and their arithmetic. How near they come to real cells is measured in benchmarks."""

import pytest

from mtrl.overrides import build_config
from slurm.limits import Limits
from slurm.profiles import Profile
from slurm.records import Task
from slurm.submit import CellRequest, plan_arrays
from sweeps.grid import expand, load_grid
from sweeps.plan import (
    GUESS,
    calibrate,
    device_hours,
    disk_needed,
    estimate_cost,
    plan_cells,
    resource_classes,
)


def test_wider_more_tasks_and_more_steps_cost_more() -> None:
    base = estimate_cost(build_config("paper", {}), gpu=False)
    for change in ({"network.critic.width": 1024}, {"env.tasks": "MT50"}, {"train.vector_steps": 4_000_000}):
        assert estimate_cost(build_config("paper", change), gpu=False).seconds > 1.3 * base.seconds
    assert estimate_cost(build_config("paper", {}), gpu=True).seconds < base.seconds


def test_update_cost_agrees_with_a_measured_step() -> None:
    """One update at MT10, batch 1,280, took 39 ms at width 256 and 560 ms at 1,024 on one core."""
    for width, seconds in ((256, 0.039), (1024, 0.560)):
        widths = {"network.actor.width": width, "network.critic.width": width, "train.random_steps": 0}
        steps = {"train.vector_steps": 10_000, "evaluate.every": 10_000, "evaluate.episodes": 1}
        with_updates = estimate_cost(build_config("paper", {**widths, **steps}), gpu=False)
        without = estimate_cost(
            build_config("paper", {**widths, **steps, "train.random_steps": 10_000}), gpu=False
        )
        assert (with_updates.seconds - without.seconds) / 10_000 == pytest.approx(seconds, rel=0.3)


def test_disk_counts_results_of_all_and_checkpoints_of_those_at_work() -> None:
    planned = plan_cells(expand(load_grid("smoke")), gpu=False)
    results = sum(item.estimate.result_bytes for item in planned)
    largest = max(item.estimate.checkpoint_bytes for item in planned)
    assert disk_needed(planned, 1) == pytest.approx(results + 2 * largest)
    assert disk_needed(planned, 2) > disk_needed(planned, 1)


def test_finished_cells_correct_the_estimates() -> None:
    planned = plan_cells(expand(load_grid("smoke")), gpu=False)
    seconds = {item.cell.run_id: item.estimate.seconds for item in planned}

    def finished(factors: list[float], attempts: int = 1) -> dict[str, dict[str, float]]:
        pairs = zip(seconds.items(), factors, strict=False)
        return {
            run_id: {"seconds": factor * count, "attempts": attempts} for (run_id, count), factor in pairs
        }

    assert calibrate(planned, finished([3.0, 3.0])) == GUESS, "two cells are too few"
    assert calibrate(planned, finished([3.0] * 5, attempts=2)) == GUESS, (
        "a second attempt says nothing of the time"
    )
    assert calibrate(planned, finished([3.0] * 5)) == pytest.approx((3.0, 3.0, 3.0))
    low, likely, high = calibrate(planned, finished([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (low, likely, high) == pytest.approx((1.4, 3.0, 4.6))


def test_resource_classes_are_those_of_the_submission() -> None:
    planned = plan_cells(expand(load_grid("scaling")), gpu=True)
    profile = Profile(name="lab", gpus=1, cells_per_job=4, memory_mb=8_000)
    classes = resource_classes(planned, profile, (0.5, 1.0, 2.0))
    requests = [CellRequest(Task(item.cell.run_id, 0), item.estimate.memory_mb) for item in planned]
    arrays = plan_arrays(requests, profile, Limits())
    assert [one.memory_mb for one in classes] == sorted({array.memory_mb for array in arrays})
    assert sum(one.jobs for one in classes) == sum(len(array.tasks) for array in arrays)
    assert sum(one.cells for one in classes) == len(planned) == 150
    assert sum(one.hours[1] for one in classes) == pytest.approx(device_hours(planned, profile))
    assert len(classes) > 1
    assert all(one.seconds[2] == 2 * one.seconds[1] == 4 * one.seconds[0] for one in classes)
