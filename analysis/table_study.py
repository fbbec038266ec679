"""A table of someone else's results -> the page about it: columns parameters, success and n, and what else is known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from analysis import figures
from analysis.figures import Series, success_against_parameters
from analysis.frames import SweepError
from analysis.law_study import choice_table
from analysis.models import MODELS, Likelihood
from analysis.report import Drawing, Page, Section, Table, Text
from analysis.scaling_laws import Fit, Points, compare, fit

NEEDED = ("parameters", "success", "n")
SIZES = ("parameters", "actor", "critic", "tasks")


def read_table(path: Path) -> dict[str, Points]:
    """Points by benchmark (one group where the table has no such column). Raises SweepError naming the row."""
    return {name: _points(members) for name, members in _rows(path).items()}


def _rows(path: Path) -> dict[str, list[dict[str, float]]]:
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
    groups: dict[str, list[dict[str, float]]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            values = {name: float(row[name]) for name in (*SIZES, "success", "n") if row.get(name)}
            if not (0 <= values["success"] <= 1 and values["n"] > 0 and values["parameters"] > 0):
                raise ValueError("success must be from 0 to 1, parameters and n above 0")
        except (KeyError, ValueError) as error:
            raise SweepError(f"{path}, line {number}: {error}") from None
        groups.setdefault(row.get("benchmark") or path.stem, []).append(values)
    return groups


def study(path: Path, *, model: str = "auto", likelihood: Likelihood = "logit", seed: int = 0) -> Page:
    """The page about the table at `path`. A law with tasks in it is fitted to all groups together."""
    generator = np.random.default_rng(seed)
    groups = read_table(path)
    if model != "auto" and "tasks" in MODELS[model].regressors:
        groups = {path.stem: _points([row for rows in _rows(path).values() for row in rows])}
    fits = {}
    for name, points in groups.items():
        apart = {"actor", "critic"} <= set(points.sizes)
        law = MODELS[("actor_critic" if apart else "power") if model == "auto" else model]
        lacking = [size for size in law.regressors if size not in points.sizes]
        if lacking:
            raise SweepError(f"{path} has no column {', '.join(lacking)}, which the law {law.name} needs")
        fits[name] = fit(law, points, generator, likelihood=likelihood)
    shows, lacks = [], []
    for name, law_fit in fits.items():
        for exponent in law_fit.exponents:
            low, high = sorted((abs(exponent.low), abs(exponent.high)))
            words = f"{abs(exponent.estimate):.2f} (95% interval {low:.2f} to {high:.2f})"
            if exponent.identified:
                verb = "grows" if exponent.estimate < 0 else "falls"
                shows.append(f"{name}: failure {verb} with {exponent.name} with exponent {words}.")
            else:
                lacks.append(
                    f"{name}: the exponent of {exponent.name} is not identified: {exponent.refusal}."
                )
    return Page(
        title=f"Scaling laws: {path.name}",
        lead=f"{sum(map(len, groups.values()))} points from a table; how they were measured is for the table to say.",
        facts=[("groups", str(len(groups))), ("points", str(sum(map(len, groups.values()))))],
        shows=shows,
        does_not_show=lacks,
        sections=[
            Section("Success and size", [_drawing(groups, fits), _residuals(groups, fits)]),
            Section("Which law", [_choices(groups, generator)]),
            Section("Methods", [Text(METHODS)]),
        ],
        footer=f"mtrl, from {path.name}.",
        fits={name: law_fit.summary() for name, law_fit in fits.items()},
    )


def _points(rows: list[dict[str, float]]) -> Points:
    known = [name for name in SIZES if all(name in row for row in rows)]
    sizes = {name: np.array([row[name] for row in rows]) for name in known}
    return Points(sizes, np.array([row["success"] for row in rows]), np.array([row["n"] for row in rows]))


def _drawing(groups: dict[str, Points], fits: dict[str, Fit]) -> Drawing:
    series = []
    for name, points in groups.items():
        sizes = points.sizes["parameters"]
        grid = np.geomspace(sizes.min(), sizes.max(), 80)
        drawn = fits[name].identified and MODELS[fits[name].model].regressors == ("parameters",)
        order = np.argsort(sizes)
        curve = (grid, 1 - fits[name].failure(parameters=grid)) if drawn else None
        series.append(Series(name, sizes[order], points.success[order], curve=curve))
    caption = "Points of the table; a curve where a law of all parameters is identified."
    drawing = success_against_parameters({"the table": series})
    return Drawing("success_against_parameters", "Success against parameters", caption, drawing)


def _residuals(groups: dict[str, Points], fits: dict[str, Fit]) -> Text | Drawing:
    found = {
        name: (points.sizes["parameters"], fits[name].residuals(points))
        for name, points in groups.items()
        if not fits[name].refusal
    }
    if not found:
        return Text("No law could be fitted, so there are no residuals.")
    return Drawing(
        "residuals", "Residuals", "Fitted minus seen failure, in logits.", figures.residuals(found)
    )


def _choices(groups: dict[str, Points], generator: np.random.Generator) -> Table:
    return choice_table(
        {
            name: compare(
                [law for law in MODELS.values() if set(law.regressors) <= set(points.sizes)],
                points,
                generator,
            )
            for name, points in groups.items()
        }
    )


METHODS = (
    "Least squares on logits of the failure rate; profile-likelihood intervals with the F quantile. Fewer than 4 "
    "sizes, an interval wider than 1, or a constant that fits as well: not identified."
)
