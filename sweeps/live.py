"""The display of a local launch's cells while they run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from slurm.state import cell_directory, read_json
from sweeps.manifest import Entry
from sweeps.units import duration

ROWS = 24  # at most so many running cells are drawn


class LiveCells:
    """Draws the running cells of a local launch on a terminal, and prints a line for each that ends.

    A context manager. Within it call `tick` often, and `finish` for each cell that ends.
    """

    def __init__(self, console: Console, sweep: Path, entries: Sequence[Entry]) -> None:
        self._console = console
        self._sweep = sweep
        self._labels = {entry.run_id: entry.label for entry in entries}
        self._outcomes: dict[str, str] = {}
        self._running: dict[str, float] = {}  # run id -> when it started, monotonic seconds
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
        self._outcomes[run_id] = outcome
        started = self._running.pop(run_id, None)
        took = "" if started is None else f"  {duration(time.monotonic() - started)}"
        place = f"[{len(self._outcomes)}/{len(self._labels)}]"
        beat = read_json(cell_directory(self._sweep, run_id) / "heartbeat.json") or {}
        success = f"  success {beat['success']:.2f}" if beat.get("success") is not None else ""
        self._console.print(
            f"{place} {outcome:8} {self._labels[run_id]}{success}{took}", highlight=False, markup=False
        )

    def _draw(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for run_id in list(self._running)[:ROWS]:
            beat = read_json(cell_directory(self._sweep, run_id) / "heartbeat.json") or {}
            steps, total = beat.get("vector_step") or 0, beat.get("vector_steps") or 1
            success = beat.get("success")
            table.add_row(
                self._labels[run_id],
                ProgressBar(total=total, completed=steps, width=30),
                f"{steps:,} of {total:,} steps" if beat.get("vector_steps") else "starting",
                "" if success is None else f"success {success:.2f}",
            )
        over = f"{len(self._outcomes)} of {len(self._labels)} cells over, {len(self._running)} at work"
        return Group(table, Text(over, style="dim"))
