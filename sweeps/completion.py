"""The words that a shell offers after Tab: grids, profiles, sweeps, run ids (docs/cluster.md: how to switch it on)."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import click


def complete_words(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Offers grid=..., profile=..., executor=..., the keys of a configuration, and ~key for keys that the grid sets.

    bash cuts words at `=`: for `grid=smo` it passes the words `grid` and `=` and asks to complete `smo`.
    """
    before = [str(word) for word in context.params.get("words") or ()]
    known = _known_words(" ".join(before).replace(" = ", "="), removing=incomplete.startswith("~"))
    key = ""
    if before[-1:] == ["="] and len(before) > 1:
        key = before[-2] + "="
    elif before and not incomplete and any(word.startswith(before[-1] + "=") for word in known):
        key = before[-1] + "="  # click removes a `=` at the end
    return [word.removeprefix(key) for word in known if word.startswith(key + incomplete)]


def complete_profile(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Offers profile=NAME for each profile."""
    words = complete_words(context, parameter, incomplete)
    return [word for word in words if word.startswith("profile=") or "=" not in word]


def complete_sweep(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Offers the names of the sweeps in the folder --runs."""
    names = (path.parent.name for path in _runs(context).glob("*/manifest.jsonl"))
    return sorted(name for name in names if name.startswith(incomplete))


def complete_cell(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Offers the run ids of the sweep that the command line names."""
    from sweeps.manifest import LaunchError, find_sweep, read_manifest

    with suppress(LaunchError):
        entries = read_manifest(find_sweep(str(context.params.get("name")), _runs(context)))
        return [entry.run_id for entry in entries if entry.run_id.startswith(incomplete)]
    return []


def _known_words(before: str, *, removing: bool) -> list[str]:
    from mtrl.overrides import field_keys
    from mtrl.presets import PRESETS
    from slurm.profiles import profile_names
    from sweeps.grid import GridError, grid_keys, grid_names, load_grid
    from sweeps.request import EXECUTORS

    if removing:
        named = re.search(r"grid=(\S+)", before)
        with suppress(GridError):
            return [f"~{key}" for key in (grid_keys(load_grid(named[1])) if named else field_keys())]
        return []
    words = [f"grid={name}" for name in grid_names()] + [f"profile={name}" for name in profile_names()]
    words += [f"executor={name}" for name in EXECUTORS] + [f"preset={name}" for name in PRESETS]
    return words + [f"{key}=" for key in field_keys()]


def _runs(context: click.Context) -> Path:
    return Path(context.params.get("runs") or "runs")
