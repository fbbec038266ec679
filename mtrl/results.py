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
               if the run diverged: diverged_at_vector_step, diverged_metric, diverged_value, diverged_limit (the first
               metric that was too large or not finite, and its limit) and diverged_trained_on (1 if training
               continued); extended_from, the run id of the shorter run from which the first evaluations come; and
               index: the coordinates and short attributes at creation again, as JSON, so that thousands of files are
               gathered with one read each

run_writer.py writes the file, this module reads it, run_folder.py finds a run's file among others. Every dataset has
its final size from the start. A row is written, flushed, and only then counted in `committed` and flushed again, so
that a killed writer leaves a readable file that is at most one uncounted row ahead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mtrl.config import Config
from mtrl.run_ids import as_meant

SCHEMA_VERSION = 3  # of the file's layout

TASK_METRICS = ("success", "return", "length", "train_success", "train_return", "temperature")
BATCHES = ("training", "fixed")  # what plasticity is measured on
NETWORKS = ("actor", "critic")
LAYER_METRICS = ("dormant", "srank")
GRADIENT_METRICS = ("norm", "cosine", "conflict")
# The arrays of plasticity, and their axes after `eval`. Files of earlier versions lack them.
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
# `layer` counts from 1, the other coordinates are text.
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
    metric: str  # of the run file, or "action"; empty in files of the first version
    value: float
    limit: float  # of |value|; infinity if only NaN and infinity count

    def __str__(self) -> str:
        if not self.metric:
            return f"diverged at vector step {self.vector_step}"
        limit = f"beyond {self.limit:g}" if math.isfinite(self.value) else "not finite"
        return f"diverged at vector step {self.vector_step}: {self.metric} was {self.value:g}, {limit}"


@dataclass(frozen=True)
class RunData:
    """The committed part of a run file, as plain arrays."""

    path: Path
    stored_config: dict[str, Any]  # as the run wrote it, with any version of mtrl
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
        """How the run diverged; None if it did not."""
        return _read_divergence(self.attributes)

    @property
    def trained_on(self) -> bool:
        """Whether training continued after the divergence."""
        return self.divergence is not None and bool(self.attributes.get("diverged_trained_on", False))

    @cached_property
    def config(self) -> Config:
        """The configuration for this version of mtrl; a field that the run did not have gets its default.

        Raises RunFileError, naming the field, if the run had a field or a value that this version does not have: to
        guess it would mean another run. The arrays and `stored_config` can still be read.
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
    """The value of an element of `array` that is not written yet: NaN, or -1 in env_steps."""
    return -1 if array == "env_steps" else math.nan


def read_run(path: Path) -> RunData:
    """The committed evaluations of the run file at `path`. Raises RunFileError for a damaged or foreign file."""
    try:
        with h5py.File(path, "r", locking=False) as file:  # a writer may have it open
            return read_committed(path, file)
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, RunFileError):
            raise
        raise RunFileError(f"{path} is not a readable run file: {error}") from None


# Those that are read: tests/mtrl/data has a file of each. 1 and 2 differ in `config_today` alone; 3 has `products`.
SCHEMAS = (1, 2, 3)


def check_schema(path: Path, version: int | None) -> None:
    """Raises RunFileError unless this version reads run files of schema `version`; None if a file has no schema."""
    if version is None:
        raise RunFileError(f"{path} is an HDF5 file but not a run file")
    if version not in SCHEMAS:
        known = ", ".join(map(str, SCHEMAS))
        raise RunFileError(f"{path} has schema {version}; this version of mtrl reads schema {known}")


def stored_config(path: Path) -> tuple[int, dict[str, Any] | None]:
    """Schema and configuration of the run file `path`; (0, None) if there is no readable run file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            schema = int(file.attrs["schema_version"])
            return schema, json.loads(config_today(file.attrs["config"], schema))
    except (OSError, KeyError, ValueError):
        return 0, None


def read_index(file: h5py.File) -> dict[str, Any]:
    """The content of the attribute `index` for `file`: {"coordinates": {name: [..]}, "attributes": {name: value}}."""
    coordinates = {name: _labels(file[name]) for name in COORDINATES if name in file}
    attributes = {name: np.asarray(value).item() for name, value in file.attrs.items() if name not in LONG}
    return {"coordinates": coordinates, "attributes": attributes}


def config_today(text: str, schema: int) -> str:
    """The configuration `text` (JSON) of a file of that schema, with the values that the schema left out.

    Before schema 2 all episodes of an evaluation continued to the horizon.
    """
    if schema > 1:
        return text
    return json.dumps(as_meant(json.loads(text)))


def read_committed(path: Path, file: h5py.File) -> RunData:
    """The committed evaluations of an open run file. Raises RunFileError for an unknown schema."""
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
