"""Run files -> one `xarray.Dataset` of a sweep, and that dataset as netCDF-4.

    success, return, ...   (run, eval, task) float32   one variable per task metric of the run file
    random_success, ...    (run, task) float32         the same metrics of a uniform random policy
    critic_loss, ...       (run, eval) float64         one variable per run metric
    wall_seconds, ...      (run, eval) float64
    env_steps              (run, eval) int64           summed over tasks; -1 where there is no evaluation
    committed, planned     (run) int64                 evaluations
    parameters_actor, ...  (run) int64                 actor, critic, target, total (= actor + critic)
    outcome, config, ...   (run)                       done, diverged, failed or unfinished; the whole configuration
    coordinates on run     run_id, benchmark, system, tasks, actor_width, critic_width, seed, and each configuration
                           field that differs between the runs by its dotted name

What a run does not have is NaN. Where the runs fill a grid, `run` gives way to the dims benchmark, system,
actor_width, critic_width and seed; `to_runs` undoes that. A damaged or foreign file is named in the attribute
`skipped`, with the reason; it never stops the gathering.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from h5py import h5a, h5d, h5f, h5p, h5s
from numpy.typing import NDArray

from mtrl.config import SCHEMA_VERSION
from mtrl.results import RunFileError
from mtrl.tasks import ALL_TASKS, benchmark_name

GRID_DIMS = ("benchmark", "system", "actor_width", "critic_width", "seed")
DATASET = "dataset.nc"  # beside the cells of a sweep

Progress = Callable[[int, int], None]  # (files read, files there are)
Labels = dict[str, tuple[Any, ...]]  # axis -> what stands along it

# The arrays of a run file, and the axes of each.
_AXES = {
    "per_task": ("eval", "metric", "task"),
    "per_run": ("eval", "run_metric"),
    "timing": ("eval", "clock"),
    "env_steps": ("eval",),
    "random_policy": ("metric", "task"),
}
_TYPES = {"per_task": "f4", "per_run": "f8", "timing": "f8", "env_steps": "i8", "random_policy": "f4"}
_ATTRIBUTES = (
    "run_id",
    "code_version",
    *(f"parameters_{part}" for part in ("actor", "critic", "target", "total")),
)


class SweepError(ValueError):
    """A folder without runs; the message names it and the cure."""


def open_sweep(path: Path | str, *, progress: Progress | None = None) -> xr.Dataset:
    """The runs under `path` (`runs/<sweep>`, or any folder of run files), as the module describes.

    Raises SweepError for a missing folder and for one without a readable run file.
    """
    root = Path(path)
    files = run_files(root)
    runs = _Runs(capacity=len(files))
    for number, file in enumerate(files):
        runs.add(file)
        if progress:
            progress(number + 1, len(files))
    if not runs.headers:
        raise SweepError(f"no file under {root} can be read: {'; '.join(runs.skipped[:3])}")
    dataset = to_grid(runs.dataset())
    dataset.attrs |= {"source": str(root), "skipped": runs.skipped}
    return dataset


def run_files(root: Path) -> list[Path]:
    """The run files of the sweep `root`, sorted; of a folder without `cells`, every HDF5 file below it.

    Raises SweepError where there is none.
    """
    if not root.is_dir():
        raise SweepError(f"no folder {root}; name a sweep, as in runs/smoke")
    cells = root / "cells"
    if cells.is_dir():
        with os.scandir(cells) as entries:
            found = [Path(entry.path, "run.h5") for entry in entries if entry.is_dir()]
        files = [file for file in found if file.exists()]
    else:
        files = list(root.rglob("*.h5"))
    if not files:
        raise SweepError(f"no run files under {root} yet; run the sweep first, or name another folder")
    return sorted(files)


def save(dataset: xr.Dataset, path: Path) -> None:
    """Writes `dataset` as netCDF-4. The file appears under `path` only when it is whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        text = {"skipped": "\n".join(dataset.attrs.get("skipped", []))}
        dataset.assign_attrs(text).to_netcdf(unfinished, engine="h5netcdf")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> xr.Dataset:
    """A dataset that `save` wrote, in memory."""
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        dataset.load()
    dataset.attrs["skipped"] = [line for line in str(dataset.attrs["skipped"]).split("\n") if line]
    return dataset


