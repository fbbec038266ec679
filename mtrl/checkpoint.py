"""Checkpoints of a run: whole or absent, checksummed, the newest two kept.

    checkpoint/<vector step>/state.pt        networks, optimisers, generators, envs, counters
                            /replay.bin      the replay's own file
                            /checksums.json  CRC-32 of both

A checkpoint is written under another name, synced, and renamed, so every name of digits is a whole one. Loading takes
the newest whose checksums hold.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch

from mtrl.replay import Replay

KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], replay: Replay) -> None:
    """Writes checkpoint `step` into `folder` and removes all but the newest two."""
    unfinished = folder / f"{step}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    torch.save(state, unfinished / "state.pt")
    replay.save(unfinished / "replay.bin")
    checksums = {path.name: _checksum(path) for path in sorted(unfinished.iterdir())}
    (unfinished / "checksums.json").write_text(json.dumps(checksums))
    for path in (*unfinished.iterdir(), unfinished):
        _sync(path)
    final = folder / str(step)
    if final.exists():  # a resumed run may save twice at one step; both are whole
        shutil.rmtree(final)
    unfinished.rename(final)
    _sync(folder)
    for old in _steps(folder)[:-KEPT]:
        shutil.rmtree(folder / str(old))


def load_checkpoint(folder: Path, replay: Replay) -> dict[str, Any] | None:
    """The state of the newest sound checkpoint, its replay loaded into `replay`; None where there is none."""
    for step in reversed(_steps(folder)):
        place = folder / str(step)
        if _is_sound(place):
            replay.load(place / "replay.bin")
            state: dict[str, Any] = torch.load(place / "state.pt", weights_only=False)
            return state
    return None


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _is_sound(place: Path) -> bool:
    try:
        checksums = json.loads((place / "checksums.json").read_text())
        return all(_checksum(place / name) == checksum for name, checksum in checksums.items())
    except (OSError, ValueError):
        return False


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
