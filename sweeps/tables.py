"""Tables of text for a terminal, a pipe or a file. All columns are always shown."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click

GAP = "  "
NARROWEST = 8  # characters that a column is cut to, at least


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]], *, shrinks: str) -> None:
    """Prints a table, with numbers aligned right. If the terminal is too narrow, the column `shrinks` is cut."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    if sys.stdout.isatty():
        spare = shutil.get_terminal_size().columns - sum(widths) - len(GAP) * (len(widths) - 1)
        place = list(names).index(shrinks)
        widths[place] = min(widths[place], max(NARROWEST, widths[place] + spare))
    right = [index > 0 and cell[:1].isdigit() for index, cell in enumerate(rows[0])]
    click.secho(_line(names, widths, right), bold=True)
    for row in rows:
        click.echo(_line(row, widths, right))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = []
    for cell, width, to_the_right in zip(cells, widths, right, strict=True):
        shown = cell if len(cell) <= width else f"{cell[: width - 1]}…"
        placed.append(shown.rjust(width) if to_the_right else shown.ljust(width))
    return GAP.join(placed).rstrip()
