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
    cell: Cell
    parameters: Parameters
    estimate: Estimate


@dataclass(frozen=True)
class Plan:
    """What a launch of the request would run, and its cost."""

    request: Request
    cells: list[PlannedCell]
    states: Sequence[str]  # of the cells
    left: list[PlannedCell]  # cells that are not over
    classes: list[ResourceClass]  # of what is left
    factors: tuple[float, float, float]  # on the estimated seconds: low, likely, high

    @property
    def hours(self) -> tuple[float, float, float]:
        """Hours of the cells that are left: low, likely, high."""
        low, likely, high = (sum(one.hours[index] for one in self.classes) for index in range(3))
        return low, likely, high

    @property
    def hours_of(self) -> str:
        profile = self.request.profile
        return "GPU" if profile and profile.gpus else "core"

    @property
    def jobs(self) -> int:
        return sum(one.jobs for one in self.classes)

    @property
    def disk(self) -> float:
        """Bytes on disk of the cells that are left."""
        return disk_needed(self.left, len(self.left) if self.request.profile else usable_cpus())


def make_plan(request: Request) -> Plan:
    """The plan of a request, by the files of its sweep and without a look at the queue."""
    profile = request.profile
    planned = plan_cells(request.cells, gpu=bool(profile and profile.gpus))
    found = survey(request.sweep, [cell.run_id for cell in request.cells], None).cells
    left = [item for item in planned if not found[item.cell.run_id].finished]
    factors = calibrate(planned, {run_id: cell.marker for run_id, cell in found.items() if cell.finished})
    states = [cell.state for cell in found.values()]
    return Plan(request, planned, states, left, resource_classes(left, profile, factors), factors)


def check_disk(sweep: Path, planned: Sequence[PlannedCell], at_once: int) -> None:
    """Raises LaunchError if the disk has not enough space for the cells."""
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
    """Bytes for the results of all cells and the checkpoints of those that run at the same time."""
    checkpoints = sorted((2 * planned.estimate.checkpoint_bytes for planned in cells), reverse=True)
    return sum(planned.estimate.result_bytes for planned in cells) + sum(checkpoints[:at_once])


def calibrate(
    planned: Sequence[PlannedCell], markers: Mapping[str, Mapping[str, Any]]
) -> tuple[float, float, float]:
    """Factors on the estimated seconds (low, likely, high): from the cells that finished at their first attempt, or a
    guess while there are fewer than three."""
    ratios = [
        marker["seconds"] / item.estimate.seconds
        for item in planned
        if (marker := markers.get(item.cell.run_id)) and marker.get("seconds") and marker.get("attempts") == 1
    ]
    return factors_of(ratios)


def factors_of(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Low, likely and high of measured over estimated seconds; a guess from fewer than three."""
    if len(ratios) < 3:
        return GUESS
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    return tenths[0], statistics.median(ratios), tenths[-1]


def device_hours(planned: Sequence[PlannedCell], profile: Profile | None) -> float:
    """Hours of a GPU, or of a core if the profile asks for no GPU. Cells that share a job share its devices."""
    share = 1.0 if profile is None else (profile.gpus or profile.cpus) / profile.cells_per_job
    return sum(item.estimate.seconds for item in planned) * share / 3600


@dataclass(frozen=True)
class ResourceClass:
    """Cells that are submitted alike."""

    memory_mb: int  # of a job
    cells: int
    jobs: int
    parameters: tuple[int, int]  # of the smallest and of the largest cell
    seconds: tuple[float, float, float]  # of the cell in the middle: low, likely, high
    hours: tuple[float, float, float]  # of all cells, as in `device_hours`


def resource_classes(
    planned: Sequence[PlannedCell], profile: Profile | None, factors: tuple[float, float, float]
) -> list[ResourceClass]:
    """The classes of memory that `slurm.submit` makes of these cells, smallest first; on this machine a class takes
    up to twice the memory of the one before."""
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