def to_grid(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset over its grid dims where every combination of their values is exactly one run, else as it is."""
    places = list(zip(*(dataset[dim].values.tolist() for dim in GRID_DIMS), strict=True))
    axes = [sorted(set(values)) for values in zip(*places, strict=True)]
    shape = tuple(map(len, axes))
    if len(set(places)) < len(places) or np.prod(shape) != len(places):
        return dataset
    place_of = {place: number for number, place in enumerate(places)}
    order = [place_of[tuple(place)] for place in itertools.product(*axes)]
    sorted_runs = dataset.isel(run=order).drop_vars([*GRID_DIMS, "run"])
    grid = sorted_runs.map(_unfold, args=(shape,)).assign_attrs(dataset.attrs)
    coordinates = {name: _unfold(value, shape) for name, value in sorted_runs.coords.items()}
    return grid.assign_coords(coordinates | dict(zip(GRID_DIMS, axes, strict=True)))


def to_runs(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with a flat `run` dim, whichever form it has."""
    if "run" in dataset.dims:
        return dataset
    flat = dataset.stack(run=GRID_DIMS).reset_index("run")
    return flat.transpose("run", "eval", "task").assign_coords(run=np.arange(flat.sizes["run"]))


def _unfold(array: xr.DataArray, shape: tuple[int, ...]) -> xr.DataArray:
    if "run" not in array.dims:
        return array
    values = array.values.reshape(*shape, *array.shape[1:])
    return xr.DataArray(values, dims=(*GRID_DIMS, *array.dims[1:]), attrs=array.attrs)


@dataclass(frozen=True)
class _Header:
    """What a run file says of itself, its arrays apart."""

    labels: Labels
    attributes: dict[str, Any]
    config_text: str
    config: dict[str, Any]
    committed: int
    outcome: str


class _Runs:
    """The arrays of all runs, filled file by file; they grow when a file brings a new task, metric or evaluation.

    Room for `capacity` runs is taken at once: memory that nothing has been written to costs nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.headers: list[_Header] = []
        self.skipped: list[str] = []
        self.labels: Labels = dict.fromkeys(("eval", "metric", "task", "run_metric", "clock"), ())
        self.arrays = {name: np.empty(0, _TYPES[name]) for name in _AXES}

    def add(self, path: Path) -> None:
        """Reads the file at `path`, or notes why it cannot be read."""
        try:
            with _open(path) as file:
                header = _header(file, path)
                self._make_room(header.labels)
                for name in _AXES:
                    self._read(file, name, header)
            self.headers.append(header)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            reason = (
                str(error)
                if isinstance(error, RunFileError)
                else f"{path} is not a readable run file: {error}"
            )
            self.skipped.append(reason)

    def _make_room(self, labels: Labels) -> None:
        union = {axis: _union(self.labels[axis], labels[axis]) for axis in labels}
        if union["task"] != labels["task"]:
            union["task"] = _task_order(union["task"])
        if union == self.labels:
            return
        filled = len(self.headers)
        for name, axes in _AXES.items():
            old = self.arrays[name]
            self.arrays[name] = np.empty((self.capacity, *(len(union[axis]) for axis in axes)), _TYPES[name])
            if filled:
                self.arrays[name][:filled] = _missing(name)
                self.arrays[name][_place(slice(filled), self.labels, union, axes)] = old[:filled]
        self.labels = union

    def _read(self, file: h5f.FileID, name: str, header: _Header) -> None:
        run = len(self.headers)
        axes = _AXES[name]
        row = self.arrays[name][run]
        if all(header.labels[axis] == self.labels[axis] for axis in axes):
            _read_into(file, name, row)
        else:
            part = np.empty([len(header.labels[axis]) for axis in axes], _TYPES[name])
            _read_into(file, name, part)
            row[...] = _missing(name)
            self.arrays[name][_place(slice(run, run + 1), header.labels, self.labels, axes)] = part
        if axes[0] == "eval":
            row[header.committed :] = _missing(name)

    def dataset(self) -> xr.Dataset:
        """All runs over the flat dim `run`."""
        runs = len(self.headers)
        arrays = {name: array[:runs] for name, array in self.arrays.items()}
        variables: dict[str, Any] = {"env_steps": (("run", "eval"), arrays["env_steps"])}
        for number, metric in enumerate(self.labels["metric"]):
            variables[metric] = (("run", "eval", "task"), arrays["per_task"][:, :, number])
            if not np.isnan(arrays["random_policy"][:, number]).all():
                variables[f"random_{metric}"] = (("run", "task"), arrays["random_policy"][:, number])
        for name, axis in (("per_run", "run_metric"), ("timing", "clock")):
            for number, metric in enumerate(self.labels[axis]):
                variables[metric] = (("run", "eval"), arrays[name][:, :, number])
        for attribute in _ATTRIBUTES[1:]:
            variables[attribute] = ("run", [header.attributes[attribute] for header in self.headers])
        variables["committed"] = ("run", [header.committed for header in self.headers])
        variables["planned"] = ("run", [len(header.labels["eval"]) for header in self.headers])
        variables["outcome"] = ("run", [header.outcome for header in self.headers])
        variables["config"] = ("run", [header.config_text for header in self.headers])
        coordinates = {name: ("run", values) for name, values in _coordinates(self.headers).items()}
        return xr.Dataset(
            variables,
            {"run": np.arange(runs), "eval": np.arange(len(self.labels["eval"])), "task": list(self.labels["task"]),
             **coordinates},
        )  # fmt: skip


def _union(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    return old if new == old else (*old, *(label for label in new if label not in old))


def _task_order(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The tasks in the order of MT50; names that are not there come last, in the order given."""
    known = {task: number for number, task in enumerate(ALL_TASKS)}
    return tuple(sorted(tasks, key=lambda task: known.get(task, len(known))))


def _place(runs: slice, labels: Labels, into: Labels, axes: Sequence[str]) -> tuple[NDArray[Any], ...]:
    """Indices that put an array over `labels` of these runs into one over the labels `into`."""
    positions = [np.array([into[axis].index(label) for label in labels[axis]], int) for axis in axes]
    return np.ix_(np.arange(runs.start or 0, runs.stop), *positions)


def _missing(name: str) -> float | int:
    return -1 if name == "env_steps" else np.nan


def _coordinates(headers: Sequence[_Header]) -> dict[str, list[Any]]:
    fields = [_flat(header.config) for header in headers]
    coordinates: dict[str, list[Any]] = {
        "run_id": [header.attributes["run_id"] for header in headers],
        "benchmark": [benchmark_name(tuple(header.config["env"]["tasks"])) for header in headers],
        "system": [_system(header.config) for header in headers],
        "tasks": [len(header.config["env"]["tasks"]) for header in headers],
        "actor_width": [header.config["network"]["actor"]["width"] for header in headers],
        "critic_width": [header.config["network"]["critic"]["width"] for header in headers],
        "seed": [header.config["train"]["seed"] for header in headers],
    }
    said = {"env.tasks", "train.seed", "network.actor.width", "network.critic.width", "network.actor.kind"}
    for name in fields[0]:
        values = [field.get(name) for field in fields]
        if name not in said and not name.startswith("run.") and any(value != values[0] for value in values):
            coordinates[name] = (
                values if all(type(v) is type(values[0]) for v in values) else list(map(str, values))
            )
    return coordinates


def _system(config: Mapping[str, Any]) -> str:
    """The kind of network; `actor kind/critic kind` where they differ."""
    kinds = [str(config["network"][part]["kind"]) for part in ("actor", "critic")]
    return kinds[0] if kinds[0] == kinds[1] else "/".join(kinds)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"agent.critics": 2, ...} of nested sections."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


