"""Run files -> one `xarray.Dataset` of a sweep, and that dataset as netCDF-4.

    success, return, ...   (run, eval, task) float32   one variable per task metric of the run file
    random_success, ...    (run, task) float32         the same metrics of a uniform random policy
    critic_loss, ...       (run, eval) float64         one variable per run metric
    wall_seconds, ...      (run, eval) float64
    layer_dormant, _srank  (run, eval, batch, network, layer) float32   of plasticity, as the run file has it; not there
    task_dormant           (run, eval, batch, network, layer, task)     where no run has it
    gradient_norm, _cosine, _conflict   (run, eval, batch, network, task)
    env_steps              (run, eval) int64           summed over tasks; -1 where there is no evaluation
    committed, planned     (run) int64                 evaluations
    parameters_actor, ...  (run) int64                 actor, critic, target, total (= actor + critic)
    outcome, config        (run)                       done, diverged, failed or unfinished; the whole configuration
    diverged_at, _by       (run)                       vector step (-1: it did not) and the metric that showed it
    file, stamp            (run)                       the run's file, and its mtime when it was read
    coordinates on run     run_id, benchmark, system, tasks, actor_width, critic_width, seed, each configuration field
                           that differs between the runs by its dotted name, and `grid.<name>`, a grid's own variable

Values that a run does not have are NaN. If the runs fill a grid, the dims benchmark, system, actor_width, critic_width
and seed replace `run`; `to_runs` reverses that. A damaged or foreign file does not stop the gathering: the attribute
`skipped` names it, with the reason. A configuration of another version of mtrl is kept as it was stored. If a sweep was
gathered before (`dataset.nc`), only files that have changed since are read again.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from h5py import h5f
from numpy.typing import NDArray

from analysis.errors import SweepError
from analysis.gridding import GRID_DIMS, to_grid
from analysis.roots import FORMAT, Root, by_run, root_of
from analysis.run_reader import (
    ATTRIBUTES,
    Header,
    Labels,
    open_file,
    outcome_of,
    read_header,
    read_into,
    stamp_of,
)
from analysis.sources import DATASET
from mtrl.config import Config
from mtrl.results import ARRAYS, COORDINATES, PLASTICITY, RunFileError, missing
from mtrl.run_ids import flatten, run_id_of
from mtrl.tasks import ALL_TASKS, benchmark_name

RENAMED = {"multi_head": "mtmhsac"}  # kinds of networks that earlier versions named otherwise
LISTS = ("skipped", "repeated")  # attributes that are lists of lines
AT_ONCE = 5e-4  # s, at most, to read a file from the system's cache
READ_AHEAD = 16  # files that threads fetch from the disk while one is read

Progress = Callable[[int, int], None]  # (files read, files there are)
_SAID = (
    "env.tasks",
    "train.seed",
    *(f"network.{p}.{f}" for p in ("actor", "critic") for f in ("width", "kind")),
)
_OTHER_AXES = (
    "metric",
    "run_metric",
    "clock",
    "layer_metric",
    "gradient_metric",
)  # that become names of variables
_OF_PLASTICITY = ("batch", "network", "layer")
_OF_HEADER = ("outcome", "config", "committed", "planned", "diverged_at", "diverged_by", "stamp")


def open_sweep(path: Path | str, *more: Path | str, progress: Progress | None = None) -> xr.Dataset:
    """The dataset of the runs under `path` (`runs/<sweep>`, or any folder of run files), as the module describes.

    `path` may also be a dataset that was kept of them: its file, or a folder that holds it and no run files. With
    `more` paths it has the runs of all of them, and a coordinate `sweep`. Raises SweepError if there is nothing under a
    path or no run can be read.
    """
    roots = [root_of(Path(each)) for each in (path, *more)]
    files = [(root, file) for root in roots for file in root.files]
    runs = _Runs([file for _, file in files])
    for root in roots:
        _take_earlier(root, [number for number, (of, _) in enumerate(files) if of is root], runs)
    changed = [number for number, header in enumerate(runs.headers) if header is None]
    for done, number in enumerate(_read_ahead(changed, runs.files)):
        runs.read(number)
        if progress:
            progress(len(files) - len(changed) + done + 1, len(files))
    runs.forget_repeated()
    if not any(runs.headers):
        raise SweepError(f"no file under {path} can be read: {'; '.join(runs.skipped[:3])}")
    names = [str(file.relative_to(root.folder)) for root, file in files]
    dataset = runs.dataset(names, [root.folder.name for root, _ in files] if more else None)
    derived = set.intersection(*(root.derived for root in roots)) - set(_SAID)
    dataset.attrs |= {
        "source": ", ".join(dict.fromkeys(root.folder.resolve().name for root in roots)),
        "skipped": runs.skipped,
        "repeated": runs.repeated,
        "derived": json.dumps(sorted(derived)),
        "format": FORMAT,
    }
    return to_grid(dataset.assign_coords(_grid_variables(dataset, roots)))


def _grid_variables(dataset: xr.Dataset, roots: Sequence[Root]) -> dict[str, Any]:
    """Coordinates `grid.<name>` for the grids' own variables, which are no fields of a configuration."""
    of_run = {run: own for root in roots for run, own in root.variables.items()}
    found = {}
    for name in dict.fromkeys(name for own in of_run.values() for name in own):
        values = [of_run.get(run, {}).get(name, "") for run in dataset.run_id.values.tolist()]
        if len(set(values)) > 1:
            found[f"grid.{name}"] = ("run", values)
    return found


