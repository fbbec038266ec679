"""What the words of the command line ask for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from mtrl.names import nearest
from slurm.profiles import Profile, load_profile
from slurm.survey import survey
from sweeps.grid import Cell, GridError, expand, load_grid, override
from sweeps.manifest import recorded_cells
from sweeps.plan import calibrate, device_hours, plan_cells

EXECUTORS = ("inline", "local", "slurm")
NAMED = ("grid", "executor", "profile", "preset")


@dataclass(frozen=True)
class Request:
    """Cells, where they go and who runs them."""

    cells: list[Cell]
    sweep: Path
    executor: str  # one of EXECUTORS
    profile: Profile | None  # always there for slurm
    named: bool  # whether the words name an executor or a profile


def read_request(words: Sequence[str], runs: Path, name: str | None) -> Request:
    """The request in `words`. Raises GridError or ProfileError for what is unknown, with the nearest names."""
    named = dict.fromkeys(NAMED, "")
    overrides = []
    for word in words:
        key, _, value = word.partition("=")
        if key in named:
            named[key] = value
        else:
            overrides.append(word)
    if not named["grid"]:
        raise GridError(f"no grid named{nearest(words[0], ['grid=smoke'])}; write grid=smoke")
    profile = load_profile(named["profile"]) if named["profile"] else None
    executor = named["executor"] or ("slurm" if profile else "local")
    if executor not in EXECUTORS:
        raise GridError(
            f"no executor '{executor}'{nearest(executor, EXECUTORS)}; there are: {', '.join(EXECUTORS)}"
        )
    if executor == "slurm" and profile is None:
        raise GridError("executor=slurm needs a profile of the cluster; write profile=NAME (docs/cluster.md)")
    grid = load_grid(named["grid"])
    if named["preset"]:
        grid = grid.model_copy(update={"preset": named["preset"]})
    if name is not None and (name in ("", ".", "..") or "/" in name or not name.isprintable()):
        raise GridError(f"--name {name!r} is no name of a folder; write one without slashes")
    sweep = runs / (name or grid.name)
    cells = recorded_cells(sweep, expand(override(grid, overrides)))
    return Request(cells, sweep, executor, profile, bool(named["executor"] or profile))


def why_slow_on_gpus(request: Request) -> str:
    """Why jobs with GPUs would train by plain torch, many times slower, where the request did not ask for it.

    Empty where they would not, or where they run another Python than this one.
    """
    profile = request.profile
    if not (profile and profile.gpus) or profile.python or profile.container:
        return ""
    configs = [cell.config for cell in request.cells]
    if all(config.agent.backend == "torch" or config.run.device == "cpu" for config in configs):
        return ""
    if importlib.import_module("mtrl._core").cuda_build() is not None:
        return ""
    return (
        f"profile '{profile.name}' asks for GPUs, and mtrl was built here without CUDA kernels: its jobs would run on "
        "plain torch. Build them with `make build CUDA=1`, or say --without-kernels"
    )


def approve(
    request: Request, max_hours: float | None, ask_above: float | None, *, without_kernels: bool = False
) -> None:
    """Refuses more hours than `max_hours`, and jobs with GPUs of a build without CUDA kernels unless `without_kernels`;
    before a launch on Slurm asks about more than `ask_above`."""
    if not without_kernels and (slow := why_slow_on_gpus(request)):
        raise GridError(slow)
    planned = plan_cells(request.cells, gpu=bool(request.profile and request.profile.gpus))
    found = survey(request.sweep, [cell.run_id for cell in request.cells], None)
    finished = {cell.run_id: cell.marker for cell in found.cells.values() if cell.finished}
    left = [item for item in planned if item.cell.run_id not in finished]
    hours = device_hours(left, request.profile) * calibrate(planned, finished)[1]
    kind = "GPU" if request.profile and request.profile.gpus else "core"
    if max_hours is not None and hours > max_hours:
        raise ValueError(f"about {hours:,.0f} {kind} hours are more than --max-gpu-hours {max_hours:,.0f}; "
                         "take a smaller grid or raise the cap")  # fmt: skip
    if request.executor == "slurm" and ask_above is not None and hours > ask_above:
        question = f"This takes about {hours:,.0f} {kind} hours. Launch?"
        if not sys.stdin.isatty():
            raise ValueError(
                f"about {hours:,.0f} {kind} hours; say --yes to launch so much without being asked"
            )
        click.confirm(question, abort=True)
