"""The time that a sweep has used and that it still takes, by the cost model and by its cells that finished."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.profiles import Profile
from slurm.records import last_profile
from slurm.state import CellState
from slurm.survey import Survey
from sweeps.cost import estimate_cost
from sweeps.manifest import Entry
from sweeps.plan import GUESS, factors_of

Times = tuple[float, float, float]  # low, likely, high


@dataclass(frozen=True)
class TimeLeft:
    """Of a sweep. A device is a GPU or, where jobs have none, a core."""

    used: float  # device hours
    hours: Times  # device hours left
    seconds: Times | None  # until its end, if as many cells go on running; None if none runs
    measured: bool  # whether finished cells corrected the estimate


def time_left(
    cells: Sequence[CellState], estimates: Mapping[str, float], profile: Profile | None
) -> TimeLeft:
    """The time of `cells`, from the estimated seconds of each run id. `profile` is None without Slurm."""
    share = 1.0 if profile is None else (profile.gpus or profile.cpus) / profile.cells_per_job
    used = left = 0.0
    ratios = []
    for cell in cells:
        estimate = estimates[cell.run_id]
        if cell.finished:
            seconds = float(cell.marker.get("seconds") or 0.0)
            used += seconds
            if seconds and cell.marker.get("attempts") == 1:
                ratios.append(seconds / estimate)
            continue
        beat = cell.heartbeat
        done = (beat.get("vector_step") or 0) / (beat.get("vector_steps") or math.inf)
        if cell.state != "cancelled":
            left += estimate * (1 - min(1.0, done))
        used += max(0.0, (beat.get("time") or 0.0) - (beat.get("started") or math.inf))
    factors = factors_of(ratios)
    running = sum(cell.state == "running" for cell in cells)
    return TimeLeft(
        used=used * share / 3600,
        hours=_times(factors, left * share / 3600),
        seconds=_times(factors, left / running) if running else None,
        measured=factors != GUESS,
    )


def seconds_left(sweep: Path, entries: Sequence[Entry], found: Survey) -> Times | None:
    """Seconds until the sweep ends, if as many cells go on running; None if none runs.

    Also None if another version wrote a configuration that this one cannot read.
    """
    cells = list(found.cells.values())
    if all(cell.state != "running" for cell in cells):
        return None
    profile = last_profile(sweep)
    estimates: dict[str, float] = {}
    for some in without_seeds(entries):
        try:
            cost = estimate_cost(some[0].cell.config, gpu=bool(profile and profile.gpus))
        except ValueError:
            return None
        estimates |= dict.fromkeys((entry.run_id for entry in some), cost.seconds)
    return time_left(cells, estimates, profile).seconds


def without_seeds(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in groups that differ in the seed alone, and so have the same size and cost."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[json.dumps(but_seed(entry.coordinates), sort_keys=True)].append(entry)
    return list(groups.values())


def but_seed(coordinates: Mapping[str, Any]) -> dict[str, Any]:
    """The coordinates without the seed."""
    return {key: value for key, value in coordinates.items() if key != "train.seed"}


def _times(factors: Times, amount: float) -> Times:
    low, likely, high = factors
    return low * amount, likely * amount, high * amount
