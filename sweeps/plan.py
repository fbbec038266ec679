"""The cells and the cost of a launch, before it starts."""

from __future__ import annotations

import shutil
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl.cpus import usable_cpus
from mtrl.sizing import Parameters, count_parameters
from slurm.profiles import Profile
from slurm.records import Task
from slurm.submit import CellRequest, memory_class
from slurm.survey import survey
from sweeps.cost import Estimate, estimate_cost
from sweeps.grid import Cell
from sweeps.manifest import LaunchError
from sweeps.request import Request
from sweeps.units import size

GUESS = (0.5, 1.0, 2.0)  # low, likely, high, while no cell has finished


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its parameters and its estimated cost."""

    cell: Cell
    parameters: Parameters
    estimate: Estimate


@dataclass(frozen=True)
class Plan:
    """The cells that a launch of the request would run, and their cost."""

    request: Request
    cells: list[PlannedCell]
    states: Sequence[str]  # of the cells
    left: list[PlannedCell]  # cells that are not over
    classes: list[ResourceClass]  # of `left`
    factors: tuple[float, float, float]  # on the estimated seconds: low, likely, high

    @property
    def hours(self) -> tuple[float, float, float]:
        """Hours of the cells that are left: low, likely, high."""
        low, likely, high = (sum(one.hours[index] for one in self.classes) for index in range(3))
        return low, likely, high

    @property
    def hours_of(self) -> str:
        """The device of `hours`: GPU or core."""
        profile = self.request.profile
        return "GPU" if profile and profile.gpus else "core"

    @property
    def jobs(self) -> int:
        """How many jobs the cells need that are left."""
        return sum(one.jobs for one in self.classes)

    @property
    def disk(self) -> float:
        """Bytes on disk of the cells that are left."""
        return disk_needed(self.left, len(self.left) if self.request.profile else usable_cpus())


def make_plan(request: Request) -> Plan:
    """The plan of a request, from the files of its sweep; the queue is not read."""
    profile = request.profile
    planned = plan_cells(request.cells, gpu=bool(profile and profile.gpus))
    found = survey(request.sweep, [cell.run_id for cell in request.cells], None).cells
    left = [item for item in planned if not found[item.cell.run_id].finished]
    factors = calibrate(planned, {run_id: cell.marker for run_id, cell in found.items() if cell.finished})
    states = [cell.state for cell in found.values()]
    return Plan(request, planned, states, left, resource_classes(left, profile, factors), factors)


def check_disk(sweep: Path, planned: Sequence[PlannedCell], at_once: int) -> None:
    """Raises LaunchError if the disk is too full for the cells, `at_once` of which run at the same time."""
    free, needed = shutil.disk_usage(sweep).free, disk_needed(planned, at_once)
    if needed > free:
        raise LaunchError(
            f"{sweep} needs about {size(needed)} and its disk has {size(free)} free; make room, or give "
            "another folder with --runs"
        )


def plan_cells(cells: Sequence[Cell], *, gpu: bool) -> list[PlannedCell]:
    """Each cell with its parameters and its cost on one core, or on a GPU."""
    return [
        PlannedCell(cell, count_parameters(cell.config), estimate_cost(cell.config, gpu=gpu))
        for cell in cells
    ]


def disk_needed(cells: Sequence[PlannedCell], at_once: int) -> float:
    """Bytes for the results of all cells and for the checkpoints of the `at_once` cells that run at the same time."""
    checkpoints = sorted((2 * planned.estimate.checkpoint_bytes for planned in cells), reverse=True)
    return sum(planned.estimate.result_bytes for planned in cells) + sum(checkpoints[:at_once])


def calibrate(
    planned: Sequence[PlannedCell], markers: Mapping[str, Mapping[str, Any]]
) -> tuple[float, float, float]:
    """Factors (low, likely, high) on the estimated seconds, from the cells that finished at their first attempt.

    `markers` is {run id: content of DONE.json}. With fewer than three such cells it is GUESS.
    """
    ratios = [
        marker["seconds"] / item.estimate.seconds
        for item in planned
        if (marker := markers.get(item.cell.run_id)) and marker.get("seconds") and marker.get("attempts") == 1
    ]
    return factors_of(ratios)


def factors_of(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Low, likely and high of the ratios of measured to estimated seconds; GUESS for fewer than three."""
    if len(ratios) < 3:
        return GUESS
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    return tenths[0], statistics.median(ratios), tenths[-1]


def device_hours(planned: Sequence[PlannedCell], profile: Profile | None) -> float:
    """GPU hours of the cells, or core hours if the profile asks for no GPU. Cells of one job share its devices."""
    share = 1.0 if profile is None else (profile.gpus or profile.cpus) / profile.cells_per_job
    return sum(item.estimate.seconds for item in planned) * share / 3600


@dataclass(frozen=True)
class ResourceClass:
    """Cells whose jobs ask for the same memory."""

    memory_mb: int  # of a job
    cells: int
    jobs: int
    parameters: tuple[int, int]  # of the smallest and of the largest cell
    seconds: tuple[float, float, float]  # of the cell in the middle: low, likely, high
    hours: tuple[float, float, float]  # of all cells, as in `device_hours`


def resource_classes(
    planned: Sequence[PlannedCell], profile: Profile | None, factors: tuple[float, float, float]
) -> list[ResourceClass]:
    """The classes that `slurm.submit` makes of these cells by their memory, smallest first.

    Without a profile a class takes up to twice the memory of the class before. `factors` are those of `calibrate`.
    """
    asked = profile or Profile(name="here", memory_mb=1)
    classes: dict[int, list[PlannedCell]] = defaultdict(list)
    for item in planned:
        request = CellRequest(Task(item.cell.run_id, 0), item.estimate.memory_mb)
        classes[memory_class(request, asked)].append(item)
    found = []
    for memory, items in sorted(classes.items()):
        sizes = [item.parameters.total for item in items]
        middle = statistics.median(item.estimate.seconds for item in items)
        hours = device_hours(items, profile)
        low, likely, high = factors
        found.append(
            ResourceClass(
                memory_mb=memory * min(asked.cells_per_job, len(items)),
                cells=len(items),
                jobs=-(-len(items) // asked.cells_per_job),
                parameters=(min(sizes), max(sizes)),
                seconds=(low * middle, likely * middle, high * middle),
                hours=(low * hours, likely * hours, high * hours),
            )
        )
    return found
