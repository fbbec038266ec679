"""Which run a folder holds, and whether it has ended."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

from mtrl.config import Config, changed_fields
from mtrl.results import SCHEMA_VERSION, RunFileError, read_run, stored_config
from mtrl.run_ids import as_begun_earlier, run_id_of


def ended(directory: Path, config: Config) -> Literal["done", "diverged"] | None:
    """How the run of `config` in `directory` ended; None if it has not ended or its file cannot be read.

    Raises RunFileError, naming what differs, if the folder holds the run of another configuration.
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


def find_run(folder: Path, config: Config) -> Path:
    """The folder below `folder` that holds the run of `config`, or, if none does, the one to begin it in.

    A folder holds the run if its name is the run id, if an earlier version gave the run another id, or if an earlier
    version began it from the same settings (`as_begun`).
    """
    named = folder / config.run_id
    if named.exists():
        return named
    places = [path.parent for path in sorted(folder.glob("*/run.h5"))]
    stored = ((place, stored_config(place / "run.h5")) for place in places)
    same = (
        place for place, (_, before) in stored if before is not None and run_id_of(before) == config.run_id
    )
    meant = (place for place in places if as_begun(place, config) != config)
    return next(itertools.chain(same, meant), named)


def as_begun(directory: Path, config: Config) -> Config:
    """`config`, or what an earlier version made of the same settings, if it began the run in `directory`.

    Such a run continues with the values of `mtrl.run_ids.EARLIER`.
    """
    schema, before = stored_config(directory / "run.h5")
    if before is None or schema == SCHEMA_VERSION:
        return config
    earlier = Config.model_validate(as_begun_earlier(config.model_dump(mode="json"), schema))
    return config if changed_fields(before, earlier) else earlier


def refuse_another_run(path: Path, config: Config) -> None:
    """Raises RunFileError, naming what differs, if the run file `path` is of another configuration."""
    _, before = stored_config(path)
    if before is None:  # there is no run that could be lost
        return
    if changes := changed_fields(before, config):
        raise RunFileError(
            f"{path} is of another configuration: {'; '.join(changes)}. Use another folder, or move it away"
        )
