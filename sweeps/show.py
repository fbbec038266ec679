"""The output of the commands: JSON, or text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mtrl.cpus import usable_cpus
from slurm.survey import Survey
from sweeps.approval import why_slow_on_gpus
from sweeps.launched import Launched
from sweeps.manifest import Entry
from sweeps.plan import GUESS, Plan, PlannedCell, ResourceClass
from sweeps.tables import print_table
from sweeps.time_left import seconds_left
from sweeps.units import duration, size

INTERRUPTED = 130  # exit code

SHOWN = 60  # rows of a printed table


def show_plan(plan: Plan, as_json: bool, max_hours: float | None) -> None:
    """Prints the cells and the cost of a launch."""
    if as_json:
        click.echo(json.dumps(_plan_as_json(plan)))
        return
    print_cost(plan, max_hours)
    click.echo("Nothing was launched.")


def print_cost(plan: Plan, max_hours: float | None) -> None:
    """Prints the cells of a plan, their classes of memory, and their cost."""
    print_plan(plan.cells, plan.states)
    if plan.left:
        click.echo()
        print_classes(plan.classes, plan.hours_of)
    low, likely, high = plan.hours
    known = "by cells that finished" if plan.factors != GUESS else "a guess until cells have finished"
    click.echo(
        f"\n{len(plan.cells)} cells in {plan.request.sweep}, {len(plan.left)} to run in {plan.jobs} jobs: "
        f"{likely:,.1f} {plan.hours_of} hours likely ({low:,.1f} to {high:,.1f}; {known}), {size(plan.disk)} of disk."
    )
    if plan.request.profile is None and plan.left:
        cores = usable_cpus()
        click.echo(f"On the {cores} cores here about {duration(likely * 3600 / cores)}.")
    if max_hours is not None and likely > max_hours:
        click.echo(f"That is above --max-gpu-hours {max_hours:,.0f}: a launch would be refused.")
    if slow := why_slow_on_gpus(plan.request):
        click.echo(f"A launch would be refused: {slow}")


def _plan_as_json(plan: Plan) -> dict[str, Any]:
    rows = [
        {"run_id": item.cell.run_id, "label": item.cell.label, "coordinates": item.cell.coordinates,
         "parameters": vars(item.parameters) | {"total": item.parameters.total},
         "seconds": item.estimate.seconds, "memory_mb": item.estimate.memory_mb, "state": state}
        for item, state in zip(plan.cells, plan.states, strict=True)
    ]  # fmt: skip
    return {
        "sweep": str(plan.request.sweep), "to_run": len(plan.left), "jobs": plan.jobs, "hours": plan.hours,
        "hours_of": plan.hours_of, "disk_bytes": plan.disk, "classes": [vars(one) for one in plan.classes],
        "refusal": why_slow_on_gpus(plan.request), "cells": rows,
    }  # fmt: skip


def show_launch(sweep: Path, entries: list[Entry], launched: Launched, as_json: bool, *, here: bool) -> int:
    """Prints the result of a launch. Returns the exit code: not 0 if cells that ran here are not over.

    `here` is whether the cells ran on this machine.
    """
    left = len(entries) - launched.over
    code = 0 if not here or not left else INTERRUPTED if launched.interrupted else 1
    code = 1 if launched.for_good else code
    if as_json:
        jobs = [record.job for record in launched.arrays]
        click.echo(json.dumps({
            "sweep": str(sweep), "cells": len(entries), "submitted": launched.submitted, "jobs": jobs,
            "over": launched.over, "given_up": launched.given_up, "busy": launched.busy,
            "cancelled": launched.cancelled, "refusal": launched.refusal, "refused_for_good": launched.for_good,
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
    if launched.cancelled:
        click.echo(
            f"{launched.cancelled} cells are cancelled and were left out. To run them all the same: "
            f"mtrl-sweep retry {sweep} --cancelled",
            err=True,
        )
    if not left:
        click.echo(f"All {len(entries)} cells are over. Next: python analysis/fit_scaling_laws.py {sweep}")
    elif here:
        click.echo(
            f"{launched.over} of {len(entries)} cells are over. The same command runs the others.",
            err=True,
        )
    else:
        arrays = f"{launched.submitted} submitted in {len(launched.arrays)} arrays"
        click.echo(f"{sweep}: {len(entries)} cells, {launched.over} over, {arrays}")
    return code


def show_end(found: Survey, sweep: Path, entries: list[Entry], as_json: bool) -> int:
    """Prints, after a wait, each cell that is not over. Returns the exit code: 1 if there is such a cell, else 0."""
    left = [(entry, cell) for entry in entries if not (cell := found.cells[entry.run_id]).finished]
    if not as_json:
        for entry, cell in left[:SHOWN]:
            reason = f": {cell.reason}" if cell.reason else ""
            click.echo(f"{cell.state}: {entry.label} ({entry.run_id}){reason}", err=True)
        click.echo(f"{len(entries) - len(left)} of {len(entries)} cells are over.", err=True)
    return 1 if left else 0


def show_status(found: Survey, sweep: Path, entries: list[Entry], as_json: bool) -> None:
    """Prints the state of every cell, or with `as_json` a JSON document in one line."""
    if as_json:
        rows = [
            {"run_id": entry.run_id, "label": entry.label, "state": cell.state, "reason": cell.reason,
             "vector_step": cell.heartbeat.get("vector_step"), "success": cell.heartbeat.get("success"),
             "traceback": cell.marker.get("traceback")}
            for entry, cell in zip(entries, found.cells.values(), strict=True)
        ]  # fmt: skip
        left = seconds_left(sweep, entries, found)
        click.echo(json.dumps({"sweep": str(sweep), "seconds_left": left, "cells": rows}))
        return
    print_status(sweep, entries, found)


def print_plan(planned: Sequence[PlannedCell], states: Sequence[str]) -> None:
    """Prints a row for each cell: run id, label, parameters, estimated time, state."""
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
    print_table(("run id", "cell", "actor", "critics", "total", "time", "state"), rows, shrinks="cell")
    if len(planned) > SHOWN:
        click.echo(f"... and {len(planned) - SHOWN} more cells; --json lists all")


def print_classes(classes: Sequence[ResourceClass], kind: str) -> None:
    """Prints a row for each class of memory."""
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
    print_table(names, rows, shrinks="parameters")


def print_status(sweep: Path, entries: Sequence[Entry], found: Survey) -> None:
    """Prints how many cells are in each state, then a row for each cell that runs or has a problem."""
    counts = Counter(cell.state for cell in found.cells.values())
    summary = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    click.echo(f"{sweep}: {len(entries)} cells: {summary}")
    if left := seconds_left(sweep, entries, found):
        low, likely, high = map(duration, left)
        click.echo(f"about {likely} left ({low} to {high}), if as many go on running")
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
        print_table(("run id", "cell", "state", "step", "success", "reason"), rows[:SHOWN], shrinks="reason")
    if len(rows) > SHOWN:
        click.echo(f"... and {len(rows) - SHOWN} more; --json lists all")
