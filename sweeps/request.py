"""A request to launch, from the words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl.names import nearest
from slurm.profiles import Profile, load_profile
from sweeps.grid import Cell, GridError, combinations, expand, load_grid, override
from sweeps.manifest import recorded_cells
from sweeps.question import confirm
from sweeps.shard import take_shard

EXECUTORS = ("inline", "local", "slurm")
LONGEST_NAME = 200  # bytes: file systems take 255, and files beside the folder add to it
ASK_ABOVE_CELLS = 100_000
NAMED = ("grid", "executor", "profile", "preset")


@dataclass(frozen=True)
class Request:
    """The cells, the folder of their sweep, and the executor that runs them."""

    cells: list[Cell]
    sweep: Path
    executor: str  # one of EXECUTORS
    profile: Profile | None  # never None for slurm
    named: bool  # whether the words name an executor or a profile
    found: Profile | None = (
        None  # of a cluster that no profile describes yet; saved as `default` with the launch
    )


def read_request(
    words: Sequence[str], runs: Path, name: str | None, *, shard: str | None = None, yes: bool = True
) -> Request:
    """The request in `words`. Raises GridError or ProfileError, with the nearest names, for an unknown word.

    `shard`, like 1/2, keeps only the cells of that shard. Writing more than ASK_ABOVE_CELLS cells takes minutes, so it
    asks first, unless `yes`.
    """
    named, overrides = _split(words)
    executor, profile = _who_runs(named["executor"], named["profile"])
    grid = load_grid(named["grid"])
    if named["preset"]:
        grid = grid.model_copy(update={"preset": named["preset"]})
    sweep = runs / (grid.name if name is None else _folder_name(name))
    grid = override(grid, overrides)
    if (count := combinations(grid)) > ASK_ABOVE_CELLS:
        confirm(f"Grid '{grid.name}' has {count:,} cells.", yes=yes)
    cells = expand(grid)
    if shard:
        cells = take_shard(cells, shard)
    cells = recorded_cells(sweep, cells)
    return Request(cells, sweep, executor, profile, bool(named["executor"] or profile))


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The values of grid=, executor=, profile= and preset= (empty if not given), and the other words."""
    named, overrides = dict.fromkeys(NAMED, ""), []
    for word in words:
        key, _, value = word.partition("=")
        if key in named:
            named[key] = value
        else:
            overrides.append(word)
    if not named["grid"]:
        raise GridError(f"no grid named{nearest(words[0], ['grid=smoke'])}; write grid=smoke")
    return named, overrides


def _who_runs(executor: str, profile_name: str) -> tuple[str, Profile | None]:
    profile = load_profile(profile_name) if profile_name else None
    executor = executor or ("slurm" if profile else "local")
    if executor not in EXECUTORS:
        raise GridError(
            f"no executor '{executor}'{nearest(executor, EXECUTORS)}; there are: {', '.join(EXECUTORS)}"
        )
    if executor == "slurm" and profile is None:
        raise GridError("executor=slurm needs a profile of the cluster; write profile=NAME (docs/cluster.md)")
    return executor, profile


def _folder_name(name: str) -> str:
    if len(name.encode()) > LONGEST_NAME:
        raise GridError(f"--name is {len(name)} characters long; write one of at most {LONGEST_NAME}")
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise GridError(f"--name {name!r} is no name of a folder; write one without slashes")
    return name
