"""The end of a cell's log, and its progress: a run without errors prints nothing until it ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slurm.state import cell_directory, read_json
from sweeps.manifest import Entry
from sweeps.units import duration


def last_at_work(sweep: Path, entries: Sequence[Entry]) -> Path | None:
    """The folder of the cell that wrote its log or heartbeat last; None if no cell has written one."""
    folders = [cell_directory(sweep, entry.run_id) for entry in entries]
    written = [(when, folder) for folder in folders if (when := _last_written(folder))]
    return max(written)[1] if written else None


def last_lines(folder: Path, count: int) -> list[str]:
    """The last lines of the cell's log, without line ends; none if it has no log yet."""
    try:
        with (folder / "log.txt").open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=count)]
    except FileNotFoundError:
        return []


def where_it_stands(folder: Path) -> str:
    """`running on node7: step 1,200 of 12,000, success 0.40, as of 12 s ago`; empty before the first heartbeat."""
    beat = read_json(folder / "heartbeat.json")
    if not beat:
        return ""
    parts = [f"{beat.get('state')} on {beat.get('host')}: {_steps(beat)}"]
    if beat.get("success") is not None:
        parts.append(f"success {beat['success']:.2f}")
    parts.append(f"as of {duration(max(0.0, time.time() - beat.get('time', 0)))} ago")
    return ", ".join(parts)


def _steps(beat: dict[str, Any]) -> str:
    step, steps = beat.get("vector_step"), beat.get("vector_steps")
    if step is None:
        return "starting"
    return f"step {step:,} of {steps:,}" if steps else f"step {step:,}"


def _last_written(folder: Path) -> float:
    stamps = [
        path.stat().st_mtime for name in ("log.txt", "heartbeat.json") if (path := folder / name).exists()
    ]
    return max(stamps, default=0.0)
