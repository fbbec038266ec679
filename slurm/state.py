"""The state of a cell, from the files in its folder. Markers are small JSON files, complete or absent.

DONE.json       the run is over: outcome done or diverged, its seconds, the size and time stamp of run.h5
FAILED.json     the latest attempt failed: error, traceback, attempts, cause
heartbeat.json  the progress of the latest attempt
lock            held (flock) by the process that runs the cell
log.txt         the output of all attempts

CANCELLED.json in the sweep's folder names the cells that must not run.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from mtrl.results import RunFileError, read_run

Outcome = Literal["done", "diverged", "stopped", "failed", "busy"]
# stopped: began, but neither runs nor is in the queue. missing: never began. pending and held: in Slurm's queue.
State = Literal["done", "diverged", "failed", "running", "pending", "held", "stopped", "cancelled", "missing"]
ALIVE_SECONDS = 120.0  # a cell with an older heartbeat does not count as running


@dataclass(frozen=True)
class CellState:
    """The state of one cell, from its files."""

    run_id: str
    state: State
    reason: str = ""
    heartbeat: dict[str, Any] = field(default_factory=dict)
    marker: dict[str, Any] = field(default_factory=dict)  # of DONE.json or FAILED.json

    @property
    def finished(self) -> bool:
        """Whether the cell is over: done or diverged."""
        return self.state in ("done", "diverged")


def cell_directory(sweep: Path, run_id: str) -> Path:
    """The folder of a cell."""
    return sweep / "cells" / run_id


def read_state(sweep: Path, run_id: str) -> CellState:
    """The state of a cell from its files, with at most four reads.

    `running` means a recent heartbeat; only Slurm's queue can prove that the cell runs.
    """
    directory = cell_directory(sweep, run_id)
    done = read_json(directory / "DONE.json")
    if done is not None:
        problem = unreadable_run(directory, done) if done else "DONE.json is damaged"
        if not problem:
            return CellState(
                run_id, "diverged" if done.get("outcome") == "diverged" else "done", "", {}, done
            )
        return CellState(run_id, "missing", problem)
    heartbeat = read_json(directory / "heartbeat.json") or {}
    failed = read_json(directory / "FAILED.json")
    if failed is not None:
        return CellState(
            run_id, "failed", str(failed.get("error", "FAILED.json is damaged")), heartbeat, failed
        )
    if not heartbeat:
        return CellState(run_id, "missing")
    return CellState(run_id, "running" if _is_alive(heartbeat) else "stopped", "", heartbeat)


def _is_alive(heartbeat: dict[str, Any]) -> bool:
    if heartbeat.get("state") != "running" or time.time() - heartbeat.get("time", 0) > ALIVE_SECONDS:
        return False
    return heartbeat.get("host") != socket.gethostname() or Path(f"/proc/{heartbeat.get('pid')}").exists()


def unreadable_run(directory: Path, done: dict[str, Any]) -> str:
    """Why the run file of a finished cell cannot be used; empty if it can. `done` is the content of DONE.json.

    The file is opened only if its size or time stamp differ from those in DONE.json.
    """
    path = directory / "run.h5"
    try:
        status = path.stat()
        if [status.st_size, status.st_mtime_ns] != [done.get("run_bytes"), done.get("run_mtime_ns")]:
            read_run(path)
    except FileNotFoundError:
        return "run.h5 is gone"
    except (RunFileError, OSError) as error:
        return str(error)
    return ""


def write_done(directory: Path, run_id: str, outcome: str, **facts: Any) -> None:
    """Writes DONE.json, with run.h5's size and time stamp, and removes FAILED.json. `outcome`: done or diverged."""
    status = (directory / "run.h5").stat()
    stamp = {"run_bytes": status.st_size, "run_mtime_ns": status.st_mtime_ns}
    write_json(directory / "DONE.json", {"run_id": run_id, "outcome": outcome, **facts, **stamp}, sync=True)
    (directory / "FAILED.json").unlink(missing_ok=True)


def write_failed(directory: Path, run_id: str, error: str, *, cause: str, **facts: Any) -> None:
    """Writes FAILED.json for the latest attempt.

    `slurm.retry` decides by `cause`: exception, memory, no gpu or killed. If the file cannot be written, prints that.
    """
    attempts = (read_json(directory / "heartbeat.json") or {}).get("attempt", 1)
    content = {
        "run_id": run_id,
        "error": error,
        "traceback": "",
        "cause": cause,
        "attempts": attempts,
        **facts,
    }
    try:
        write_json(directory / "FAILED.json", {**content, "time": time.time()})
    except OSError as problem:
        print(f"FAILED.json not written: {problem}", file=sys.stderr)


def write_json(path: Path, content: dict[str, Any], *, sync: bool = False) -> None:
    """Writes `content` so that a reader sees the whole old or the whole new file. A NaN becomes null."""
    unfinished = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    plain = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in content.items()
    }
    with unfinished.open("w") as file:
        json.dump(plain, file)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    unfinished.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None if there is no file, {} if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except OSError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def parse_lines(lines: Sequence[bytes]) -> list[Any]:
    """The JSON value of each line; None for a damaged line."""
    return [_parse_line(line) for line in lines]


def _parse_line(line: bytes) -> Any:
    for parse in (
        from_json,
        json.loads,
    ):  # the first takes half the time, the second also half a surrogate pair
        with suppress(ValueError):
            return parse(line)
    return None


def cancelled_cells(sweep: Path) -> set[str]:
    """The run ids that CANCELLED.json names."""
    return set((read_json(sweep / "CANCELLED.json") or {}).get("run_ids", ()))


def is_cancelled(sweep: Path, run_id: str) -> bool:
    """Whether CANCELLED.json names the cell."""
    return run_id in cancelled_cells(sweep)


def write_cancelled(sweep: Path, run_ids: set[str]) -> None:
    """Writes CANCELLED.json: only these cells must not run."""
    write_json(sweep / "CANCELLED.json", {"run_ids": sorted(run_ids)}, sync=True)
