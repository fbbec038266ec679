"""The end of a cell's log or of a job's output, and a cell's progress.

A log has a line for each evaluation; what has come since then is known from the heartbeat.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

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
        return _last_lines_of(folder / "log.txt", count)
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


def show_job_output(sweep: Path, lines: int, as_json: bool) -> None:
    """Prints the end of the latest job's own output, for a job that failed before a cell began."""
    outputs = sorted((sweep / "slurm").glob("*.out"), key=lambda path: path.stat().st_mtime)
    if not outputs:
        raise click.ClickException(f"no cell of {sweep} has written anything yet")
    text = _last_lines_of(outputs[-1], lines)
    if as_json:
        click.echo(json.dumps({"run_id": None, "log": str(outputs[-1]), "stands": "", "lines": text}))
        return
    click.echo(f"== {outputs[-1]}\nno cell has written anything yet; this is the job's own output", err=True)
    click.echo("\n".join(text))


def follow_log(log: Path) -> None:
    """Prints new text of the log as it comes, until Ctrl-C."""
    with log.open(errors="replace") as file:
        file.seek(0, 2)
        while True:
            click.echo(file.read(), nl=False)
            time.sleep(0.5)


def _last_lines_of(path: Path, count: int) -> list[str]:
    with path.open(errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


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
