"""The grids that come with the project: the question, the cells and the cost of each."""

from __future__ import annotations

import json
from typing import Any

import click

from sweeps.grid import expand, grid_names, load_grid
from sweeps.plan import device_hours, plan_cells


def show_grids(as_json: bool) -> None:
    """Prints each grid with its question, its number of cells and its cost in core hours."""
    facts = [_facts(name) for name in grid_names()]
    if as_json:
        click.echo(json.dumps(facts))
        return
    for fact in facts:
        hours = fact["core_hours"]
        cost = f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"
        click.secho(f"{fact['name']}: {fact['cells']} cells, about {cost} core hours", bold=True)
        click.echo(f"    {fact['about']}")
    click.echo("\nThe cells of one: mtrl-sweep plan grid=NAME. A grid of your own: grid=FILE.toml")


def _facts(name: str) -> dict[str, Any]:
    grid = load_grid(name)
    planned = plan_cells(expand(grid), gpu=False)
    return {
        "name": name,
        "about": grid.about,
        "cells": len(planned),
        "core_hours": device_hours(planned, None),
    }
