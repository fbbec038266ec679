"""What the commands print: JSON, or tables and live progress, drawn with rich on a terminal and plain elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtrl.cpus import usable_cpus
from slurm.state import cell_directory, read_json
from slurm.survey import Survey, survey
from sweeps.manifest import Entry
from sweeps.plan import (
    GUESS,
    PlannedCell,
    ResourceClass,
    calibrate,
    disk_needed,
    plan_cells,
    resource_classes,
)
from sweeps.request import Request, why_slow_on_gpus

if TYPE_CHECKING:
    from sweeps.execute import Launched

INTERRUPTED = 130  # exit code

LIVE_ROWS = 24  # more cells than this: only those at work are drawn
SHOWN = 60  # rows of a printed table


def show_plan(request: Request, as_json: bool, max_hours: float | None) -> None:
    """What a launch of the request would run and cost."""
    profile = request.profile
    planned = plan_cells(request.cells, gpu=bool(profile and profile.gpus))
    found = survey(request.sweep, [cell.run_id for cell in request.cells], None)
    states = [cell.state for cell in found.cells.values()]
    left = [item for item, cell in zip(planned, found.cells.values(), strict=True) if not cell.finished]
    finished = {cell.run_id: cell.marker for cell in found.cells.values() if cell.finished}
    factors = calibrate(planned, finished)
    classes = resource_classes(left, profile, factors)
    hours = [sum(one.hours[index] for one in classes) for index in range(3)]
    jobs = sum(one.jobs for one in classes)
    at_once = len(left) if profile else usable_cpus()
    disk = disk_needed(left, at_once)
    kind = "GPU" if profile and profile.gpus else "core"
    slow = why_slow_on_gpus(request)
    if as_json:
        rows = [
            {"run_id": item.cell.run_id, "label": item.cell.label, "coordinates": item.cell.coordinates,
             "parameters": vars(item.parameters) | {"total": item.parameters.total},
             "seconds": item.estimate.seconds, "memory_mb": item.estimate.memory_mb, "state": state}
            for item, state in zip(planned, states, strict=True)
        ]  # fmt: skip
        totals = {
            "sweep": str(request.sweep), "to_run": len(left), "jobs": jobs, "hours": hours, "hours_of": kind,
            "disk_bytes": disk, "classes": [vars(one) for one in classes], "refusal": slow,
        }  # fmt: skip
        click.echo(json.dumps({**totals, "cells": rows}))
        return
    print_plan(Console(), planned, states)
    if left:
        click.echo()
        print_classes(Console(), classes, kind)
    known = "by cells that finished" if factors != GUESS else "a guess until cells have finished"
    click.echo(
        f"\n{len(planned)} cells in {request.sweep}, {len(left)} to run in {jobs} jobs: {hours[1]:,.1f} {kind} hours "
        f"likely ({hours[0]:,.1f} to {hours[2]:,.1f}; {known}), {size(disk)} of disk."
    )
    if profile is None and left:
        click.echo(f"On the {at_once} cores here about {duration(hours[1] * 3600 / at_once)}.")
    if max_hours is not None and hours[1] > max_hours:
        click.echo(f"That is above --max-gpu-hours {max_hours:,.0f}: a launch would be refused.")
    if slow:
        click.echo(f"A launch would be refused: {slow}")
    click.echo("Nothing was launched.")


def show_launch(sweep: Path, entries: list[Entry], launched: Launched, as_json: bool, *, here: bool) -> int:
    """Says what came of a launch. Returns the exit code: not 0 where cells that ran here are left over."""
    left = len(entries) - launched.over
    code = 0 if not here or not left else INTERRUPTED if launched.interrupted else 1
    code = 1 if launched.for_good else code
    if as_json:
        jobs = [record.job for record in launched.arrays]
        click.echo(json.dumps({
            "sweep": str(sweep), "cells": len(entries), "submitted": launched.submitted, "jobs": jobs,
            "over": launched.over, "given_up": launched.given_up, "busy": launched.busy,
            "refusal": launched.refusal, "refused_for_good": launched.for_good,
        }))  # fmt: skip
        return code
    labels = {entry.run_id: entry.label for entry in entries}
    for run_id, reason in launched.given_up.items():
        click.echo(f"{'failed' if here else 'given up'}: {labels[run_id]} ({run_id}): {reason}", err=True)
        if here:
            click.echo(f"        log: {sweep / 'cells' / run_id / 'log.txt'}", err=True)
    if launched.busy:
        count = len(launched.busy)
        click.echo(f"{count} cells are held by another process: {', '.join(launched.busy)}", err=True)
    if launched.for_good:
        click.echo(
            f"the cluster refuses this, now and later: {launched.refusal}. Change the profile (mtrl-sweep doctor "
            "profile=NAME checks it), or leave these cells out of the grid",
            err=True,
        )
    elif launched.refusal:
        click.echo(
            f"the cluster takes no more now ({launched.refusal}); launch again later for the rest", err=True
        )
    if not left:
        click.echo(f"All {len(entries)} cells are over. Next: python analysis/fit_scaling_laws.py {sweep}")
    elif here:
        click.echo(
            f"{launched.over} of {len(entries)} cells are over. The same command goes on with the others.",
            err=True,
        )
    else:
        arrays = f"{launched.submitted} submitted in {len(launched.arrays)} arrays"
        click.echo(f"{sweep}: {len(entries)} cells, {launched.over} over, {arrays}")
    return code


def show_status(found: Survey, sweep: Path, entries: list[Entry], as_json: bool) -> None:
    """Where every cell stands; as JSON one document in one line."""
    if as_json:
        rows = [
            {"run_id": entry.run_id, "label": entry.label, "state": cell.state, "reason": cell.reason,
             "vector_step": cell.heartbeat.get("vector_step"), "success": cell.heartbeat.get("success"),
             "traceback": cell.marker.get("traceback")}
            for entry, cell in zip(entries, found.cells.values(), strict=True)
        ]  # fmt: skip
        click.echo(json.dumps({"sweep": str(sweep), "cells": rows}))
        return
    print_status(Console(), sweep, entries, found)


def print_plan(console: Console, planned: Sequence[PlannedCell], states: Sequence[str]) -> None:
    """One row per cell: identity, parameters, estimated time, state."""
    rows = [
        (
            item.cell.run_id,
            item.cell.label,
            f"{item.parameters.actor:,}",
            f"{item.parameters.critic:,}",
            f"{item.parameters.total:,}",
            duration(item.estimate.seconds),
            state,
        )
        for item, state in zip(planned[:SHOWN], states, strict=False)
    ]
    print_table(
        console, ("run id", "cell", "actor", "critics", "total", "time", "state"), rows, shrinks="cell"
    )
    if len(planned) > SHOWN:
        console.print(
            f"... and {len(planned) - SHOWN} more cells; --json lists all", highlight=False, soft_wrap=True
        )


def print_classes(console: Console, classes: Sequence[ResourceClass], kind: str) -> None:
    """One row per class of memory."""
    rows = [
        (
            f"{one.memory_mb:,} MB",
            f"{one.cells:,}",
            f"{one.jobs:,}",
            " to ".join(dict.fromkeys(f"{count:,}" for count in one.parameters)),
            f"{duration(one.seconds[1])} ({duration(one.seconds[0])} to {duration(one.seconds[2])})",
            f"{one.hours[1]:,.1f} ({one.hours[0]:,.1f} to {one.hours[2]:,.1f})",
        )
        for one in classes
    ]
    names = ("memory of a job", "cells", "jobs", "parameters", "time of a cell", f"{kind} hours")
    print_table(console, names, rows, shrinks="parameters")


def print_table(
    console: Console, names: Sequence[str], rows: Sequence[Sequence[str]], *, shrinks: str
) -> None:
    """A table, numbers to the right. On a narrow terminal the column `shrinks` gives way, elsewhere none does."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    widths = [max(len(name), *(len(row[index]) for row in rows)) for index, name in enumerate(names)]
    spare = console.width - sum(widths) - 2 * len(widths)
    if console.is_terminal and spare < 0:
        widths[names.index(shrinks)] = max(8, widths[names.index(shrinks)] + spare)
    for index, (name, width) in enumerate(zip(names, widths, strict=True)):
        number = index > 0 and rows[0][index][:1].isdigit()
        table.add_column(
            name,
            justify="right" if number else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=width,
            max_width=width,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table, soft_wrap=not console.is_terminal)


