"""The manifest of a sweep: runs/<sweep>/manifest.jsonl, one line per cell, and launches.jsonl, one line per launch.

Both files only grow. A line of the manifest is {"run_id", "label", "coordinates", "config"}. A worker gets the byte
offset of its line, so that it need not read the others.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import click

from mtrl.config import Config
from mtrl.packages import installed
from mtrl.run_ids import as_meant, is_run_id_of, run_id_of, run_id_today
from slurm.state import parse_lines
from sweeps.grid import Cell

SOURCE = Path(__file__).resolve().parent.parent


class LaunchError(ValueError):
    """A sweep that cannot be launched or read as asked; the message names it and the cure."""


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
        """The cell that the grid made, with its configuration validated again."""
        return _named(Cell(Config.model_validate(as_meant(self.config)), self.coordinates), self.run_id)

    @cached_property
    def computes(self) -> str:
        """The run id that today's version gives this cell.

        An entry of an earlier version equals today's cell that leaves the same settings at their defaults. It still
        runs as that version meant it.
        """
        return run_id_today(self.run_id, self.config)

    def is_sound(self) -> bool:
        """Whether the configuration belongs to the run id."""
        return self.run_id == self.computes or is_run_id_of(self.run_id, self.config)


def open_sweep_folder(sweep: Path) -> None:
    """Makes the folder of a sweep. Raises LaunchError if it cannot be written."""
    try:
        (sweep / "cells").mkdir(parents=True, exist_ok=True)
        probe = sweep / f".writable.{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise LaunchError(
            f"cannot write to {sweep}: {error.strerror}; give another folder with --runs"
        ) from None


def add_cells(sweep: Path, cells: Sequence[Cell]) -> list[Entry]:
    """Appends the cells that the manifest does not have yet; returns the entries of `cells`, in their order."""
    with _appending(sweep / "manifest.jsonl") as file:
        known = _entries_of(cells, read_manifest(sweep, verify=True))
        offset = file.seek(0, os.SEEK_END)
        entries = []
        for cell in cells:
            run_id = cell.config.run_id
            if run_id not in known:
                content: dict[str, Any] = {"run_id": run_id, "label": cell.label}
                content["coordinates"] = cell.coordinates
                content["config"] = cell.config.model_dump(mode="json")
                line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
                file.write(line)
                known[run_id] = Entry(**content, offset=offset)
                offset += len(line)
            entries.append(known[run_id])
        file.flush()
        os.fsync(file.fileno())
    return entries


def read_manifest(sweep: Path, *, verify: bool = False) -> list[Entry]:
    """The entries of the manifest, without damaged lines; a launch of a damaged line's cell appends it again.

    `verify` also compares each configuration with its run id (40 us a cell), and prints the lines that do not match.
    """
    try:
        content = (sweep / "manifest.jsonl").read_bytes()
    except FileNotFoundError:
        return []
    entries: dict[str, Entry] = {}
    damaged: dict[int, Entry] = {}  # by the number of the line
    offset = 0
    lines = content.splitlines(keepends=True)
    for number, (line, parsed) in enumerate(zip(lines, parse_lines(lines), strict=True), 1):
        with suppress(TypeError):
            entry = Entry(**parsed, offset=offset)
            if verify and not entry.is_sound():
                damaged[number] = entry
            else:
                entries.setdefault(entry.run_id, entry)
        offset += len(line)
    _name_damaged(sweep, entries, damaged)
    return list(entries.values())


def _name_damaged(sweep: Path, entries: Mapping[str, Entry], damaged: Mapping[int, Entry]) -> None:
    """Prints the lines that do not match their run ids, except those whose cell another line has."""
    if not damaged:
        return
    held = {*entries, *(entry.computes for entry in entries.values())}
    for number, entry in damaged.items():
        if not held & {entry.run_id, entry.computes}:
            click.echo(
                f"{sweep / 'manifest.jsonl'}, line {number} ({entry.label}): the configuration is not that of cell "
                f"{entry.run_id}; the line is damaged and left out. A launch of its grid writes it again.",
                err=True,
            )


def recorded_cells(sweep: Path, cells: Sequence[Cell]) -> list[Cell]:
    """`cells`, with the run ids that the manifest of `sweep` has for them, which an earlier version may have given."""
    known = _entries_of(cells, read_manifest(sweep, verify=True))
    recorded = {run_id: entry.run_id for run_id, entry in known.items()}
    return [_named(cell, recorded.get(cell.config.run_id, "")) for cell in cells]


def _entries_of(cells: Sequence[Cell], entries: Sequence[Entry]) -> dict[str, Entry]:
    """{run id that today's version gives: entry}.

    An entry of an earlier version is the cell with the same configuration, if `cells` has one; else the cell that
    leaves the same settings at their defaults.
    """
    known = {entry.computes: entry for entry in entries}
    before = (entry for run_id, entry in known.items() if run_id != entry.run_id)
    earlier = {run_id_of(as_meant(entry.config)): entry for entry in before}
    for run_id in earlier.keys() & {cell.config.run_id for cell in cells}:
        known.pop(earlier[run_id].computes, None)
        known[run_id] = earlier[run_id]
    return known


def _named(cell: Cell, run_id: str) -> Cell:
    """The cell with its recorded run id."""
    return replace(cell, recorded="" if run_id == cell.config.run_id else run_id)


def find_sweep(name: str, runs: Path) -> Path:
    """The folder of a sweep. `name` is its name, `grid=name` or its path. Raises LaunchError if there is none."""
    name = name.removeprefix("grid=")
    for place in (Path(name), runs / name):
        if (place / "manifest.jsonl").exists():
            return place
    known = sorted(path.parent.name for path in runs.glob("*/manifest.jsonl"))
    there = f"there are: {', '.join(known)}" if known else f"none has been launched in {runs}"
    raise LaunchError(f"no sweep '{name}'; {there}")


def record_launch(sweep: Path, **facts: Any) -> None:
    """Adds a line to launches.jsonl: time, command, host, commit, uncommitted changes, packages and `facts`."""
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
        "packages": installed(),
        "python": sys.version.split()[0],
        **facts,
    }
    with _appending(sweep / "launches.jsonl") as file:
        file.write(json.dumps(facts).encode() + b"\n")


@contextmanager
def hold_sweep(sweep: Path) -> Iterator[None]:
    """Holds the sweep's lock while this launcher decides and submits. Raises LaunchError if another launcher has it."""
    with (sweep / "launch.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LaunchError(
                f"{sweep} is being launched by {file.read().strip()}; wait for it to end"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def _appending(path: Path) -> Iterator[IO[bytes]]:
    """The file, locked and open for appending. Ends the last line first, if a crash cut it off."""
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
