"""Learning curves of a sweep's groups: laws in parameters, env steps and compute; tables, figures and sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import figures
from analysis.data_laws import (
    SEEDS_NEEDED,
    Curves,
    DataLaw,
    Optimum,
    agree,
    costs,
    fit_curves,
    growth,
    log_spaced,
    optimum,
)
from analysis.figures import Series
from analysis.law_study import estimate_words, interval_words, short
from analysis.models import Array
from analysis.report import Drawing, Table, Text
from analysis.slopes import WIDEST, doubt
from analysis.time_laws import TimeLaw, time_law, times_of
from analysis.variants import Variant
from mtrl.config import Config
from mtrl.sizing import flops_by_parameters, update_flops

FORMS = ("additive", "bounded")
LEVELS = (0.25, 0.5, 0.75)  # J, of D_J
SAME = 0.05  # success: two laws that differ by more disagree
BEYOND = 10.0  # times the largest compute that was run

Items = list[Text | Table | Drawing]


@dataclass(frozen=True)
class Line:
    """The mean curve of one size: success [n] at env steps [n] over all tasks."""

    name: str
    parameters: float
    steps: Array
    success: Array
    cost: float  # FLOPs of updates per env step; 0 where that is not known

    @property
    def compute(self) -> Array:
        return self.steps * self.cost


@dataclass(frozen=True)
class CurveStudy:
    """The laws of one group's learning curves."""

    group: str
    refusal: str
    curves: Curves
    laws: tuple[DataLaw, ...]
    optima: tuple[tuple[Optimum, ...], ...]  # by law, at each budget
    times: tuple[TimeLaw, ...]
    lines: tuple[Line, ...]  # smallest size first

    def summary(self) -> dict[str, object]:
        """Everything to keep, for JSON."""
        return {
            "refusal": self.refusal,
            "laws": [law.summary() for law in self.laws],
            "times": [
                {"success": t.success, "censored": t.censored, "refusal": t.refusal,
                 "exponent": t.exponent.summary() if t.exponent else None}
                for t in self.times
            ],
        }  # fmt: skip


def study(name: str, group: Sequence[Variant], generator: np.random.Generator) -> CurveStudy | None:
    """The laws of the group's learning curves; None where its runs have no more than one evaluation."""
    group = [v for v in group if v.finished.any() and len(v.known_curves()[0]) > 1]
    if not group:
        return None
    times = tuple(time_law(times_of(group, level), level) for level in LEVELS)
    return study_of_curves(name, curves_of(group), times, tuple(map(_line, group)), generator)


def study_of_curves(
    name: str,
    curves: Curves,
    times: tuple[TimeLaw, ...],
    lines: Sequence[Line],
    generator: np.random.Generator,
    *,
    seeds: int = SEEDS_NEEDED,
) -> CurveStudy:
    """The laws of curves, each size with so many at least; 1 where a curve is the mean of several runs."""
    lines = tuple(sorted(lines, key=lambda line: line.parameters))
    refusal = curves.refusal(seeds)
    if refusal:
        return CurveStudy(name, refusal, curves, (), (), times, lines)
    laws = tuple(fit_curves(curves, form, generator) for form in FORMS)
    known = bool((curves.cost > 0).all()) and not any(_unknown(law) for law in laws)
    optima = tuple(tuple(optimum(law, curves, b) for b in budgets(curves)) for law in laws) if known else ()
    return CurveStudy(name, "", curves, laws, optima, times, lines)


def _line(variant: Variant) -> Line:
    steps, curves = variant.known_curves()
    return Line(
        variant.name, float(variant.parameters["total"]), steps * variant.task_count,
        np.nanmean(curves, axis=0), flops_per_env_step(variant),
    )  # fmt: skip


def curves_of(group: Sequence[Variant]) -> Curves:
    """At most 12 log-spaced points of each finished run's curve, the mean over tasks."""
    parts = []
    first = 0
    for variant in group:
        steps, success = variant.known_curves()
        steps, success = steps * variant.task_count, success[variant.finished]
        places, per_step = log_spaced(len(steps)), flops_per_env_step(variant)
        for run, curve in enumerate(success[:, places]):
            known = np.isfinite(curve)
            count = int(known.sum())
            columns = (
                np.full(count, float(variant.parameters["total"])), steps[places][known], 1 - curve[known],
                np.full(count, first + run), np.full(count, per_step),
            )  # fmt: skip
            parts.append(columns)
        first += len(success)
    size, steps, failure, numbers, cost = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Curves(
        size, steps, failure, numbers.astype(np.int64), cost, group[0].episodes * group[0].task_count
    )


def flops_per_env_step(variant: Variant) -> float:
    """FLOPs of updates per env step; 0 where neither the configuration nor the batch is known."""
    try:
        config = Config.model_validate_json(json.dumps(variant.config))
        return update_flops(config) * config.train.updates_per_step / variant.task_count
    except ValueError:  # someone else's run, or another version's
        of_row = flops_by_parameters(variant.parameters["actor"], variant.parameters["critic"])
        return float(of_row * variant.batch / variant.task_count)


