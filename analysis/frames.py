"""Run files -> one `xarray.Dataset` of a sweep, and that dataset as netCDF-4.

    success, return, ...   (run, eval, task) float32   one variable per task metric of the run file
    random_success, ...    (run, task) float32         the same metrics of a uniform random policy
    critic_loss, ...       (run, eval) float64         one variable per run metric
    wall_seconds, ...      (run, eval) float64
    env_steps              (run, eval) int64           summed over tasks; -1 where there is no evaluation
    committed, planned     (run) int64                 evaluations
    parameters_actor, ...  (run) int64                 actor, critic, target, total (= actor + critic)
    outcome, config        (run)                       done, diverged, failed or unfinished; the whole configuration
    file, stamp            (run)                       where the run was read, and the file's mtime then
    coordinates on run     run_id, benchmark, system, tasks, actor_width, critic_width, seed, and each configuration
                           field that differs between the runs by its dotted name

What a run does not have is NaN. Where the runs fill a grid, `run` gives way to the dims benchmark, system,
actor_width, critic_width and seed; `to_runs` undoes that. A damaged or foreign file is named in the attribute
`skipped`, with the reason; it never stops the gathering. Where a sweep was gathered before (`dataset.nc`), only files
that have changed since are read again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from h5py import h5a, h5d, h5f, h5p, h5s, h5t
from numpy.typing import NDArray

from mtrl.config import SCHEMA_VERSION
from mtrl.results import COORDINATES, RunFileError, read_index
from mtrl.tasks import ALL_TASKS, benchmark_name

GRID_DIMS = ("benchmark", "system", "actor_width", "critic_width", "seed")
DATASET = "dataset.nc"  # beside the cells of a sweep
FORMAT = 1  # of the dataset; one of another format is made anew
FRESH = 2_000_000_000  # ns; a file written so short ago may be written again within the clock's tick

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
ATTRIBUTES = (
    "run_id",
    "code_version",
    *(f"parameters_{part}" for part in ("actor", "critic", "target", "total")),
)
_SAID = (
    "env.tasks",
    "train.seed",
    *(f"network.{p}.{f}" for p in ("actor", "critic") for f in ("width", "kind")),
)
_OTHER_AXES = ("metric", "run_metric", "clock")  # that become names of variables
_OF_HEADER = ("outcome", "config", "committed", "planned", "stamp")
_STRING = h5py.string_dtype()
_STRING_TYPE = h5t.py_create(_STRING)
_NATIVE = {
    "<f4": h5t.NATIVE_FLOAT,
    "<f8": h5t.NATIVE_DOUBLE,
    "<i8": h5t.NATIVE_INT64,
}  # made once: dear per call


class SweepError(ValueError):
    """A folder without runs; the message names it and the cure."""


def open_sweep(path: Path | str, *more: Path | str, progress: Progress | None = None) -> xr.Dataset:
    """The runs under `path` (`runs/<sweep>`, or any folder of run files), as the module describes.

    With `more` sweeps, the runs of all of them, with a coordinate `sweep`. Raises SweepError for a missing folder and
    for one without a readable run file.
    """
    roots = [Path(root) for root in (path, *more)]
    files = [(root, file) for root in roots for file in run_files(root)]
    runs = _Runs([file for _, file in files])
    earlier = _read_earlier(roots[0], runs) if len(roots) == 1 else set()
    for number in range(len(files)):
        if number not in earlier:
            runs.read(number)
        if progress:
            progress(number + 1, len(files))
    if not any(runs.headers):
        raise SweepError(f"no file under {path} can be read: {'; '.join(runs.skipped[:3])}")
    names = [str(file.relative_to(root)) for root, file in files]
    dataset = runs.dataset(names, [root.name for root, _ in files] if more else None)
    dataset.attrs |= {"source": ", ".join(map(str, roots)), "skipped": runs.skipped, "format": FORMAT}
    return to_grid(dataset)


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
    if places != sorted(places):  # a sweep as it is gathered is sorted: then nothing is copied
        dataset = dataset.isel(run=sorted(range(len(places)), key=places.__getitem__))
    runs = dataset.drop_vars([*GRID_DIMS, "run"])
    coordinates = {name: _unfold(value, shape) for name, value in runs.coords.items()}
    grid = runs.map(_unfold, args=(shape,)).assign_attrs(dataset.attrs)
    return grid.assign_coords(coordinates | dict(zip(GRID_DIMS, axes, strict=True)))


def to_runs(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with a flat `run` dim, whichever form it has."""
    if "run" in dataset.dims:
        return dataset
    shape = tuple(dataset.sizes[dim] for dim in GRID_DIMS)
    values = np.meshgrid(*(dataset[dim].values for dim in GRID_DIMS), indexing="ij")
    places = {dim: ("run", value.ravel()) for dim, value in zip(GRID_DIMS, values, strict=True)}
    grid = dataset.drop_vars(GRID_DIMS)
    coordinates = {name: _fold(value) for name, value in grid.coords.items()}
    runs = grid.map(_fold).assign_attrs(dataset.attrs)
    return runs.assign_coords(coordinates | places | {"run": range(int(np.prod(shape)))})


