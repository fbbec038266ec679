"""The paper's figure data (McLean et al. 2025, arXiv 2503.05126), as shipped in analysis/paper/*.csv."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np

from analysis.figures import Series

FOLDER = Path(__file__).parent / "paper"


@cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """The rows of `analysis/paper/<name>.csv`, values as text."""
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        return tuple(csv.DictReader(file))


def by_benchmark(name: str) -> dict[str, list[dict[str, str]]]:
    """{benchmark: rows} of a table, by its column `benchmark`."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in table(name):
        groups.setdefault(row["benchmark"], []).append(row)
    return groups


def parameters(row: dict[str, str]) -> int:
    """The parameters of actor and critics together."""
    return int(row["actor_parameters"]) + int(row["critic_parameters"])


def series_by_width(part: str = "total") -> dict[str, Series]:
    """{benchmark: success of the multi-head MLP against parameters}; `part` is actor, critic or total."""
    return {
        benchmark: Series(
            benchmark,
            np.array([_size(row, part) for row in rows]),
            np.array([float(row["success_iqm"]) for row in rows]),
        )
        for benchmark, rows in by_benchmark("success_by_width").items()
    }


def _size(row: dict[str, str], part: str) -> int:
    return parameters(row) if part == "total" else int(row[f"{part}_parameters"])