def _read_ahead(numbers: Sequence[int], files: Sequence[Path]) -> Iterator[int]:
    """Yields the numbers, while threads fetch the next files: on a cluster's disks most of the time is waiting.

    If the first files come at once, from the system's cache, no threads are used: they would only cost time.
    """
    start = time.perf_counter()
    for number in numbers[:READ_AHEAD]:
        _fetch(files[number])
    if time.perf_counter() - start < AT_ONCE * min(READ_AHEAD, len(numbers)):
        yield from numbers
        return
    with ThreadPoolExecutor(READ_AHEAD // 2) as pool:
        coming: deque[tuple[int, Future[None]]] = deque()
        for number in numbers:
            coming.append((number, pool.submit(_fetch, files[number])))
            if len(coming) > READ_AHEAD:
                yield _arrived(coming)
        while coming:
            yield _arrived(coming)


def _arrived(coming: deque[tuple[int, Future[None]]]) -> int:
    number, fetched = coming.popleft()
    fetched.result()
    return number


def _fetch(path: Path) -> None:
    """Reads the file into the system's cache. Errors are ignored: reading the file later reports them."""
    with suppress(OSError), path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def save(dataset: xr.Dataset, path: Path, *, compress: bool = False) -> None:
    """Writes `dataset` as netCDF-4, compressed if asked for. The file appears only when it is complete."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    numbers = [name for name, value in dataset.variables.items() if value.dtype.kind in "fi" and value.ndim]
    try:
        lists = {name: "\n".join(dataset.attrs.get(name, [])) for name in LISTS}
        dataset.assign_attrs(lists).to_netcdf(
            unfinished, engine="h5netcdf", encoding=dict.fromkeys(numbers, packed) if compress else None
        )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> xr.Dataset:
    """A dataset that `save` wrote, in memory. Raises SweepError if the file is no such dataset."""
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise SweepError(f"{path} is not a readable dataset: {error}") from None
    for name in LISTS:
        dataset.attrs[name] = [line for line in str(dataset.attrs.get(name, "")).split("\n") if line]
    return dataset


class _Runs:
    """The arrays of all runs, with a row for each file. They grow if a file has a new task, metric or evaluation.

    Memory for all files is allocated at once: it costs nothing until it is written.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.headers: list[Header | None] = [None] * len(files)
        self.skipped: list[str] = []
        self.repeated: list[str] = []
        self.labels: Labels = dict.fromkeys(("eval", *COORDINATES), ())
        self.arrays = {name: np.empty(0, dtype) for name, (_, dtype) in ARRAYS.items()}

    def read(self, run: int) -> None:
        """Reads file number `run`. If it cannot be read, adds the reason to `skipped`."""
        path = self.files[run]
        try:
            stamp = stamp_of(path)
            with open_file(path) as file:
                header = read_header(file, path, stamp)
                self.make_room(header.labels)
                for name in ARRAYS:
                    self._read(file, name, run, header)
            self.headers[run] = header
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            known = isinstance(error, RunFileError)
            self.skipped.append(str(error) if known else f"{path} is not a readable run file: {error}")

    def forget_repeated(self) -> None:
        """If several files have the same run, keeps the one with most evaluations and adds the others to `repeated`."""
        best: dict[str, int] = {}
        for number, header in enumerate(self.headers):
            if header is None:
                continue
            run = run_id_of(header.config)  # whatever an earlier version of mtrl named it
            first = best.setdefault(run, number)
            if first == number:
                continue
            held = self.headers[first]
            kept, other = (first, number) if held and held.committed >= header.committed else (number, first)
            best[run] = kept
            self.headers[other] = None
            self.repeated.append(f"{self.files[other]} is the same run as {self.files[kept]}, and read once")

    def make_room(self, labels: Labels) -> None:
        """Widens the axes so that they hold `labels` too."""
        union = {axis: _union(self.labels[axis], labels[axis]) for axis in labels}
        if union["task"] != labels["task"]:
            union["task"] = _task_order(union["task"])
        if union == self.labels:
            return
        filled = np.array([run for run, header in enumerate(self.headers) if header], int)
        for name, (axes, dtype) in ARRAYS.items():
            old = self.arrays[name]
            self.arrays[name] = np.empty((len(self.files), *(len(union[axis]) for axis in axes)), dtype)
            if len(filled):
                self.arrays[name][filled] = missing(name)
                self.arrays[name][_place(filled, self.labels, union, axes)] = old[filled]
        self.labels = union

    def _read(self, file: h5f.FileID, name: str, run: int, header: Header) -> None:
        axes, dtype = ARRAYS[name]
        row = self.arrays[name][run]
        if name in PLASTICITY and not header.labels["layer"]:  # a file of an earlier version
            row[...] = missing(name)
        elif all(header.labels[axis] == self.labels[axis] for axis in axes):
            read_into(file, name, row)
        else:
            part = np.empty([len(header.labels[axis]) for axis in axes], dtype)
            read_into(file, name, part)
            row[...] = missing(name)
            self.arrays[name][_place(np.array([run]), header.labels, self.labels, axes)] = part
        if axes[0] == "eval":
            row[header.committed :] = missing(name)

    def take(
        self, earlier: h5py.File, rows: Sequence[int], into: Sequence[int], *, as_kept: bool = False
    ) -> None:
        """Fills the rows `into` from those rows of an earlier dataset.

        Outcomes come from the markers beside the run files, or `as_kept` from the dataset.
        """
        labels: Labels = {axis: tuple(json.loads(earlier.attrs[f"{axis}s"])) for axis in _OTHER_AXES}
        labels |= {axis: _coordinate(earlier, axis) for axis in ("eval", "task", *_OF_PLASTICITY)}
        self.make_room(labels)
        for name, number, variable in self._variables():
            part = self._part(name, number)
            trailing = part.ndim - 1
            part[into] = by_run(earlier[variable], trailing)[rows] if variable in earlier else missing(name)
        known = {name: by_run(earlier[name])[rows].tolist() for name in (*ATTRIBUTES, *_OF_HEADER)}
        for number, run in enumerate(into):
            complete = known["committed"][number] == known["planned"][number]
            diverged = known["outcome"][number] == "diverged"
            self.headers[run] = Header(
                labels=labels,
                attributes={name: known[name][number] for name in ATTRIBUTES},
                config_text=known["config"][number],
                config=json.loads(known["config"][number]),
                planned=known["planned"][number],
                committed=known["committed"][number],
                outcome=known["outcome"][number]
                if as_kept
                else outcome_of(self.files[run], complete=complete, diverged=diverged),
                diverged_at=known["diverged_at"][number],
                diverged_by=known["diverged_by"][number],
                stamp=known["stamp"][number],
            )

    def _variables(self) -> Iterator[tuple[str, int | None, str]]:
        """Yields (array, index on its metric axis, name of the dataset's variable)."""
        yield "env_steps", None, "env_steps"
        if self.labels["layer"]:
            yield "dormant", None, "task_dormant"
        for axis, name, prefix in (
            ("metric", "per_task", ""), ("metric", "random_policy", "random_"), ("run_metric", "per_run", ""),
            ("clock", "timing", ""), ("layer_metric", "per_layer", "layer_"),
            ("gradient_metric", "task_gradient", "gradient_"),
        ):  # fmt: skip
            for number, metric in enumerate(self.labels[axis]):
                yield name, number, f"{prefix}{metric}"

    def _part(self, name: str, number: int | None) -> NDArray[Any]:
        """A view of the array, or of one of its metrics if `number` is given."""
        if number is None:
            return self.arrays[name]
        where = 1 + ARRAYS[name][0].index(next(axis for axis in ARRAYS[name][0] if axis in _OTHER_AXES))
        return self.arrays[name][(slice(None),) * where + (number,)]

    def dataset(self, names: Sequence[str], sweeps: Sequence[str] | None) -> xr.Dataset:
        """The dataset of all runs that could be read, over the flat dim `run`. `names` are those of the files."""
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
                    ("run", *(axis for axis in ARRAYS[name][0] if axis not in _OTHER_AXES)),
                    values,
                )
        for attribute in ATTRIBUTES[1:]:
            variables[attribute] = ("run", [header.attributes[attribute] for header in headers])
        variables |= {
            "committed": ("run", [header.committed for header in headers]),
            "planned": ("run", [header.planned for header in headers]),
            "outcome": ("run", [header.outcome for header in headers]),
            "diverged_at": ("run", [header.diverged_at for header in headers]),
            "diverged_by": ("run", [header.diverged_by for header in headers]),
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
            **{axis: list(self.labels[axis]) for axis in _OF_PLASTICITY if self.labels[axis]},
        }
        lists = {f"{axis}s": json.dumps(self.labels[axis]) for axis in _OTHER_AXES}
        return xr.Dataset(variables, axes | coordinates, lists)


