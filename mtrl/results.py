"""The run file: what one run leaves behind, as one HDF5 file that also opens with `xarray.open_dataset`.

    dims       eval, metric, task, run_metric, clock        each with a coordinate of that name
               batch, network, layer, layer_metric, gradient_metric        these too, of plasticity
    env_steps  (eval) int64                    env steps summed over tasks at each evaluation
    per_task   (eval, metric, task) float32    success and return of evaluation episodes, ...
    per_run    (eval, run_metric) float64      losses, norms, dormant shares, ...
    per_layer  (eval, batch, network, layer, layer_metric) float32      dormant share and srank of each hidden layer
    dormant    (eval, batch, network, layer, task) float32              dormant share on the rows of each task
    task_gradient (eval, batch, network, task, gradient_metric) float32 norm, cosine and conflict with other tasks
    timing     (eval, clock) float64           seconds; the only part that differs between two equal runs
    random_policy (metric, task) float32       the same per-task metrics of a uniform random policy
    committed  () int64                        evaluations that are complete; rows beyond are NaN
    attributes schema_version, run_id, config (JSON), code_version, packages (JSON),
               parameters_{actor,critic,target,total}; products, how matrix products were computed (float32, tf32 or
               bfloat16: what agent.products = auto meant on the run's device);
               where the run diverged diverged_at_vector_step, diverged_metric, diverged_value, diverged_limit (what
               was first too large or not finite, and the limit) and diverged_trained_on (1 where training went
               on after it); extended_from, the run id of the shorter run whose
               evaluations these were up to some point; and
               index: the coordinates and short attributes as they were at creation once more, as JSON, so that one
               read tells whoever gathers thousands of files what each holds

Every dataset has its final size from the start. A row is written, flushed, and only then counted in `committed` and
flushed again, so that a killed writer leaves a readable file that is at most one uncounted row ahead.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mtrl.config import Config, changed_fields
from mtrl.packages import installed
from mtrl.run_ids import as_begun_earlier, as_meant, run_id_of

SCHEMA_VERSION = 3  # of the file's layout

TASK_METRICS = ("success", "return", "length", "train_success", "train_return", "temperature")
BATCHES = ("training", "fixed")  # what plasticity is measured on
NETWORKS = ("actor", "critic")
LAYER_METRICS = ("dormant", "srank")
GRADIENT_METRICS = ("norm", "cosine", "conflict")
# The arrays of plasticity, and their axes after `eval`. Files of earlier versions have none.
PLASTICITY = {
    "per_layer": ("batch", "network", "layer", "layer_metric"),
    "dormant": ("batch", "network", "layer", "task"),
    "task_gradient": ("batch", "network", "task", "gradient_metric"),
}
# The arrays of a run file: their axes and types.
ARRAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "per_task": (("eval", "metric", "task"), "f4"),
    "per_run": (("eval", "run_metric"), "f8"),
    "timing": (("eval", "clock"), "f8"),
    "env_steps": (("eval",), "i8"),
    "random_policy": (("metric", "task"), "f4"),
    **{name: (("eval", *axes), "f4") for name, axes in PLASTICITY.items()},
}
COORDINATES = (
    "metric",
    "run_metric",
    "task",
    "clock",
    "batch",
    "network",
    "layer_metric",
    "gradient_metric",
    "layer",
)
# `layer` counts from 1, the others are of text; `eval` only counts.
DIVERGED = (
    "diverged_at_vector_step",
    "diverged_metric",
    "diverged_value",
    "diverged_limit",
    "diverged_trained_on",
)
LONG = ("config", "index", "packages")  # attributes that `index` does not repeat
OWN = "own_"  # how the names of a user's metrics begin (run.metrics)
CLOCKS = ("wall_seconds", "env_seconds", "update_seconds", "evaluate_seconds", "measure_seconds")


class RunFileError(ValueError):
    """A file that is no readable run file; the message names it and says why."""


class Divergence(NamedTuple):
    """The first sign that a run diverged."""

    vector_step: int
    metric: str  # of the run file, or "action"; empty in files from before it was kept
    value: float
    limit: float  # of |value|; infinity where only a value that is not finite counts

    def __str__(self) -> str:
        if not self.metric:
            return f"diverged at vector step {self.vector_step}"
        limit = f"beyond {self.limit:g}" if math.isfinite(self.value) else "not finite"
        return f"diverged at vector step {self.vector_step}: {self.metric} was {self.value:g}, {limit}"


@dataclass(frozen=True)
class RunData:
    """The committed part of a run file, as plain arrays."""

    path: Path
    stored_config: dict[str, Any]  # as the run wrote it, by whichever version of mtrl
    attributes: dict[str, Any]
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    run_metrics: tuple[str, ...]
    env_steps: NDArray[np.int64]  # [evaluations]
    per_task: NDArray[np.float32]  # [evaluations, metrics, tasks]
    per_run: NDArray[np.float64]  # [evaluations, run metrics]
    timing: NDArray[np.float64]  # [evaluations, clocks]
    # PLASTICITY, each [evaluations, ...]; empty in files of earlier versions
    plasticity: dict[str, NDArray[np.float32]]
    layers: int  # of plasticity
    random_policy: NDArray[np.float32]  # [metrics, tasks]
    evaluations_planned: int

    @property
    def divergence(self) -> Divergence | None:
        """How the run diverged; None where it did not."""
        return _read_divergence(self.attributes)

    @property
    def trained_on(self) -> bool:
        """Whether training went on after the divergence."""
        return self.divergence is not None and bool(self.attributes.get("diverged_trained_on", False))

    @cached_property
    def config(self) -> Config:
        """The configuration for this version of mtrl: a field that the run did not know has its default.

        Raises RunFileError, naming the field, where the run had one that this version does not know or cannot take:
        guessing would give another run. The arrays and `stored_config` can be read all the same.
        """
        try:
            return Config.model_validate_json(json.dumps(self.stored_config))
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
            raise RunFileError(
                f"{self.path} was written by mtrl {self.attributes.get('code_version')}, whose configuration this "
                f"version cannot run ({fields}); use that version, or only analyse the file"
            ) from None


def missing(array: str) -> float | int:
    """What stands in an array of a run file where nothing has been written yet."""
    return -1 if array == "env_steps" else math.nan


class RunFileWriter:
    """Writes one run file. There must be one writer per file."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self._run_metrics = [name.decode() for name in file["run_metric"][:]]

    @classmethod
    def create(
        cls,
        path: Path,
        config: Config,
        *,
        run_metrics: Sequence[str],
        parameters: Mapping[str, int],
        code_version: str,
        products: str,
        layers: int = 0,
    ) -> Self:
        """A new file with no evaluations yet. It appears under `path` only when its structure is whole on disk.

        parameters has the keys actor, critic, target and total. `layers` is the number of hidden layers of the deeper
        network; 0 leaves the arrays of plasticity out.
        """
        unfinished = path.with_suffix(".creating")
        with h5py.File(unfinished, "w", libver="earliest") as file:
            sizes = {f"parameters_{name}": count for name, count in parameters.items()}
            attributes = {"code_version": code_version, "products": products, **sizes}
            lay_out(file, config, run_metrics, attributes, layers)
        sync(unfinished)
        unfinished.replace(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The file at `path`, to continue. Raises RunFileError when it is not a run file."""
        try:
            file = h5py.File(path, "r+", libver="earliest")
            if "schema_version" not in file.attrs:
                raise RunFileError(f"{path} is an HDF5 file but not a run file; move it away")
        except OSError as error:
            raise RunFileError(
                f"{path} cannot be opened as HDF5 ({error}); move it away to start anew"
            ) from None
        return cls(path, file)

    @property
    def committed(self) -> int:
        return int(self._file["committed"][()])

    def read(self) -> RunData:
        """What is committed so far."""
        return _read(self.path, self._file)

    def rewind(self, evaluations: int) -> None:
        """Keeps the first `evaluations` rows: a run resumed from a checkpoint writes the later ones again."""
        if evaluations > self.committed:
            raise RunFileError(
                f"{self.path} has {self.committed} evaluations, the checkpoint {evaluations}; "
                "they belong to different runs: delete the checkpoint to start anew"
            )
        self._file["committed"][()] = evaluations
        self._file.flush()  # no later row counts any more before the first of them is wiped
        for name in {"per_task", "per_run", "timing", *PLASTICITY} & set(self._file):
            self._file[name][evaluations:] = math.nan
        self._file.flush()

    def write_random_policy(self, metrics: Mapping[str, NDArray[Any]]) -> None:
        """The random policy's metrics, each [tasks]."""
        for name, values in metrics.items():
            self._file["random_policy"][TASK_METRICS.index(name)] = values
        self._file.flush()

    def write_evaluation(
        self,
        env_steps: int,
        per_task: Mapping[str, NDArray[Any]],
        per_run: Mapping[str, float],
        timing: Mapping[str, float],
        plasticity: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Commits the next evaluation: `per_task` values are [tasks], those of `plasticity` as PLASTICITY says.

        What a mapping leaves out stays NaN.
        """
        row = self.committed
        self._file["env_steps"][row] = env_steps
        for name, values in per_task.items():
            self._file["per_task"][row, TASK_METRICS.index(name)] = values
        self._file["per_run"][row] = [per_run.get(name, math.nan) for name in self._run_metrics]
        self._file["timing"][row] = [timing.get(name, math.nan) for name in CLOCKS]
        for name, array in (plasticity or {}).items():
            self._file[name][row] = array
        self._file.flush()
        self._file["committed"][()] = row + 1
        self._file.flush()

    def mark_diverged(self, divergence: Divergence | None, *, trained_on: bool = False) -> None:
        """Records how the run diverged, and whether training goes on; its evaluations end there where it does not.

        None takes back what a run wrote that goes on from before it.
        """
        first, *rest = DIVERGED  # the first says that the others are there: it goes first and comes last
        for name in DIVERGED:
            self._file.attrs.pop(name, None)
            self._file.flush()
        if divergence is None:
            return
        at, *values = divergence
        for name, value in zip(rest, (*values, int(trained_on)), strict=True):
            self._file.attrs[name] = value
        self._file.flush()
        self._file.attrs[first] = at
        self._file.flush()

    def close(self) -> None:
        """Closes the file and sees it through to the disk."""
        self._file.close()
        sync(self.path)


def read_run(path: Path) -> RunData:
    """The committed evaluations of the run file at `path`. Raises RunFileError for a damaged or foreign file."""
    try:
        with h5py.File(path, "r", locking=False) as file:  # its writer may be at work
            return _read(path, file)
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, RunFileError):
            raise
        raise RunFileError(f"{path} is not a readable run file: {error}") from None


def ended(directory: Path, config: Config) -> Literal["done", "diverged"] | None:
    """How the run of `config` in `directory` ended; None where it has not, or where its file cannot be read.

    Raises RunFileError, naming what differs, where the folder holds the run of another configuration.
    """
    path = directory / "run.h5"
    refuse_another_run(path, config)
    try:
        data = read_run(path)
    except RunFileError:  # none, or a damaged one: not the end of a run
        return None
    if data.divergence and not data.trained_on:
        return "diverged"
    if len(data.env_steps) < data.evaluations_planned or not (directory / "agent.pt").exists():
        return None
    return "diverged" if data.divergence else "done"


# Those that are read: tests/mtrl/data has a file of each. 1 and 2 differ in `config_today` alone; 3 has `products`.
SCHEMAS = (1, 2, 3)


def check_schema(path: Path, version: int | None) -> None:
    """Raises RunFileError unless a reader of run files of this schema is at hand."""
    if version is None:
        raise RunFileError(f"{path} is an HDF5 file but not a run file")
    if version not in SCHEMAS:
        known = ", ".join(map(str, SCHEMAS))
        raise RunFileError(f"{path} has schema {version}; this version of mtrl reads schema {known}")


def refuse_another_run(path: Path, config: Config) -> None:
    """Raises RunFileError, naming what differs, where `path` holds the run of another configuration."""
    _, before = _stored_config(path)
    if before is None:  # nothing that could be lost
        return
    if changes := changed_fields(before, config):
        raise RunFileError(
            f"{path} is of another configuration: {'; '.join(changes)}. Use another folder, or move it away"
        )


def find_run(folder: Path, config: Config) -> Path:
    """The folder below `folder` of the run of `config`: named by its run id, or by that of an earlier version, or begun
    by an earlier version with the same words (`as_begun`)."""
    named = folder / config.run_id
    if named.exists():
        return named
    places = [path.parent for path in sorted(folder.glob("*/run.h5"))]
    stored = ((place, _stored_config(place / "run.h5")) for place in places)
    same = (
        place for place, (_, before) in stored if before is not None and run_id_of(before) == config.run_id
    )
    meant = (place for place in places if as_begun(place, config) != config)
    return next(itertools.chain(same, meant), named)


def as_begun(directory: Path, config: Config) -> Config:
    """`config` as the run in `directory` computes it: an earlier version that was given the same words did what
    `mtrl.run_ids.EARLIER` says, and its run goes on so."""
    schema, before = _stored_config(directory / "run.h5")
    if before is None or schema == SCHEMA_VERSION:
        return config
    earlier = Config.model_validate(as_begun_earlier(config.model_dump(mode="json"), schema))
    return config if changed_fields(before, earlier) else earlier


def _stored_config(path: Path) -> tuple[int, dict[str, Any] | None]:
    """Schema and configuration of the run file `path`; None where there is no such file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            schema = int(file.attrs["schema_version"])
            return schema, json.loads(config_today(file.attrs["config"], schema))
    except (OSError, KeyError, ValueError):
        return 0, None


def read_index(file: h5py.File) -> dict[str, Any]:
    """What the attribute `index` of `file` holds: {"coordinates": {name: [..]}, "attributes": {name: value}}."""
    coordinates = {name: _labels(file[name]) for name in COORDINATES if name in file}
    attributes = {name: np.asarray(value).item() for name, value in file.attrs.items() if name not in LONG}
    return {"coordinates": coordinates, "attributes": attributes}


def lay_out(
    file: h5py.File, config: Config, run_metrics: Sequence[str], attributes: Mapping[str, Any], layers: int
) -> None:
    """Everything but the values: datasets of their final size, scales, attributes."""
    evaluations = len(config.evaluate.steps(config.train.vector_steps))
    coordinates: dict[str, Any] = {
        "eval": np.arange(evaluations),
        "metric": list(TASK_METRICS),
        "run_metric": list(run_metrics),
        "task": list(config.env.tasks),
        "clock": list(CLOCKS),
    }
    if layers:
        coordinates |= {
            "batch": list(BATCHES),
            "network": list(NETWORKS),
            "layer": np.arange(1, layers + 1),
            "layer_metric": list(LAYER_METRICS),
            "gradient_metric": list(GRADIENT_METRICS),
        }
    for name, values in coordinates.items():
        file[name] = values
        file[name].make_scale(name)
    for name, (axes, dtype) in ARRAYS.items():
        if name in PLASTICITY and not layers:
            continue
        shape = tuple(len(coordinates[axis]) for axis in axes)
        file.create_dataset(name, data=np.full(shape, missing(name), dtype))
        for position, axis in enumerate(axes):
            file[name].dims[position].attach_scale(file[axis])
    file.create_dataset("committed", data=np.int64(0))
    whole = {"schema_version": SCHEMA_VERSION, "run_id": config.run_id, "config": config.model_dump_json()}
    whole["packages"] = json.dumps(installed())
    for name, value in (whole | dict(attributes)).items():
        file.attrs[name] = value
    file.attrs["index"] = json.dumps(read_index(file))


def config_today(text: str, schema: int) -> str:
    """The configuration of a file of that schema, JSON, with what the schema left unsaid.

    Before schema 2 all episodes of an evaluation went on to the horizon.
    """
    if schema > 1:
        return text
    return json.dumps(as_meant(json.loads(text)))


def _read(path: Path, file: h5py.File) -> RunData:
    version = file.attrs.get("schema_version")
    check_schema(path, None if version is None else int(version))
    rows = int(file["committed"][()])
    return RunData(
        path=path,
        stored_config=json.loads(config_today(file.attrs["config"], int(file.attrs["schema_version"]))),
        attributes={name: value for name, value in file.attrs.items() if name not in LONG},
        tasks=_strings(file["task"]),
        metrics=_strings(file["metric"]),
        run_metrics=_strings(file["run_metric"]),
        env_steps=file["env_steps"][:rows],
        per_task=file["per_task"][:rows],
        per_run=file["per_run"][:rows],
        timing=file["timing"][:rows],
        plasticity={name: file[name][:rows] for name in PLASTICITY if name in file},
        layers=len(file["layer"]) if "layer" in file else 0,
        random_policy=file["random_policy"][:],
        evaluations_planned=len(file["eval"]),
    )


def _read_divergence(attributes: Mapping[str, Any]) -> Divergence | None:
    if "diverged_at_vector_step" not in attributes:
        return None
    kinds = (int, str, float, float)
    defaults = (0, "", math.nan, math.inf)
    return Divergence(*(kind(attributes.get(name, default))
                        for name, kind, default in zip(DIVERGED, kinds, defaults, strict=False)))  # fmt: skip


def _labels(dataset: h5py.Dataset) -> list[Any]:
    return list(_strings(dataset)) if h5py.check_string_dtype(dataset.dtype) else dataset[:].tolist()


def _strings(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(dataset.asstr()[:])


def sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
