"""Loggers, which show a run's evaluations in TensorBoard or Weights & Biases if `run.loggers` names them.

The run file is the record; a logger is a view of it. A resumed run writes each view again from the file's rows, so that
no step is there twice, however the run was killed.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from mtrl.config import Config, ConfigError
from mtrl.extensions import is_own, load


class Logger(Protocol):
    """A view of one run. The constructor takes the run's folder and configuration and removes an earlier view there."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the numbers of the evaluation after `step` env steps (summed over tasks). Steps increase."""

    def close(self) -> None:
        """Writes what is not written yet, and ends."""


class TensorBoard:
    """Event files in <run>/tensorboard; see them with `tensorboard --logdir`."""

    def __init__(self, directory: Path, config: Config) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = directory / "tensorboard"
        for before in folder.glob("events.out.tfevents.*"):
            before.unlink()
        self._writer: Any = SummaryWriter(str(folder))
        self._writer.add_text("config", config.model_dump_json(indent=1))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run named by its run id, in project $WANDB_PROJECT (mtrl); WANDB_MODE=offline keeps it in <run>/wandb."""

    def __init__(self, directory: Path, config: Config) -> None:
        import wandb

        for before in (directory / "wandb").glob(f"offline-run-*-{config.run_id}"):
            shutil.rmtree(before)
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "mtrl"),
                id=config.run_id,
                dir=directory,
                config=config.model_dump(mode="json"),
                resume="allow",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"run.loggers: Weights & Biases refuses ({error}); log in with `wandb login`, or set WANDB_MODE=offline"
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._run.step:  # W&B has the earlier steps already and keeps them
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def open_loggers(config: Config, directory: Path) -> list[Logger]:
    """New loggers, as `run.loggers` names them. Raises ConfigError, with what to install, if one is missing."""
    opened: list[Logger] = []
    for name in config.run.loggers:
        try:
            logger = load(name, "run.loggers") if is_own(name) else LOGGERS[name]
            opened.append(logger(directory, config))
        except ModuleNotFoundError as error:
            if is_own(name):
                raise
            raise ConfigError(
                f"run.loggers has {name}, which is not installed here ({error}): "
                f"pip install 'mtrl-scaling[{name}]', or leave it out"
            ) from None
    return opened


def flatten(
    tasks: Sequence[str],
    per_task: Mapping[str, ArrayLike],
    per_run: Mapping[str, float],
    clocks: Mapping[str, float],
) -> dict[str, float]:
    """One evaluation's numbers by name: `success/reach-v3`, `success/mean`, `update/critic_loss`, `clock/wall_seconds`.

    per_task values are [T]. What is NaN (no training episode ended, no update yet) is left out.
    """
    values: dict[str, float] = {}
    for metric, row in per_task.items():
        numbers: list[float] = np.asarray(row, dtype=float).tolist()
        values |= {f"{metric}/{task}": number for task, number in zip(tasks, numbers, strict=True)}
        values[f"{metric}/mean"] = sum(numbers) / len(numbers)
    values |= {f"update/{name}": value for name, value in per_run.items()}
    values |= {f"clock/{name}": value for name, value in clocks.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}
