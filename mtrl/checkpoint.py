"""Checkpoints of a run: whole or absent, checksummed, the newest two kept.

    checkpoint/<vector step>/about.json      the configuration, and the kind of device
                            /state.pt        networks, optimisers, generators, envs, counters
                            /replay.bin      the replay's own file
                            /checksums.json  CRC-32 of the others and of the rows' files
    checkpoint/rows/                         the replay's rows, in files that several checkpoints share

A checkpoint is written under another name, synced, and renamed, so that a folder named by a number is complete. Loading
takes the newest checkpoint whose checksums are right. It executes nothing from it: state.pt holds only tensors and
plain values, which torch's `weights_only` loader reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError

from mtrl.config import Config, changed_fields
from mtrl.overrides import explain
from mtrl.replay import Replay
from mtrl.run_ids import as_meant

if TYPE_CHECKING:
    from mtrl.cuda.replay import ReplayCuda

KEPT = 2  # checkpoints
FILES = ("about.json", "replay.bin", "state.pt")
ROWS = "rows"
_ARRAY = "numpy"  # the key of a dict that stands for an array


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and the cure."""


def save_checkpoint(
    folder: Path,
    step: int,
    state: dict[str, Any],
    replay: Replay | ReplayCuda,
    config: Config,
    device: torch.device,
) -> None:
    """Writes checkpoint `step` into `folder` and removes all but the newest two.

    `state` holds tensors, arrays, numbers, strings, and dicts and lists of them. Raises OSError, with the earlier
    checkpoints untouched, if the checkpoint cannot be written.
    """
    unfinished = folder / f"{step}.unfinished"
    for rest in folder.glob("*.unfinished"):  # a writer was killed
        shutil.rmtree(rest)
    try:
        unfinished.mkdir(parents=True)
        about = {"config": config.model_dump(mode="json"), "device": device.type}
        (unfinished / "about.json").write_text(json.dumps(about))
        torch.save(_pack(state), unfinished / "state.pt")
        rows = folder / ROWS
        rows.mkdir(exist_ok=True)
        segments = replay.save(unfinished / "replay.bin", rows)
        checksums = {name: _checksum(unfinished / name) for name in FILES}
        checksums |= {f"../{ROWS}/{segment.name}": segment.checksum for segment in segments}
        (unfinished / "checksums.json").write_text(json.dumps(checksums))
        for path in (*unfinished.iterdir(), unfinished, rows):
            _sync(path)
        final = folder / str(step)
        if final.exists():  # from before the run went back to an older checkpoint
            shutil.rmtree(final)
        unfinished.rename(final)
        _sync(folder)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        shutil.rmtree(unfinished, ignore_errors=True)
        _remove_unused_rows(folder)
        raise OSError(
            f"the checkpoint of vector step {step} cannot be written to {folder}: {error}"
        ) from error
    steps = _steps(folder)
    for old in (*(other for other in steps if other > step), *[s for s in steps if s <= step][:-KEPT]):
        shutil.rmtree(folder / str(old))
    _remove_unused_rows(folder)


def load_checkpoint(
    folder: Path, replay: Replay | ReplayCuda, config: Config, device: torch.device
) -> dict[str, Any] | None:
    """The state of the newest sound checkpoint, its replay loaded into `replay`; None if there is none.

    Warns of a damaged one and takes the one before it. Raises CheckpointError, naming what differs, for a checkpoint
    of another configuration (`run` apart) or another kind of device.
    """
    for step in reversed(_steps(folder)):
        place = folder / str(step)
        if damage := _damage(place):
            warnings.warn(f"{place} is damaged ({damage}); going on without it", RuntimeWarning, stacklevel=2)
            continue
        _refuse_another_run(place, config, device)
        replay.load(place / "replay.bin", folder / ROWS)
        return load_tensors(place / "state.pt")
    return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest sound checkpoint in `folder`."""
    places = (folder / str(step) for step in reversed(_steps(folder)))
    return next((place for place in places if not _damage(place)), None)


def read_agent(place: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration and the agent's state of the checkpoint `place`. The replay's files are not needed.

    Raises CheckpointError if the checkpoint is damaged, or if this version of mtrl cannot run its configuration.
    """
    if damage := _damage(place, ("about.json", "state.pt")):
        raise CheckpointError(f"{place} is damaged ({damage}); name another checkpoint of the run")
    try:
        config = Config.model_validate(as_meant(_read_about(place)["config"]))
    except ValidationError as error:
        raise CheckpointError(
            f"{place} is of another version of mtrl, whose configuration this one cannot run: {explain(error)}"
        ) from None
    state: dict[str, Any] = load_tensors(place / "state.pt")["agent"]
    return config, state


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path`, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save(_pack(state), unfinished)
    _sync(unfinished)
    unfinished.replace(path)
    _sync(path.parent)


def load_tensors(path: Path) -> dict[str, Any]:
    """The state that `save_tensors` wrote, on the CPU. Raises CheckpointError for anything else; executes no code."""
    try:
        state: dict[str, Any] = _unpack(torch.load(path, weights_only=True, map_location="cpu"))
    except OSError:
        raise
    except Exception as error:  # of many kinds: a broken archive, a foreign class, a text file
        raise CheckpointError(f"{path} holds something other than tensors and plain values; nothing was executed: "
                              f"{str(error).splitlines()[0]}") from None  # fmt: skip
    return state


def _pack(value: Any) -> Any:
    """`value` with tensors for arrays: what the `weights_only` loader accepts."""
    if isinstance(value, dict):
        return {key: _pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return {_ARRAY: torch.from_numpy(np.array(value))}
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return value[_ARRAY].numpy()[()]  # a scalar where it has no axes
        return {key: _unpack(item) for key, item in value.items()}
    return [_unpack(item) for item in value] if isinstance(value, list) else value


def _refuse_another_run(place: Path, config: Config, device: torch.device) -> None:
    about = _read_about(place)
    before = about["config"]
    # a longer run starts from the checkpoint of a shorter one (mtrl/longer_run.py)
    if before["train"]["vector_steps"] < config.train.vector_steps:
        before["train"]["vector_steps"] = config.train.vector_steps
    changes = changed_fields(before, config)
    if about["device"] != device.type:
        changes.append(f"device is {device.type}, was {about['device']}")
    if changes:
        raise CheckpointError(
            f"{place} is of another configuration: {'; '.join(changes)}. Use another folder, or delete this one"
        )


def _read_about(place: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((place / "about.json").read_text())
    return about


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _damage(place: Path, names: Sequence[str] = ()) -> str:
    """The fault of a checkpoint, or of its files `names`; empty if it is sound."""
    try:
        checksums = _checksums(place)
        wrong = [name for name in names or {*FILES, *checksums} if _checksum(place / name) != checksums[name]]
        return f"checksum of {', '.join(wrong)}" if wrong else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def _checksums(place: Path) -> dict[str, int]:
    checksums: dict[str, int] = json.loads((place / "checksums.json").read_text())
    return checksums


def _remove_unused_rows(folder: Path) -> None:
    """Deletes the files of rows that no checkpoint names."""
    used = set()
    for step in _steps(folder):
        with contextlib.suppress(OSError, ValueError):  # a damaged one
            used |= {Path(name).name for name in _checksums(folder / str(step))}
    for path in (folder / ROWS).glob("*"):
        if path.name not in used:
            path.unlink(missing_ok=True)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
