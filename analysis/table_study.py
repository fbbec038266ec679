"""Tables of points from elsewhere -> the page about them. Columns: parameters, success, n, and optional sizes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis import law_items, law_study
from analysis.errors import SweepError
from analysis.figures import Series, success_against_parameters
from analysis.law_study import Law, law_of_points
from analysis.models import MODELS, Likelihood
from analysis.report import Drawing, Page, Section, Text
from analysis.scaling_laws import Points

NEEDED = ("parameters", "success", "n")
SIZES = ("parameters", "actor", "critic", "tasks")

Rows = list[dict[str, float]]


def read_table(path: Path) -> dict[str, Rows]:
    """{benchmark: rows} of the table; one group if it has no such column. Raises SweepError, naming a wrong row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} cannot be read as a table: {error}") from None
    missing = [name for name in NEEDED if not rows or name not in rows[0]]
    if missing:
        raise SweepError(
            f"{path} has no column {', '.join(missing)}; it needs {', '.join(NEEDED)} and a header line"
        )
    groups: dict[str, Rows] = {}
    for number, row in enumerate(rows, start=2):
        try:
            values = {name: float(row[name]) for name in (*SIZES, "success", "n") if row.get(name)}
            if not (0 <= values["success"] <= 1 and values["n"] > 0 and values["parameters"] > 0):
                raise ValueError("success must be from 0 to 1, parameters and n above 0")
        except (KeyError, ValueError) as error:
            raise SweepError(f"{path}, line {number}: {error}") from None
        groups.setdefault(row.get("benchmark") or path.stem, []).append(values)
    return groups


def study(
    paths: Sequence[Path], *, model: str = "auto", likelihood: Likelihood = "logit", seed: int = 0
) -> Page:
    """The page about the tables, taken together. A law with the number of tasks is fitted to all groups together."""
    generator = np.random.default_rng(seed)
    rows: dict[str, Rows] = {}
    for path in paths:
        for name, members in read_table(path).items():
            rows.setdefault(name, []).extend(members)
    name = "+".join(path.stem for path in paths)
    if model != "auto" and "tasks" in MODELS[model].regressors:
        rows = {name: [row for members in rows.values() for row in members]}
    laws = [_law(group, _points(members), model, likelihood, generator) for group, members in rows.items()]
    said = [law_study.sentences(law) for law in laws]
    points = sum(len(law.points) for law in laws)
    tables = "a table" if len(paths) == 1 else f"{len(paths)} tables"
    return Page(
        title=f"Scaling laws: {name}",
        lead=f"{points} points from {tables}; how they were measured is for the table to say.",
        facts=[("groups", str(len(laws))), ("points", str(points))],
        shows=[line for yes, _ in said for line in yes],
        does_not_show=[line for _, no in said for line in no],
        sections=[
            Section("Scaling laws", [*law_items.items(laws), _drawing(laws)]),
            Section("How far to trust the laws", law_items.diagnostics(laws)),
            Section("Methods", [Text(METHODS)]),
        ],
        footer=f"mtrl, from {', '.join(path.name for path in paths)}.",
        fits={law.group: law.summary() for law in laws},
    )


def _law(
    group: str, points: Points, model: str, likelihood: Likelihood, generator: np.random.Generator
) -> Law:
    if model == "auto":
        model = "actor_critic" if {"actor", "critic"} <= set(points.sizes) else "power"
    lacking = [size for size in MODELS[model].regressors if size not in points.sizes]
    if lacking:
        raise SweepError(f"{group} has no column {', '.join(lacking)}, which the law {model} needs")
    return law_of_points(group, points, model, generator, likelihood=likelihood)


def _points(rows: Rows) -> Points:
    known = [name for name in SIZES if all(name in row for row in rows)]
    sizes = {name: np.array([row[name] for row in rows]) for name in known}
    strata = np.unique(np.stack(list(sizes.values())), axis=1, return_inverse=True)[1]
    success, trials = (np.array([row[name] for row in rows]) for name in ("success", "n"))
    return Points(sizes, success, trials, strata)


def _drawing(laws: Sequence[Law]) -> Drawing:
    series = []
    for law in laws:
        sizes = law.points.sizes["parameters"]
        grid, order = np.geomspace(sizes.min(), sizes.max(), 80), np.argsort(sizes)
        drawn = law.line.form == "slope" and not law.line.refusal
        curve = (grid, 1 - law.line.failure(parameters=grid)) if drawn else None
        series.append(Series(law.group, sizes[order], law.points.success[order], curve=curve))
    caption = "Points of the table; the curve is the power law over the measured sizes."
    drawing = success_against_parameters({"the table": series})
    return Drawing("success_against_parameters", "Success against parameters", caption, drawing)


METHODS = (
    "Over the measured sizes: least squares on log failure. With a free floor: least squares on logits, "
    "profile-likelihood intervals with the F quantile. Fewer than 4 sizes, an interval wider than 1, or a constant "
    "that fits as well: not identified."
)
