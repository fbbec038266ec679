"""Writes the run file. results.py describes the file and reads it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from mtrl.config import Config
from mtrl.packages import installed
from mtrl.results import (
    ARRAYS,
    BATCHES,
    CLOCKS,
    DIVERGED,
    GRADIENT_METRICS,
    LAYER_METRICS,
    NETWORKS,
    PLASTICITY,
    SCHEMA_VERSION,
    TASK_METRICS,
    Divergence,
    RunData,
    RunFileError,
    missing,
    read_committed,
    read_index,
)


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
        """A new file without evaluations. It appears at `path` only when its structure is completely on disk.

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
        """The file at `path`, to continue it. Raises RunFileError if it is no run file."""
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
        """How many evaluations are complete."""
        return int(self._file["committed"][()])

    def read(self) -> RunData:
        """The committed evaluations."""
        return read_committed(self.path, self._file)

    def rewind(self, evaluations: int) -> None:
        """Keeps the first `evaluations` rows: a run that resumes from a checkpoint writes the later rows again.

        Raises RunFileError if the file has fewer.
        """
        if evaluations > self.committed:
            raise RunFileError(
                f"{self.path} has {self.committed} evaluations, the checkpoint {evaluations}; "
                "they belong to different runs: delete the checkpoint to start anew"
            )
        self._file["committed"][()] = evaluations
        self._file.flush()  # later rows must not count any more when the first of them is erased
        for name in {"per_task", "per_run", "timing", *PLASTICITY} & set(self._file):
            self._file[name][evaluations:] = math.nan
        self._file.flush()

    def write_random_policy(self, metrics: Mapping[str, NDArray[Any]]) -> None:
        """Writes the random policy's metrics, [tasks] each."""
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
        """Commits the next evaluation. Values of `per_task` are [tasks], those of `plasticity` as PLASTICITY says.

        env_steps is summed over tasks, `timing` is in seconds. A metric that a mapping leaves out stays NaN.
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
        """Records how the run diverged, and whether training continued. None removes the record.

        A run that resumes from a checkpoint before its divergence needs None.
        """
        first, *rest = DIVERGED  # readers look for the first: it is removed first and written last
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
        """Closes the file and syncs it to disk."""
        self._file.close()
        sync(self.path)


def lay_out(
    file: h5py.File, config: Config, run_metrics: Sequence[str], attributes: Mapping[str, Any], layers: int
) -> None:
    """Writes everything but the values into the empty `file`: datasets of their final size, scales, attributes.

    `layers` is as in `RunFileWriter.create`.
    """
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


def sync(path: Path) -> None:
    """Syncs the file to disk (fsync)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