def _union(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    return old if new == old else (*old, *(label for label in new if label not in old))


def _task_order(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """The tasks in the order of MT50; other names come last, in the order given."""
    known = {task: number for number, task in enumerate(ALL_TASKS)}
    return tuple(sorted(tasks, key=lambda task: known.get(task, len(known))))


def _place(runs: NDArray[Any], labels: Labels, into: Labels, axes: Sequence[str]) -> tuple[NDArray[Any], ...]:
    """Indices at which an array over `labels` of these runs belongs in an array over the labels `into`."""
    positions = [np.array([into[axis].index(label) for label in labels[axis]], int) for axis in axes]
    return np.ix_(runs, *positions)


def _coordinate(earlier: h5py.File, axis: str) -> tuple[Any, ...]:
    if axis not in earlier:
        return ()
    values = earlier[axis]
    return tuple(values.asstr()[:] if h5py.check_string_dtype(values.dtype) else values[:].tolist())


def _take_earlier(root: Root, numbers: Sequence[int], runs: _Runs) -> None:
    """Takes the runs (by `numbers`) of a kept dataset; of a sweep, those whose files have not changed since."""
    if root.kept:
        with h5py.File(root.kept) as kept:
            runs.take(kept, range(len(numbers)), numbers, as_kept=True)
        return
    # If there is no earlier dataset, every file is read.
    with suppress(OSError, KeyError, ValueError), h5py.File(root.folder / DATASET) as earlier:
        if earlier.attrs["format"] != FORMAT:
            return
        stamps = zip(by_run(earlier["file"]).tolist(), by_run(earlier["stamp"]).tolist(), strict=True)
        known = {file: (row, stamp) for row, (file, stamp) in enumerate(stamps)}
        same: dict[int, int] = {}
        for number in numbers:
            row, stamp = known.get(str(runs.files[number].relative_to(root.folder)), (-1, 0))
            if stamp and stamp == stamp_of(runs.files[number]):
                same[number] = row
        if same:
            runs.take(earlier, list(same.values()), list(same))


def _reorder(array: NDArray[Any], order: Sequence[int]) -> None:
    """array = array[order], in place, with memory for only one more row."""
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


def _grid_place(header: Header) -> tuple[Any, ...]:
    """The run's values along GRID_DIMS."""
    config, network = header.config, header.config["network"]
    kinds = [RENAMED.get(kind, kind) for kind in (str(network[part]["kind"]) for part in ("actor", "critic"))]
    return (
        benchmark_name(tuple(config["env"]["tasks"])),
        kinds[0] if kinds[0] == kinds[1] else "/".join(kinds),
        network["actor"].get("width", 0),  # a kind that has no width of its own
        network["critic"].get("width", 0),
        config["train"]["seed"],
    )


def _coordinates(headers: Sequence[Header]) -> dict[str, list[Any]]:
    places = zip(*map(_grid_place, headers), strict=True)
    coordinates: dict[str, list[Any]] = {
        "run_id": [header.attributes["run_id"] for header in headers],
        "tasks": [len(header.config["env"]["tasks"]) for header in headers],
        **{dim: list(values) for dim, values in zip(GRID_DIMS, places, strict=True)},
    }
    fields = [flatten(header.config) for header in headers]
    default = flatten(
        Config().model_dump(mode="json")
    )  # what a run did that was from before the field was there
    for name in dict.fromkeys(name for field in fields for name in field):
        values = [field.get(name, default.get(name)) for field in fields]
        if name not in _SAID and not name.startswith("run.") and any(value != values[0] for value in values):
            plain = all(type(value) is type(values[0]) for value in values)
            coordinates[name] = values if plain else list(map(str, values))
    return coordinates