def _unfold(array: xr.DataArray, shape: tuple[int, ...]) -> xr.DataArray:
    """The array with the grid's dims in the place of `run`; a view."""
    if "run" not in array.dims:
        return array
    values = array.values.reshape(*shape, *array.shape[1:])
    return xr.DataArray(values, dims=(*GRID_DIMS, *array.dims[1:]), attrs=array.attrs)


def _fold(array: xr.DataArray) -> xr.DataArray:
    if GRID_DIMS[0] not in array.dims:
        return array
    values = array.values.reshape(-1, *array.shape[len(GRID_DIMS) :])
    return xr.DataArray(values, dims=("run", *array.dims[len(GRID_DIMS) :]), attrs=array.attrs)


@dataclass(frozen=True)
class _Header:
    """What a run file says of itself, its arrays apart."""

    labels: Labels
    attributes: dict[str, Any]
    config_text: str
    config: dict[str, Any]
    planned: int
    committed: int
    outcome: str
    stamp: int  # the file's mtime in ns; 0 where it may still change within the clock's tick


class _Runs:
    """The arrays of all runs, each file in its place; they grow when a file brings a new task, metric or evaluation.

    Room for all files is taken at once: memory that nothing has been written to costs nothing.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.headers: list[_Header | None] = [None] * len(files)
        self.skipped: list[str] = []
        self.labels: Labels = dict.fromkeys(("eval", *COORDINATES), ())
        self.arrays = {name: np.empty(0, _TYPES[name]) for name in _AXES}

    def read(self, run: int) -> None:
        """Reads file number `run`, or notes why it cannot be read."""
        path = self.files[run]
        try:
            stamp = _stamp(path)
            with _open(path) as file:
                header = _header(file, path, stamp)
                self.make_room(header.labels)
                for name in _AXES:
                    self._read(file, name, run, header)
            self.headers[run] = header
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            known = isinstance(error, RunFileError)
            self.skipped.append(str(error) if known else f"{path} is not a readable run file: {error}")

    def make_room(self, labels: Labels) -> None:
        """Widens the axes so that they hold `labels` too."""
        union = {axis: _union(self.labels[axis], labels[axis]) for axis in labels}
        if union["task"] != labels["task"]:
            union["task"] = _task_order(union["task"])
        if union == self.labels:
            return
        filled = np.array([run for run, header in enumerate(self.headers) if header], int)
        for name, axes in _AXES.items():
            old = self.arrays[name]
            self.arrays[name] = np.empty(
                (len(self.files), *(len(union[axis]) for axis in axes)), _TYPES[name]
            )
            if len(filled):
                self.arrays[name][filled] = _missing(name)
                self.arrays[name][_place(filled, self.labels, union, axes)] = old[filled]
        self.labels = union

    def _read(self, file: h5f.FileID, name: str, run: int, header: _Header) -> None:
        axes = _AXES[name]
        row = self.arrays[name][run]
        if all(header.labels[axis] == self.labels[axis] for axis in axes):
            _read_into(file, name, row)
        else:
            part = np.empty([len(header.labels[axis]) for axis in axes], _TYPES[name])
            _read_into(file, name, part)
            row[...] = _missing(name)
            self.arrays[name][_place(np.array([run]), header.labels, self.labels, axes)] = part
        if axes[0] == "eval":
            row[header.committed :] = _missing(name)

    def take(self, earlier: h5py.File, rows: Sequence[int], into: Sequence[int]) -> None:
        """Fills the places `into` from those rows of an earlier dataset."""
        labels: Labels = {axis: tuple(json.loads(earlier.attrs[f"{axis}s"])) for axis in _OTHER_AXES}
        tasks = tuple(earlier["task"].asstr()[:])
        self.make_room(labels | {"eval": tuple(range(len(earlier["eval"]))), "task": tasks})
        for name, number, variable in self._variables():
            part = self._part(name, number)
            trailing = part.ndim - 1
            part[into] = _by_run(earlier[variable], trailing)[rows] if variable in earlier else _missing(name)
        known = {name: _by_run(earlier[name])[rows].tolist() for name in (*ATTRIBUTES, *_OF_HEADER)}
        for number, run in enumerate(into):
            complete = known["committed"][number] == known["planned"][number]
            diverged = known["outcome"][number] == "diverged"
            self.headers[run] = _Header(
                labels=labels,
                attributes={name: known[name][number] for name in ATTRIBUTES},
                config_text=known["config"][number],
                config=json.loads(known["config"][number]),
                planned=known["planned"][number],
                committed=known["committed"][number],
                outcome=_outcome(self.files[run], complete=complete, diverged=diverged),
                stamp=known["stamp"][number],
            )

    def _variables(self) -> Iterator[tuple[str, int | None, str]]:
        """(array, place on its metric axis, name of the dataset's variable)."""
        yield "env_steps", None, "env_steps"
        for axis, name, prefix in (
            ("metric", "per_task", ""), ("metric", "random_policy", "random_"), ("run_metric", "per_run", ""),
            ("clock", "timing", ""),
        ):  # fmt: skip
            for number, metric in enumerate(self.labels[axis]):
                yield name, number, f"{prefix}{metric}"

    def _part(self, name: str, number: int | None) -> NDArray[Any]:
        """A view of the array, of one metric where `number` is given."""
        if number is None:
            return self.arrays[name]
        where = 1 + _AXES[name].index(next(axis for axis in _AXES[name] if axis not in ("eval", "task")))
        return self.arrays[name][(slice(None),) * where + (number,)]

    def dataset(self, names: Sequence[str], sweeps: Sequence[str] | None) -> xr.Dataset:
        """All runs that could be read, over the flat dim `run`."""
        known = {run: header for run, header in enumerate(self.headers) if header}
        here = sorted(known, key=lambda run: (*_grid_place(known[run]), names[run]))
        headers = [known[run] for run in here]
        order = [*here, *(run for run in range(len(self.files)) if run not in known)]
        for array in self.arrays.values():
            _reorder(array, order)
        variables: dict[str, Any] = {}
        for name, number, variable in self._variables():
            values = self._part(name, number)[: len(here)]
            if not (name == "random_policy" and np.isnan(values).all()):
                variables[variable] = (
                    ("run", *(axis for axis in _AXES[name] if axis in ("eval", "task"))),
                    values,
                )
        for attribute in ATTRIBUTES[1:]:
            variables[attribute] = ("run", [header.attributes[attribute] for header in headers])
        variables |= {
            "committed": ("run", [header.committed for header in headers]),
            "planned": ("run", [header.planned for header in headers]),
            "outcome": ("run", [header.outcome for header in headers]),
            "config": ("run", [header.config_text for header in headers]),
            "file": ("run", [names[run] for run in here]),
            "stamp": ("run", [header.stamp for header in headers]),
        }
        coordinates = {name: ("run", values) for name, values in _coordinates(headers).items()}
        if sweeps:
            coordinates["sweep"] = ("run", [sweeps[run] for run in here])
        axes = {
            "run": range(len(here)),
            "eval": range(len(self.labels["eval"])),
            "task": list(self.labels["task"]),
        }
        lists = {f"{axis}s": json.dumps(self.labels[axis]) for axis in _OTHER_AXES}
        return xr.Dataset(variables, axes | coordinates, lists)


def _union(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    return old if new == old else (*old, *(label for label in new if label not in old))


def _task_order(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The tasks in the order of MT50; names that are not there come last, in the order given."""
    known = {task: number for number, task in enumerate(ALL_TASKS)}
    return tuple(sorted(tasks, key=lambda task: known.get(task, len(known))))


def _place(runs: NDArray[Any], labels: Labels, into: Labels, axes: Sequence[str]) -> tuple[NDArray[Any], ...]:
    """Indices that put an array over `labels` of these runs into one over the labels `into`."""
    positions = [np.array([into[axis].index(label) for label in labels[axis]], int) for axis in axes]
    return np.ix_(runs, *positions)


def _by_run(variable: h5py.Dataset, trailing: int = 0) -> NDArray[Any]:
    """Values with the dims before the last `trailing`, run or the grid's, as one."""
    values = variable.asstr()[()] if h5py.check_string_dtype(variable.dtype) else variable[()]
    shape = values.shape[values.ndim - trailing :]
    return np.asarray(values).reshape(-1, *shape)


def _read_earlier(root: Path, runs: _Runs) -> set[int]:
    """Takes from `root`'s earlier dataset the runs whose files are still the same; returns their numbers."""
    same: dict[int, int] = {}
    try:
        with h5py.File(root / DATASET) as earlier:
            if earlier.attrs["format"] != FORMAT:
                return set()
            stamps = zip(_by_run(earlier["file"]).tolist(), _by_run(earlier["stamp"]).tolist(), strict=True)
            known = {file: (row, stamp) for row, (file, stamp) in enumerate(stamps)}
            for number, file in enumerate(runs.files):
                row, stamp = known.get(str(file.relative_to(root)), (-1, 0))
                if stamp and stamp == _stamp(file):
                    same[number] = row
            if same:
                runs.take(earlier, list(same.values()), list(same))
    except (OSError, KeyError, ValueError):
        return set()  # none, or not ours: everything is read
    return set(same)


def _missing(name: str) -> float | int:
    return -1 if name == "env_steps" else np.nan


def _reorder(array: NDArray[Any], order: Sequence[int]) -> None:
    """array = array[order] in place, with room for one row."""
    done = [False] * len(order)
    for start in range(len(order)):
        if done[start] or order[start] == start:
            continue
        first = array[start].copy()
        place = start
        while order[place] != start:
            array[place] = array[order[place]]
            done[place] = True
            place = order[place]
        array[place] = first
        done[place] = True


def _grid_place(header: _Header) -> tuple[Any, ...]:
    """Where the run stands along GRID_DIMS."""
    config, network = header.config, header.config["network"]
    kinds = [str(network[part]["kind"]) for part in ("actor", "critic")]
    return (
        benchmark_name(tuple(config["env"]["tasks"])),
        kinds[0] if kinds[0] == kinds[1] else "/".join(kinds),
        network["actor"]["width"],
        network["critic"]["width"],
        config["train"]["seed"],
    )


def _coordinates(headers: Sequence[_Header]) -> dict[str, list[Any]]:
    places = zip(*map(_grid_place, headers), strict=True)
    coordinates: dict[str, list[Any]] = {
        "run_id": [header.attributes["run_id"] for header in headers],
        "tasks": [len(header.config["env"]["tasks"]) for header in headers],
        **{dim: list(values) for dim, values in zip(GRID_DIMS, places, strict=True)},
    }
    fields = [_flat(header.config) for header in headers]
    for name in dict.fromkeys(name for field in fields for name in field):
        values = [field.get(name) for field in fields]
        if name not in _SAID and not name.startswith("run.") and any(value != values[0] for value in values):
            plain = all(type(value) is type(values[0]) for value in values)
            coordinates[name] = values if plain else list(map(str, values))
    return coordinates


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


def _header(file: h5f.FileID, path: Path, stamp: int) -> _Header:
    if not h5a.exists(file, b"schema_version"):
        raise RunFileError(f"{path} is an HDF5 file but not a run file")
    schema = np.empty((), np.int64)
    h5a.open(file, b"schema_version").read(schema, _NATIVE["<i8"])
    if schema != SCHEMA_VERSION:
        raise RunFileError(f"{path} has schema {schema}; this version of mtrl reads schema {SCHEMA_VERSION}")
    index = json.loads(_text(file, "index")) if h5a.exists(file, b"index") else read_index(h5py.File(file))
    text = _text(file, "config")
    committed = np.empty((), np.int64)
    _read_into(file, "committed", committed)  # before the rows: what it counts is whole
    planned = h5d.open(file, b"env_steps").get_storage_size() // 8
    labels = {name: tuple(values) for name, values in index["coordinates"].items()}
    return _Header(
        labels=labels | {"eval": tuple(range(planned))},
        attributes={name: index["attributes"][name] for name in ATTRIBUTES},
        config_text=text,
        config=json.loads(text),
        planned=planned,
        committed=int(committed),
        outcome=_outcome(
            path, complete=int(committed) == planned, diverged=h5a.exists(file, b"diverged_at_vector_step")
        ),
        stamp=stamp,
    )


def _stamp(path: Path) -> int:
    """The file's mtime in ns, or 0 when it is so young that a later write might not move it."""
    written = path.stat().st_mtime_ns
    return written if time.time_ns() - written > FRESH else 0


def _outcome(path: Path, *, complete: bool, diverged: bool) -> str:
    """done, diverged, failed or unfinished: by the run file, then by the cell's marker beside it."""
    if diverged:
        return "diverged"
    try:
        return str(json.loads((path.parent / "DONE.json").read_bytes())["outcome"])
    except (OSError, ValueError, KeyError):
        if (path.parent / "FAILED.json").exists():
            return "failed"
        return "done" if complete else "unfinished"


def _text(file: h5f.FileID, name: str) -> str:
    value = np.empty((), _STRING)
    h5a.open(file, name.encode()).read(value, _STRING_TYPE)
    text: bytes = value.item()
    return text.decode()


def _read_into(file: h5f.FileID, name: str, out: NDArray[Any]) -> None:
    dataset = h5d.open(file, name.encode())
    if dataset.get_storage_size() != out.nbytes:
        raise ValueError(f"{name} holds {dataset.get_storage_size()} bytes, not {out.nbytes}")
    dataset.read(h5s.ALL, h5s.ALL, out, _NATIVE[out.dtype.str])