def print_status(console: Console, sweep: Path, entries: Sequence[Entry], found: Survey) -> None:
    """How many cells are in which state, then those at work and those that need somebody."""
    counts = Counter(cell.state for cell in found.cells.values())
    summary = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    console.print(f"{sweep}: {len(entries)} cells: {summary}", highlight=False, soft_wrap=True)
    rows = []
    for entry in entries:
        cell = found.cells[entry.run_id]
        if cell.finished or (cell.state in ("missing", "pending") and not cell.reason):
            continue
        steps = cell.heartbeat.get("vector_step")
        success = cell.heartbeat.get("success")
        rows.append(
            (
                entry.run_id,
                entry.label,
                cell.state,
                "" if steps is None else f"{steps:,}",
                "" if success is None else f"{success:.2f}",
                cell.reason,
            )
        )
    if rows:
        print_table(
            console, ("run id", "cell", "state", "step", "success", "reason"), rows[:SHOWN], shrinks="reason"
        )
    if len(rows) > SHOWN:
        console.print(f"... and {len(rows) - SHOWN} more; --json lists all", highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `12.3 h` or `4.2 d`."""
    for size, unit in ((86_400 * 2, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / {'d': 86_400, 'h': 3_600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """`12 MB`, `3.4 GB` or `1.2 TB`."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e6:.0f} MB"


class LiveCells:
    """The cells of a local launch while they run: `start`, then `tick` often, `finish` for each, and leave."""

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
        now = time.monotonic()
        self._running = {run_id: self._running.get(run_id, now) for run_id in running}

    def finish(self, run_id: str, outcome: str) -> None:
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
        for run_id in list(self._running)[:LIVE_ROWS]:
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
