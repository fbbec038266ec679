"""The display of a local launch's cells while they run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from slurm.state import cell_directory, read_json
from sweeps.manifest import Entry
from sweeps.units import duration

ROWS = 24  # at most so many running cells are drawn
PACE_SECONDS = 60.0  # a pace is told after so long; heartbeats come every 30 s


class LiveCells:
    """Draws the running cells of a local launch on a terminal, and prints a line for each that ends.

    A context manager. Within it call `tick` often, and `finish` for each cell that ends.
    """

    def __init__(
        self, console: Console, sweep: Path, entries: Sequence[Entry], seconds: Sequence[float]
    ) -> None:
        """`seconds` are the planned seconds of each whole cell; only their ratios count."""
        self._console = console
        self._sweep = sweep
        self._labels = {entry.run_id: entry.label for entry in entries}
        self._outcomes: dict[str, str] = {}
        self._running: dict[str, float] = {}  # run id -> when it started, monotonic seconds
        self._planned = dict(zip(self._labels, seconds, strict=True))
        self._shares = {run_id: self._share_done(run_id) for run_id in self._labels}
        self._trained_before = self._trained()
        # when the first step was seen, and what was trained then
        self._pace_from: tuple[float, float] | None = None
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._draw, transient=True)

    def __enter__(self) -> LiveCells:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def tick(self, running: set[str]) -> None:
        """Takes the run ids of the cells that run now."""
        now = time.monotonic()
        self._running = {run_id: self._running.get(run_id, now) for run_id in running}

    def finish(self, run_id: str, outcome: str) -> None:
        """Prints the outcome of a cell that has ended."""
        if outcome != "stopped":
            self._outcomes[run_id] = outcome
        self._shares[run_id] = 1.0 if outcome == "done" else self._share_done(run_id)
        started = self._running.pop(run_id, None)
        took = "" if started is None else f"  {duration(time.monotonic() - started)}"
        place = f"[{len(self._outcomes)}/{len(self._labels)}]"
        beat = self._beat(run_id)
        success = f"  success {beat['success']:.2f}" if beat.get("success") is not None else ""
        self._console.print(
            f"{place} {outcome:8} {self._labels[run_id]}{success}{took}", highlight=False, markup=False
        )

    def seconds_left(self) -> float | None:
        """The seconds until all cells are over, by the pace since the first step; None in the first minute after it."""
        self._shares |= {run_id: self._share_done(run_id) for run_id in self._running}
        now, trained = time.monotonic(), self._trained()
        if self._pace_from is None and trained > self._trained_before:
            self._pace_from = (now, trained)
        then, trained_then = self._pace_from or (now, trained)
        if now - then < PACE_SECONDS or trained <= trained_then:
            return None
        waiting = self._labels.keys() - self._outcomes.keys()
        left = sum(self._planned[run_id] * (1 - self._shares[run_id]) for run_id in waiting)
        return left / (trained - trained_then) * (now - then)

    def _trained(self) -> float:
        """Planned seconds of what is trained, of cells that failed too."""
        return sum(seconds * self._shares[run_id] for run_id, seconds in self._planned.items())

    def _share_done(self, run_id: str) -> float:
        beat = self._beat(run_id)
        return (beat.get("vector_step") or 0) / (beat.get("vector_steps") or 1)

    def _beat(self, run_id: str) -> dict[str, Any]:
        return read_json(cell_directory(self._sweep, run_id) / "heartbeat.json") or {}

    def _draw(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for run_id in list(self._running)[:ROWS]:
            beat = self._beat(run_id)
            steps, total = beat.get("vector_step") or 0, beat.get("vector_steps") or 1
            success = beat.get("success")
            table.add_row(
                self._labels[run_id],
                ProgressBar(total=total, completed=steps, width=30),
                f"{steps:,} of {total:,} steps" if beat.get("vector_steps") else "starting",
                "" if success is None else f"success {success:.2f}",
            )
        over = f"{len(self._outcomes)} of {len(self._labels)} cells over, {len(self._running)} at work"
        seconds = self.seconds_left()
        left = "" if seconds is None else f", about {duration(seconds)} left"
        return Group(table, Text(over + left, style="dim"))
