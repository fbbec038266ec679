"""What stands under a path that is gathered: the run files of a sweep, or a dataset that was kept of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from analysis.errors import SweepError
from analysis.sources import kept_dataset
from mtrl.run_ids import flatten

FORMAT = 2  # of the dataset; one of another format is not used but made again


@dataclass(frozen=True)
class Root:
    """The runs under one path. Of a kept dataset, `files` are the paths they had, in the order of its rows.

    A sweep without a manifest has nothing derived and no variables.
    """

    folder: Path
    files: Sequence[Path]
    derived: set[str]  # configuration fields that the grid computed from others
    variables: dict[str, dict[str, str]]  # run id -> the grid's own variables, which are no fields
    kept: Path | None = None


def root_of(path: Path) -> Root:
    """What stands under `path`. Raises SweepError if there is nothing, or a dataset that cannot be read."""
    kept = kept_dataset(path)
    if kept is not None:
        return _of_dataset(kept)
    files, entries = run_files(path), _manifest(path)
    axes = {name for entry in entries for name in entry["coordinates"]}
    fields = [flatten(entry["config"]) for entry in entries] or [{}]
    derived = {name for name in fields[0] if any(each.get(name) != fields[0][name] for each in fields)} - axes
    variables = {entry["run_id"]: _own(entry["coordinates"]) for entry in entries}
    return Root(path, files, derived, variables)


def run_files(folder: Path) -> list[Path]:
    """The run files of the sweep `folder`, sorted. In a folder without `cells`: every HDF5 file below it.

    Raises SweepError if there is none.
    """
    if not folder.is_dir():
        raise SweepError(f"no folder {folder}; name a sweep, as in runs/smoke")
    cells = folder / "cells"
    if cells.is_dir():
        with os.scandir(cells) as entries:
            found = [Path(entry.path, "run.h5") for entry in entries if entry.is_dir()]
        files = [file for file in found if file.exists()]
    else:
        files = list(folder.rglob("*.h5"))
    if not files:
        raise SweepError(f"no run files under {folder} yet; run the sweep first, or name another folder")
    return sorted(files)


def by_run(variable: h5py.Dataset, trailing: int = 0) -> NDArray[Any]:
    """A variable of a dataset's file, with all dims but the last `trailing` (run, or the grid's) folded into one."""
    values = variable.asstr()[()] if h5py.check_string_dtype(variable.dtype) else variable[()]
    shape = values.shape[values.ndim - trailing :]
    return np.asarray(values).reshape(-1, *shape)


def _of_dataset(kept: Path) -> Root:
    if not kept.exists():
        raise SweepError(f"no file {kept}; name a dataset that was kept, or a sweep, as in runs/smoke")
    try:
        with h5py.File(kept) as file:
            if file.attrs["format"] != FORMAT:
                raise SweepError(f"{kept} was kept by another version of mtrl; analyse it alone")
            files = [kept.parent / name for name in by_run(file["file"])]
            own = {
                name.removeprefix("grid."): by_run(file[name]) for name in file if name.startswith("grid.")
            }
            variables = {
                run: {name: values[row] for name, values in own.items()}
                for row, run in enumerate(by_run(file["run_id"]))
            }
            return Root(kept.parent, files, set(json.loads(file.attrs["derived"])), variables, kept)
    except (OSError, KeyError, ValueError) as error:
        raise SweepError(f"{kept} is not a dataset of run files: {error}") from None


def _own(coordinates: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in coordinates.items() if "." not in name and name != "system"}


def _manifest(folder: Path) -> list[dict[str, Any]]:
    """The undamaged lines of a sweep's manifest; none if there is no manifest."""
    entries = []
    with suppress(OSError):
        for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                entries.append({name: entry[name] for name in ("run_id", "coordinates", "config")})
    return entries
