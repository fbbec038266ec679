"""A longer run that continues a shorter one: it copies the evaluations that both share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py

from mtrl.checkpoint import CheckpointError, newest_checkpoint
from mtrl.config import Config
from mtrl.results import TASK_METRICS, RunData, RunFileError, read_run
from mtrl.run_writer import lay_out, sync


def start_longer_run(shorter: Path, directory: Path, config: Config) -> None:
    """Prepares `directory`, so that training there continues the run in `shorter` to the length of `config`.

    Copies the checkpoints and the evaluations that both share (`extend_run`). Does nothing if `directory` has
    checkpoints. Raises RunFileError unless the runs differ only in length, CheckpointError if `shorter` has no
    checkpoint.
    """
    if (directory / "checkpoint").exists():
        return
    if newest_checkpoint(shorter / "checkpoint") is None:
        raise CheckpointError(
            f"{shorter} has no checkpoint to continue from: sweeps remove those of finished runs, and a run saves none "
            "in its first run.checkpoint_seconds; train the longer run from the start"
        )
    directory.mkdir(parents=True, exist_ok=True)
    extend_run(shorter / "run.h5", directory / "run.h5", config)
    unfinished = directory / "checkpoint.creating"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(shorter / "checkpoint", unfinished)
    unfinished.rename(directory / "checkpoint")


def extend_run(source: Path, target: Path, config: Config) -> int:
    """Writes the run file of the longer run `config` to `target`, with the evaluations that it shares with `source`.

    `config` may differ from the source's in `train.vector_steps`, which must be no less, and in `run`. `target`
    appears only when it is complete, under its own run_id; `source` does not change. Returns how many evaluations were
    copied: the source's last one only if the longer run evaluates at that step too. Training needs the source's
    checkpoint as well (`start_longer_run`). Raises RunFileError if the two runs differ in more than their length.
    """
    data = read_run(source)
    _check_extension(data, config)
    every = config.evaluate.steps(config.train.vector_steps)
    before = data.config.evaluate.steps(data.config.train.vector_steps)
    kept = sum(old == new for old, new in zip(before, every, strict=False))
    kept = min(kept, len(data.env_steps))
    unfinished = target.with_suffix(".creating")
    with h5py.File(unfinished, "w", libver="earliest") as file:
        copied = ("parameters_", "code_version", "products")
        known = {name: value for name, value in data.attributes.items() if name.startswith(copied)}
        extended = known | {"extended_from": data.attributes["run_id"]}
        lay_out(file, config, data.run_metrics, extended, data.layers)
        file["random_policy"][...] = data.random_policy
        for name in ("env_steps", "per_task", "per_run"):
            file[name][:kept] = getattr(data, name)[:kept]
        # Clocks that a newer version added come last.
        file["timing"][:kept, : data.timing.shape[1]] = data.timing[:kept]
        for name, array in data.plasticity.items():
            file[name][:kept] = array[:kept]
        file["committed"][()] = kept
    sync(unfinished)
    unfinished.replace(target)
    return kept


def _check_extension(data: RunData, config: Config) -> None:
    """Raises RunFileError unless `config` is the run of `data` made longer."""
    if data.divergence:
        raise RunFileError(f"{data.path} {data.divergence}: it cannot be continued")
    if config.train.vector_steps < data.config.train.vector_steps:
        raise RunFileError(
            f"{data.path} already has {data.config.train.vector_steps} vector steps, more than the "
            f"{config.train.vector_steps} asked for"
        )
    if config.replay.alpha_end is not None or config.replay.beta_end is not None:
        raise RunFileError(
            f"{data.path} anneals its replay over its length (alpha_end, beta_end): a longer run is another from the "
            "start; start anew"
        )
    if data.metrics != TASK_METRICS:
        raise RunFileError(f"{data.path} has other metrics per task than this version of mtrl; start anew")
    if _but_length(config) != _but_length(data.config):
        raise RunFileError(
            f"{data.path} is another run: an extension may differ in train.vector_steps alone; start anew"
        )


def _but_length(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude={"run": True, "train": {"vector_steps"}})