def budgets(curves: Curves) -> tuple[float, ...]:
    """FLOPs: what each size but the smallest and largest took in full, and ten times the largest of all."""
    sizes = np.unique(curves.size)
    full = [float((curves.steps * curves.cost)[curves.size == size].max()) for size in sizes]
    return (*sorted(full[1:-1]), BEYOND * max(full))


def sentences(found: CurveStudy) -> tuple[list[str], list[str]]:
    """What the curves show, and what they do not."""
    where = found.group
    if found.refusal:
        return [], [f"{where}: a law in env steps and compute is not identified: {found.refusal}."]
    shows: list[str] = []
    not_shown: list[str] = []
    for law in found.laws:
        a, b = law.exponent("parameters"), law.exponent("steps")
        said = f"{where}: over parameters N and env steps D, the {law.name} law"
        if _unknown(law):
            narrow = [(name, e) for name, e in (("N", a), ("D", b)) if e.high - e.low <= WIDEST]
            known = "".join(f"; that of {name} is {estimate_words(e)}" for name, e in narrow)
            not_shown.append(f"{said} does not know its exponent of {_unknown(law)}{known}.")
        else:
            shows.append(
                f"{said} has exponents {a.value:.2f} of N ({interval_words(a)}) and {b.value:.2f} of D "
                f"({interval_words(b)})."
            )
    if any(_unknown(law) for law in found.laws):
        not_shown.append(f"{where}: what compute buys; for that both laws must know both exponents.")
    if found.optima:
        yes, no = _optimum_sentences(found)
        shows, not_shown = shows + yes, not_shown + no
    for times in found.times:
        if times.exponent is not None and not doubt(times.exponent):
            shows.append(
                f"{where}: env steps to {times.success:.0%} success go as N^{-times.exponent.value:.2f}; "
                f"{interval_words(times.exponent)} of the exponent ({times.censored} of {times.runs} runs censored)."
            )
    return shows, not_shown


def _unknown(law: DataLaw) -> str:
    """Which exponents the curves do not identify: their interval holds 0 or is wider than 1."""
    found = {"N": law.exponent("parameters"), "D": law.exponent("steps")}
    return " and ".join(name for name, e in found.items() if not e.clear or e.high - e.low > WIDEST)


def _optimum_sentences(found: CurveStudy) -> tuple[list[str], list[str]]:
    """The best size of the largest budget inside the grid, and success at ten times the compute."""
    shows: list[str] = []
    not_shown: list[str] = []
    first, second = found.optima
    last = len(first) - 2
    if last >= 0:
        a, b = first[last], second[last]
        where = f"{found.group}: for {a.budget:.1e} FLOPs"
        refusal = a.refusal or b.refusal
        if refusal:
            not_shown.append(f"{where}, the best size: {refusal}.")
        elif agree(a, b):
            shows.append(
                f"{where}, the best size is {_size_words(a)} by the additive law, {_size_words(b)} by the bounded."
            )
        else:
            not_shown.append(
                f"{where}, the best size: the laws disagree, {_size_words(a)} and {_size_words(b)}."
            )
    a, b = first[-1], second[-1]
    where = f"{found.group}: success at ten times the largest compute run"
    if abs(a.success[0] - b.success[0]) > SAME:
        not_shown.append(f"{where}: the laws disagree, {_success_words(a)} and {_success_words(b)}.")
    else:
        shows.append(
            f"{where} would be {_success_words(a)} by the additive law, {_success_words(b)} by the bounded."
        )
    return shows, not_shown


def _size_words(best: Optimum) -> str:
    ends = np.exp([best.log_size.value, best.log_size.low, best.log_size.high])
    return f"{short(ends[0])} parameters ({short(ends[1])} to {short(ends[2])})"


def _success_words(best: Optimum) -> str:
    middle, low, high = best.success
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def items(studies: Sequence[CurveStudy]) -> Items:
    """Exponents, what budgets buy, steps to success; success against compute and iso-FLOP curves."""
    fitted = [found for found in studies if not found.refusal]
    shown: Items = []
    if fitted:
        shown += [Text(LAWS), _exponent_table(fitted)]
    if any(found.optima for found in fitted):
        shown += [_budget_table(fitted), *_iso_drawing(fitted)]
    if any((found.curves.cost > 0).all() for found in studies):
        shown += [_compute_drawing(studies)]
    if studies:
        shown += [_data_times_size_drawing(studies)]
    return [*shown, _time_table(studies)] if studies else shown


def _exponent_table(studies: Sequence[CurveStudy]) -> Table:
    rows = []
    for found in studies:
        for law in found.laws:
            values = [law.exponent(name) for name in ("parameters", "steps")]
            words = [estimate_words(e) for e in values]
            grow = "–"
            if law.name == "additive" and found.optima:
                grow = estimate_words(growth(law, found.curves))
            rows.append(
                [found.group, law.name, str(law.runs), str(law.points), *words, grow, f"{law.rms:.2f}"]
            )
    caption = (
        "Laws over parameters and env steps, with 95% intervals from whole runs. Growth: the power of compute with "
        "which the best size grows, by the additive law. RMS in logits."
    )
    header = [
        "group",
        "law",
        "runs",
        "points",
        "exponent of N",
        "exponent of D",
        "growth of the best N",
        "RMS",
    ]
    return Table(caption, header, rows, texts=(0, 1))


