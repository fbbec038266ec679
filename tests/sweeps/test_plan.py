"""Plans: disk, corrections by finished cells, classes of memory."""

import pytest

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
    plan_cells,
    resource_classes,
)


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
