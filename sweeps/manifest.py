"""The manifest of a sweep: runs/<sweep>/manifest.jsonl, one line per cell, and launches.jsonl, one line per launch.

Both files only ever grow. A line is {"run_id", "label", "coordinates", "config"}; its byte offset leads a worker to it
without reading the others.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import IO, Any

from mtrl.config import Config
from slurm.state import parse_lines
from sweeps.grid import Cell

SOURCE = Path(__file__).resolve().parent.parent


class SweepError(ValueError):
    """A sweep's folder that cannot be used; the message names it and the cure."""


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    run_id: str
    label: str
    coordinates: dict[str, Any]
    config: dict[str, Any]
    offset: int  # bytes, of the line in the file

    @property
    def cell(self) -> Cell:
        """The cell as the grid made it, validated anew."""
        return Cell(Config.model_validate(self.config), self.coordinates)


def open_sweep_folder(sweep: Path) -> None:
    """Makes the folder of a sweep. Raises SweepError where nothing can be written there."""
    try:
        (sweep / "cells").mkdir(parents=True, exist_ok=True)
        probe = sweep / f".writable.{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise SweepError(
            f"cannot write to {sweep}: {error.strerror}; give another folder with --runs"
        ) from None


def add_cells(sweep: Path, cells: Iterable[Cell]) -> list[Entry]:
    """Appends the cells that the manifest does not have yet; returns the entries of `cells`, in their order."""
    with _appending(sweep / "manifest.jsonl") as file:
        known = {entry.run_id: entry for entry in read_manifest(sweep)}
        offset = file.seek(0, os.SEEK_END)
        entries = []
        for cell in cells:
            if cell.run_id not in known:
                content: dict[str, Any] = {"run_id": cell.run_id, "label": cell.label}
                content["coordinates"] = cell.coordinates
                content["config"] = cell.config.model_dump(mode="json")
                line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
                file.write(line)
                known[cell.run_id] = Entry(**content, offset=offset)
                offset += len(line)
            entries.append(known[cell.run_id])
        file.flush()
        os.fsync(file.fileno())
    return entries


def read_manifest(sweep: Path) -> list[Entry]:
    """The entries of the manifest. A damaged line is left out: a launch of its cell appends it anew."""
    try:
        content = (sweep / "manifest.jsonl").read_bytes()
    except FileNotFoundError:
        return []
    entries: dict[str, Entry] = {}
    offset = 0
    lines = content.splitlines(keepends=True)
    for line, parsed in zip(lines, parse_lines(lines), strict=True):
        with suppress(TypeError):
            entry = Entry(**parsed, offset=offset)
            entries.setdefault(entry.run_id, entry)
        offset += len(line)
    return list(entries.values())


def find_sweep(name: str, runs: Path) -> Path:
    """The folder of a sweep given by name, as `grid=name`, or by path. Raises SweepError where there is none."""
    name = name.removeprefix("grid=")
    for place in (Path(name), runs / name):
        if (place / "manifest.jsonl").exists():
            return place
    known = sorted(path.parent.name for path in runs.glob("*/manifest.jsonl"))
    there = f"there are: {', '.join(known)}" if known else f"none has been launched in {runs}"
    raise SweepError(f"no sweep '{name}'; {there}")


def record_launch(sweep: Path, **facts: Any) -> None:
    """Notes who launched what from which code: command, host, commit, uncommitted changes, installed packages."""
    changes = _git("diff", "HEAD")
    digest = hashlib.sha256(changes.encode()).hexdigest()[:12] if changes else None
    if digest:
        (sweep / "changes").mkdir(exist_ok=True)
        (sweep / "changes" / f"{digest}.diff").write_text(changes)
    facts = {
        "time": time.time(),
        "command": shlex.join(sys.argv),
        "host": socket.gethostname(),
        "commit": _git("rev-parse", "HEAD").strip() or None,
        "changes": digest,  # of changes/<digest>.diff; null for a clean tree
        "packages": _packages_digest(),
        "python": sys.version.split()[0],
        **facts,
    }
    with _appending(sweep / "launches.jsonl") as file:
        file.write(json.dumps(facts).encode() + b"\n")


@contextmanager
def hold_sweep(sweep: Path) -> Iterator[None]:
    """Keeps a second launcher of the same sweep out while this one decides and submits. Raises SweepError."""
    with (sweep / "launch.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SweepError(
                f"{sweep} is being launched by {file.read().strip()}; wait for it to end"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def _appending(path: Path) -> Iterator[IO[bytes]]:
    """The file, locked and open for appending, its last line ended where a crash tore it."""
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
        yield file


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", SOURCE, *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _packages_digest() -> str:
    names = sorted(f"{package.name}=={package.version}" for package in distributions())
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
