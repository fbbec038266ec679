"""Shards: the part of a grid for each of several clusters. Every machine computes the same part."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sweeps.grid import Cell, GridError


def take_shard(cells: Sequence[Cell], text: str) -> list[Cell]:
    """The cells of shard `k/n`, chosen by run id: shards 1/n to n/n have each cell once. Raises GridError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise GridError(f"--shard {text!r} is not k/n, as in 1/2 for the first of two clusters")
    chosen = [cell for cell in cells if int(cell.config.run_id, 16) % count == number - 1]
    if not chosen:
        raise GridError(f"shard {text} holds none of the {len(cells)} cells; use fewer shards")
    return chosen
