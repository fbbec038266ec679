"""Sweeps with several updates per step: env steps to a success by samples per env step and size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis import figures
from analysis.figures import StepsLine
from analysis.law_study import estimate_words, interval_words, short
from analysis.report import Drawing, Table, Text
from analysis.time_laws import times_of
from analysis.update_laws import NAMES, UpdateLaw, UpdateTimes, update_law
from analysis.variants import PLAIN, Variant, short_name

LEVELS = (0.25, 0.5, 0.75)  # J
OF_SIGMA = (
    "train.updates_per_step",
    "agent.batch_per_task",
    "agent.batch",
)  # the settings that sigma is made of
SYMBOLS = {"sigma": "alpha", "N": "beta"}

Laws = dict[str, list[UpdateLaw]]  # by group, one for each J


def laws(found: Sequence[Variant], generator: np.random.Generator) -> Laws:
    """The laws of each group whose variants differ in sigma; a group differs in nothing but sigma and size."""
    groups: dict[str, list[Variant]] = {}
    for variant in found:
        if variant.batch and variant.finished.any() and len(variant.known_curves()[0]) > 1:
            groups.setdefault(_group(variant), []).append(variant)
    return {
        name: [update_law(_seen(group, level), level, generator) for level in LEVELS]
        for name, group in groups.items()
        if len({sigma_of(variant) for variant in group}) > 1
    }


def sigma_of(variant: Variant) -> float:
    """Transitions that updates draw per env step."""
    updates = variant.config.get("train", {}).get("updates_per_step", 1)
    return float(variant.batch * updates / variant.task_count)


def _group(variant: Variant) -> str:
    others = [
        f"{name.rpartition('.')[2]} {value}" for name, value in variant.settings if name not in OF_SIGMA
    ]
    system = [] if variant.system == PLAIN else [variant.system]
    return ", ".join([short_name(variant.benchmark), *system, *others])


def _seen(group: Sequence[Variant], success: float) -> UpdateTimes:
    each = [times_of([variant], success) for variant in group]
    sigma = np.concatenate([np.full(len(t.size), sigma_of(v)) for v, t in zip(group, each, strict=True)])
    return UpdateTimes(sigma, times_of(group, success))


def sentences(found: Laws) -> tuple[list[str], list[str]]:
    """What the laws show, and what they do not."""
    shows: list[str] = []
    not_shown: list[str] = []
    for group, members in found.items():
        for law in members:
            where = f"{group}: env steps to {law.success:.0%} success"
            if law.refusal:
                not_shown.append(f"{where}, by updates and size: {law.refusal}.")
                continue
            for name in NAMES:
                _line_words(where, name, law, shows, not_shown)
                _law_words(where, name, law, shows, not_shown)
    return shows, not_shown


def _line_words(where: str, name: str, law: UpdateLaw, shows: list[str], not_shown: list[str]) -> None:
    found = law.line[name]
    values, what = {
        "sigma": (law.seen.sigma, "samples per env step (sigma)"), "N": (law.seen.times.size, "parameters (N)"),
    }[name]  # fmt: skip
    over = f"from {short(values.min())} to {short(values.max())} {what}"
    if found.clear:
        shows.append(
            f"{where} go as {name}^{-found.value:.2f} {over}; {interval_words(found)} of the exponent "
            f"({law.censored} of {len(law.seen.sigma)} runs censored)."
        )
    else:
        not_shown.append(f"{where}: whether they change {over}; exponent {estimate_words(found)}.")


def _law_words(where: str, name: str, law: UpdateLaw, shows: list[str], not_shown: list[str]) -> None:
    found, refusal = law.law[name], law.refused(name)
    what = f"{where}: {SYMBOLS[name]}, the exponent of {name} above a least number of steps,"
    if refusal:
        not_shown.append(f"{what} is not identified: {refusal}.")
    else:
        shows.append(f"{what} is {found.value:.2f}; {interval_words(found)}.")


def items(found: Laws) -> list[Text | Table | Drawing]:
    """The laws' formula, their exponents, and D_J against sigma, a line per size."""
    if not found:
        return []
    shown: list[Text | Table | Drawing] = [Text(LAW_WORDS), _table(found)]
    return shown + _drawing(found)


def _table(found: Laws) -> Table:
    rows = []
    for group, members in found.items():
        for law in members:
            runs = len(law.seen.sigma)
            row = [group, f"{law.success:.0%}", f"{runs - law.censored} of {runs}"]
            if law.refusal:
                rows.append([*row, *["–"] * 5, law.refusal])
                continue
            line = [estimate_words(e) for e in law.line.values()]
            open_ = {name: law.refused(name) for name in NAMES}
            above = ["–" if open_[name] else estimate_words(e) for name, e in law.law.items()]
            least = "–" if any(open_.values()) else short(law.least)
            why = "; ".join(f"{SYMBOLS[name]}: {text}" for name, text in open_.items() if text)
            rows.append([*row, *line, *above, least, why])
    caption = (
        "Env steps to a success J: exponents of sigma and N over the measured range (jackknife intervals), and above a "
        "least number of steps D_min (intervals from drawing whole runs). Runs that never reach J are censored, not "
        "left out."
    )
    header = [
        "group",
        "J",
        "runs that reach it",
        "sigma, measured",
        "N, measured",
        "alpha",
        "beta",
        "D_min",
        "why refused",
    ]
    return Table(caption, header, rows, texts=(0, 8))


def _drawing(found: Laws) -> list[Drawing]:
    known = [(group, law) for group, members in found.items() for law in members if not law.refusal]
    first, more = figures.first_panels(known)
    if not first:
        return []
    panels = {f"{group}, J = {law.success:.0%}": _lines(law) for group, law in first}
    caption = (
        "Env steps to a success J against the samples that updates draw per env step, on logarithmic axes: a dot per "
        "run, a triangle for a run that stopped before it reached J. Lines: the law with a least number of steps, "
        f"dashed where its exponents are not identified.{more}"
    )
    drawing = figures.steps_by_updates(panels)
    return [Drawing("steps_by_updates", "Steps to a success by updates", caption, drawing)]


def _lines(law: UpdateLaw) -> list[StepsLine]:
    seen, lines = law.seen, []
    grid = np.geomspace(seen.sigma.min(), seen.sigma.max(), 40)
    known = not any(law.refused(name) for name in NAMES)
    for size in np.unique(seen.times.size):
        own = seen.times.size == size
        curve = (grid, law.steps(grid, size))
        lines.append(
            StepsLine(
                f"{short(size)} parameters",
                seen.sigma[own],
                seen.times.steps[own],
                seen.times.censored[own],
                curve,
                known,
            )
        )
    return lines


LAW_WORDS = (
    "Env steps D_J to a success J by the samples that updates draw per env step, sigma (transitions of an update times "
    "updates per vector step over tasks), and parameters N: D_J = D_min (1 + (a / sigma)^alpha + (b / N)^beta). The "
    "law without D_min, D_J = A sigma^-s N^-n, holds over the measured range only and asks for less."
)