def _budget_table(studies: Sequence[CurveStudy]) -> Table:
    rows = []
    for found in studies:
        for law, optima in zip(found.laws, found.optima, strict=False):
            for best in optima:
                size = "refused" if best.refusal else _size_words(best)
                steps = "–" if best.refusal else short(best.steps)
                rows.append(
                    [
                        found.group,
                        f"{best.budget:.1e}",
                        law.name,
                        size,
                        steps,
                        _success_words(best),
                        best.refusal,
                    ]
                )
    caption = (
        "What a budget of update FLOPs buys: the size at which a law fails least, the env steps that are then left, "
        "and success there. The last budget of each group is ten times the largest that was run."
    )
    header = ["group", "FLOPs", "law", "best size", "env steps", "success", "why refused"]
    return Table(caption, header, rows, texts=(0, 2, 3, 6))


def _time_table(studies: Sequence[CurveStudy]) -> Table:
    rows = [
        [found.group, f"{t.success:.0%}", f"{t.runs - t.censored} of {t.runs}",
         estimate_words(t.exponent) if t.exponent else "–", t.refusal]
        for found in studies
        for t in found.times
    ]  # fmt: skip
    caption = (
        "Env steps to a success J, from the rising curve nearest to each run's (isotonic): D_J falls as N to minus the "
        "exponent. Runs that never reach J are censored, not left out."
    )
    return Table(caption, ["group", "J", "runs that reach it", "exponent", "why refused"], rows, texts=(0, 4))


def _compute_drawing(studies: Sequence[CurveStudy]) -> Drawing:
    first, more = figures.first_panels([found for found in studies if (found.curves.cost > 0).all()])
    panels = {
        found.group: [Series(line.name, line.compute, line.success) for line in found.lines]
        for found in first
    }
    caption = f"FLOPs of the updates up to each evaluation, mean over runs, a line per size.{more}"
    drawing = figures.lines(panels, x="FLOPs of updates", y="success", dots=False)
    return Drawing("success_against_compute", "Success against compute", caption, drawing)


def _data_times_size_drawing(studies: Sequence[CurveStudy]) -> Drawing:
    first, more = figures.first_panels(studies)
    panels = {
        found.group: [Series(line.name, line.steps * line.parameters, line.success) for line in found.lines]
        for found in first
    }
    caption = (
        "Success against env steps times parameters, mean over runs, a line per size: where the lines meet, success "
        f"depends on the product alone.{more}"
    )
    drawing = figures.lines(panels, x="env steps x parameters", y="success", dots=False)
    return Drawing("success_against_steps_times_size", "Success against steps times size", caption, drawing)


def _iso_drawing(studies: Sequence[CurveStudy]) -> list[Drawing]:
    """By the additive law: success against size at each budget that was run, and what was seen there."""
    first, more = figures.first_panels([found for found in studies if found.optima])
    panels: dict[str, list[Series]] = {}
    for found in first:
        cost, law = costs(found.curves), found.laws[0]
        grid = np.geomspace(cost.smallest, cost.largest, 60)
        for budget in budgets(found.curves)[:-1]:
            curve = 1 - law.failure(grid, budget / cost.per_step(grid))
            seen = _seen_at(found, budget)
            panels.setdefault(found.group, []).append(
                Series(f"{figures.thousands(budget)} FLOPs", seen[0], seen[1], curve=(grid, curve))
            )
    if not panels:
        return []
    caption = (
        "Success against size where all sizes get the same compute. Dots are the mean curves of the "
        f"runs, read off at that compute; lines the additive law.{more}"
    )
    return [Drawing("iso_flop", "Iso-FLOP curves", caption, figures.success_against_parameters(panels))]


def _seen_at(found: CurveStudy, budget: float) -> tuple[np.ndarray, np.ndarray]:
    """(parameters, success) of the sizes whose curves pass the budget, by interpolation in log steps."""
    points = []
    for line in found.lines:
        compute = line.compute
        if compute[0] <= budget <= compute[-1]:
            points.append((line.parameters, np.interp(np.log(budget), np.log(compute), line.success)))
    if not points:
        return np.empty(0), np.empty(0)
    sizes, success = (np.array(column, float) for column in zip(*sorted(points), strict=True))
    return sizes, success


LAWS = (
    "Laws of the failure rate f over parameters N (actor and critics) and env steps D (over all tasks): additive, "
    "f = A N^-a + B D^-b; bounded, f = p + (1 - p) / (1 + (D N^h / D0)^b) with p = A N^-a. Fitted on at most 12 "
    "log-spaced evaluations of each run; a run is one cluster, so its evaluations never count as independent."
)