# The low-level interface of h5py: the high-level one spends four times as long per file.


@contextmanager
def _open(path: Path) -> Iterator[h5f.FileID]:
    """The file, without a lock: its writer may be at work."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_file_locking(False, True)
    file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, access)
    try:
        yield file
    finally:
        file.close()


def _header(file: h5f.FileID, path: Path) -> _Header:
    if not h5a.exists(file, b"schema_version"):
        raise RunFileError(f"{path} is an HDF5 file but not a run file")
    schema = int(_attribute(file, "schema_version"))
    if schema != SCHEMA_VERSION:
        raise RunFileError(f"{path} has schema {schema}; this version of mtrl reads schema {SCHEMA_VERSION}")
    text = str(_attribute(file, "config"))
    labels: Labels = {axis: _strings(file, axis) for axis in ("metric", "task", "run_metric", "clock")}
    planned = h5d.open(file, b"env_steps").shape[0]
    committed = np.empty((), np.int64)
    _read_into(file, "committed", committed)  # before the rows: what it counts is whole
    return _Header(
        labels={"eval": tuple(range(planned)), **labels},
        attributes={name: _attribute(file, name) for name in _ATTRIBUTES},
        config_text=text,
        config=json.loads(text),
        committed=int(committed),
        outcome=_outcome(path, complete=int(committed) == planned),
    )


def _outcome(path: Path, *, complete: bool) -> str:
    """What the cell's marker beside the run file says; without a marker, whether all evaluations are there."""
    try:
        return str(json.loads((path.parent / "DONE.json").read_bytes())["outcome"])
    except (OSError, ValueError, KeyError):
        if (path.parent / "FAILED.json").exists():
            return "failed"
        return "done" if complete else "unfinished"


def _attribute(file: h5f.FileID, name: str) -> Any:
    attribute = h5a.open(file, name.encode())
    value = np.empty(attribute.shape, attribute.dtype)
    attribute.read(value)
    item: Any = value.item()
    return item.decode() if isinstance(item, bytes) else item


def _strings(file: h5f.FileID, name: str) -> tuple[str, ...]:
    dataset = h5d.open(file, name.encode())
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return tuple(value.decode() for value in values)


def _read_into(file: h5f.FileID, name: str, out: NDArray[Any]) -> None:
    dataset = h5d.open(file, name.encode())
    if dataset.shape != out.shape:
        raise ValueError(f"{name} has shape {dataset.shape}, not {out.shape}")
    dataset.read(h5s.ALL, h5s.ALL, out)
