"""A sweep's dataset -> the page about it. Every sentence is derived from the runs: seeds, sizes, steps, intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from analysis import figures, paper
from analysis.cells import Cell, cells
from analysis.figures import FEW_TASKS, Row, Series, learning_curves, short_name, success_against_parameters
from analysis.frames import SweepError, to_runs
from analysis.models import MODELS
from analysis.report import Drawing, Lines, Page, Section, Table, Text
from analysis.scaling_laws import (
    ACTOR_FLOPS,
    CLAIM,
    CRITIC_FLOPS,
    Fit,
    Points,
    best_critic_share,
    bootstrap,
    critic_against_actor,
    fit,
)
from analysis.statistics import Interval, curve_area, interval, iqm_of_runs, plateau, profile_band, steps_to

SEEDS_NEEDED = 3  # runs of a cell below which no difference between cells is claimed
PAPER_STEPS = 2_000_000  # vector steps
PAPER_WIDTHS = (256, 4096)


def study(dataset: xr.Dataset, name: str, *, model: str = "auto", seed: int = 0) -> Page:
    """The page about a sweep. Raises SweepError where no run has finished.

    model is a law's name; auto takes actor_critic where widths of actor and critic vary apart, and power elsewhere.
    """
    generator = np.random.default_rng(seed)
    everything = cells(dataset)
    found = [cell for cell in everything if cell.seeds]
    if not found:
        waiting = sum(cell.unfinished for cell in everything)
        raise SweepError(
            f"no finished runs in {name} ({waiting} unfinished); wait for one, or relaunch the sweep"
        )
    scores = [interval(cell.scores, iqm_of_runs, generator, bounds=(0, 1)) for cell in found]
    laws = [_law(benchmark, group, model, generator) for benchmark, group in _by_benchmark(found).items()]
    if len({len(cell.tasks) for cell in found}) >= 3:
        apart = any(law.fit.model == "actor_critic" for law in laws)
        laws.append(_law("all task sets", found, "actor_critic_tasks" if apart else "tasks", generator))
    shows, does_not_show = findings(everything, found, laws, dataset.attrs.get("skipped", []))
    runs = sum(len(cell.seeds) for cell in found)
    sections = [
        Section("Learning", [_learning_drawing(found), _speed_table(found)]),
        Section("Success and size", [
            _size_drawing(found, scores, laws), *_heat_maps(found, scores), _score_table(found, scores),
            *_profile_drawing(found, generator),
        ]),
        Section("Scaling laws", [*_law_items(laws), *_residual_drawing(laws)]),
        Section("Plasticity", _plasticity_items(dataset, found)),
        Section("Methods", [Text(text) for text in METHODS]),
        Section("Provenance", _provenance(dataset)),
    ]  # fmt: skip
    return Page(
        title=f"Scaling study: {name}",
        lead=_lead(found),
        facts=_facts(everything, found, runs),
        shows=shows,
        does_not_show=does_not_show,
        sections=[section for section in sections if section.items],
        footer=f"mtrl, run files gathered from {dataset.attrs.get('source', name)}.",
        fits={law.benchmark: law.summary() for law in laws},
    )


@dataclass(frozen=True)
class Law:
    """A fit to one benchmark's runs, with what follows from it."""

    benchmark: str
    points: Points
    fit: Fit
    critic_larger: float | None = None  # confidence that the critic's exponent is the larger one
    shares: tuple[
        tuple[float, float, float], ...
    ] = ()  # best critic share at equal parameters, at equal FLOPs

    def summary(self) -> dict[str, object]:
        shares = [{"share": share, "low": low, "high": high} for share, low, high in self.shares]
        return self.fit.summary() | {
            "p_critic_exponent_larger": self.critic_larger,
            "best_critic_share": dict(zip(("equal parameters", "equal flops"), shares, strict=False)),
        }


def _law(benchmark: str, group: Sequence[Cell], name: str, generator: np.random.Generator) -> Law:
    """The law over single runs: a point is one run's mean success over its tasks."""
    if name == "auto":
        apart = any(cell.width is None for cell in group)
        name = "actor_critic" if apart else "power"
    counts = [len(cell.seeds) for cell in group]
    parameters = {
        part: np.repeat([cell.parameters[key] for cell in group], counts)
        for part, key in (("parameters", "total"), ("actor", "actor"), ("critic", "critic"))
    }
    sizes = parameters | {"tasks": np.repeat([len(cell.tasks) for cell in group], counts)}
    points = Points(
        sizes,
        np.concatenate([cell.scores.mean(-1) for cell in group]),
        np.repeat([cell.episodes * len(cell.tasks) for cell in group], counts),
        np.repeat(np.arange(len(group)), counts),
    )
    found = fit(MODELS[name], points, generator)
    if name != "actor_critic" or found.refusal:
        return Law(benchmark, points, found)
    samples = bootstrap(MODELS[name], points, found, generator, resamples=1_000)
    best = np.array([list(found.numbers.values())])
    total = float(np.exp(np.log(parameters["parameters"]).mean()))
    shares = []
    for flops in (False, True):
        budget = total * (ACTOR_FLOPS + CRITIC_FLOPS) / 2 if flops else total
        low, high = np.quantile(best_critic_share(samples, found.centre, budget, flops=flops), [0.025, 0.975])
        shares.append(
            (float(best_critic_share(best, found.centre, budget, flops=flops)[0]), float(low), float(high))
        )
    return Law(benchmark, points, found, critic_against_actor(points, found, generator), tuple(shares))


def findings(
    everything: Sequence[Cell], found: Sequence[Cell], laws: Sequence[Law], skipped: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What the runs show and what they do not, in sentences."""
    finished = sum(len(cell.seeds) for cell in found)
    unfinished = sum(cell.unfinished for cell in everything)
    diverged = sum(cell.diverged for cell in found)
    shows = [f"The pipeline works: {_count(finished, 'run')} went from environment to run file to this page."]
    not_shown: list[str] = []
    if unfinished:
        not_shown.append(
            f"{_count(unfinished, 'run')} not finished: they are drawn, but no score or fit uses them."
        )
    if skipped:
        not_shown.append(f"{_count(len(skipped), 'file')} could not be read; Provenance names each.")
    if diverged:
        shows.append(f"{_count(diverged, 'run')} diverged; they count with the score they had.")
    for group in _by_benchmark(found).values():
        yes, no = _learned(group)
        shows += yes
        not_shown += no
    for law in laws:
        yes, no = _law_sentences(law)
        shows += yes
        not_shown += no
    not_shown += _width_caveats(found)
    return shows, not_shown


def _learned(group: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Per task of one benchmark: do the runs stand above the random policy over the last third of training?"""
    yes: list[str] = []
    no: list[str] = []
    where = "" if len(group[0].tasks) == 1 else f" (in {short_name(group[0].benchmark)})"
    runs = sum(len(cell.seeds) for cell in group)
    above: list[int] = []
    for place, task in enumerate(group[0].tasks):
        random = float(np.mean([cell.random[place] for cell in group]))
        late = [(rate, episodes) for cell in group for rate, episodes in cell.late(place)]
        above.append(sum(is_above(rate, episodes, random, group[0].episodes) for rate, episodes in late))
        last = float(np.mean(np.concatenate([cell.scores[:, place] for cell in group])))
        line = (
            f"{short_name(task)}{where} {'rises' if above[-1] else 'does not rise'} above its random-policy line "
            f"({random:.0%}) in {above[-1] or 'any'} of {_count(runs, 'run')}: success is "
            f"{np.mean([rate for rate, _ in late]):.0%} over the last third of training, {last:.0%} at its end."
        )
        if len(group[0].tasks) <= FEW_TASKS:
            (yes if above[-1] else no).append(line)
    if len(group[0].tasks) > FEW_TASKS:
        learned = sum(count == runs for count in above)
        yes.append(
            f"{group[0].benchmark}: {learned} of {len(above)} tasks rise above their random-policy line in every run."
        )
    return yes, no


def is_above(success: float, episodes: int, random: float, random_episodes: int) -> bool:
    """Whether `success` over `episodes` beats the random policy's beyond chance: Fisher's exact test, one-sided 5 %."""
    won, lucky = round(success * episodes), round(random * random_episodes)
    table = [[won, episodes - won], [lucky, random_episodes - lucky]]
    return bool(stats.fisher_exact(table, alternative="greater").pvalue < 0.05)


def _law_sentences(law: Law) -> tuple[list[str], list[str]]:
    where, fitted = short_name(law.benchmark), law.fit
    if fitted.refusal:
        return [], [f"{where}: a scaling exponent is not identified: {fitted.refusal}."]
    yes: list[str] = []
    no: list[str] = []
    of = {"parameters": "parameters", "actor": "actor parameters", "critic": "critic parameters"}
    for exponent in fitted.exponents:
        if exponent.name not in of:
            continue
        if exponent.identified:
            yes.append(
                f"{where}: failure falls with {of[exponent.name]} as N^-{exponent.estimate:.2f} towards a floor of "
                f"{fitted.floor:.0%}; {fitted.confidence:.0%} interval {exponent.low:.2f} to {exponent.high:.2f}."
            )
        else:
            what = (
                "a scaling exponent" if exponent.name == "parameters" else f"the {exponent.name}'s exponent"
            )
            no.append(f"{where}: {what} is not identified: {exponent.refusal}.")
    if law.critic_larger is not None:
        sure = max(law.critic_larger, 1 - law.critic_larger)
        order = ("critic", "actor") if law.critic_larger >= 0.5 else ("actor", "critic")
        if sure >= CLAIM:
            yes.append(
                f"{where}: the {order[0]}'s exponent is larger than the {order[1]}'s, with confidence {sure:.3f}."
            )
        else:
            no.append(f"{where}: whether actor or critic has the larger exponent (confidence {sure:.2f}).")
    return yes, no


def _width_caveats(found: Sequence[Cell]) -> list[str]:
    lines = []
    fewest = min(len(cell.seeds) for cell in found)
    sizes = sorted({cell.parameters["total"] for cell in found})
    if fewest < SEEDS_NEEDED and len(sizes) > 1:
        lines.append(
            f"A width effect: there {'is 1 run' if fewest == 1 else f'are {fewest} runs'} per width, and two runs "
            f"of the same width differ by luck; {SEEDS_NEEDED} or more per width are needed to tell the two apart."
        )
    widths = sorted({width for cell in found for width in (cell.actor_width, cell.critic_width)})
    if widths[-1] < PAPER_WIDTHS[0]:
        lines.append(
            f"Anything about the paper's widths ({PAPER_WIDTHS[0]} to {PAPER_WIDTHS[1]}): "
            f"the widest network here has {widths[-1]}."
        )
    steps = max(cell.vector_steps for cell in found)
    if steps < PAPER_STEPS:
        lines.append(
            f"Final performance: runs last {steps:,} steps per task, {steps / PAPER_STEPS:.2g} of the paper's "
            f"{PAPER_STEPS:,}."
        )
    most = max(len(cell.tasks) for cell in found)
    if most < 10:
        lines.append(f"Anything about MT10 or larger: the largest set here has {_count(most, 'task')}.")
    return lines


def _learning_drawing(found: Sequence[Cell]) -> Drawing:
    runs = sorted({cell.curves.shape[0] for cell in found})
    span = _count(runs[0], "run") if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs"
    band = " The band spans the runs." if runs[-1] > 1 else ""
    caption = (
        f"Success of the deterministic policy over {found[0].episodes} episodes per task; {span} per line, "
        f"lighter is larger.{band} The dashed line is a uniform random policy: it succeeds by chance on easy tasks."
    )
    return Drawing("learning_curves", "Learning curves", caption, learning_curves(found))


def _size_drawing(found: Sequence[Cell], scores: Sequence[Interval], laws: Sequence[Law]) -> Drawing:
    ours = []
    fits = {law.benchmark: law.fit for law in laws}
    for benchmark in _by_benchmark(found):
        rows = [
            (cell, score) for cell, score in zip(found, scores, strict=True) if cell.benchmark == benchmark
        ]
        sizes = np.array([cell.parameters["total"] for cell, _ in rows])
        law = fits[benchmark]
        grid = np.geomspace(sizes.min(), sizes.max(), 80)
        ours.append(
            Series(
                short_name(benchmark),
                sizes,
                np.array([score.estimate for _, score in rows]),
                np.array([score.low for _, score in rows]),
                np.array([score.high for _, score in rows]),
                curve=(grid, 1 - law.failure(parameters=grid))
                if law.identified and law.model == "power"
                else None,
            )
        )
    random = {}
    for benchmark, group in _by_benchmark(found).items():
        random[short_name(benchmark)] = float(np.mean([cell.random.mean() for cell in group]))
    caption = (
        "Left: IQM over runs of the mean over tasks at the last evaluation; intervals where there are two runs or "
        "more, a fitted curve where a law is identified. Right: the paper's multi-head MLP on MT10, MT25 and MT50, "
        "2M steps per task: other tasks and other lengths, so compare shapes, not heights."
    )
    return Drawing(
        "success_against_parameters",
        "Success against parameters",
        caption,
        success_against_parameters(ours, paper.series_by_width(), random=random),
    )


def _score_table(found: Sequence[Cell], scores: Sequence[Interval]) -> Table:
    rows = []
    for cell, score in zip(found, scores, strict=True):
        rows.append(
            [
                short_name(cell.benchmark),
                cell.name,
                *(f"{cell.parameters[part]:,}" for part in ("actor", "critic", "total")),
                str(len(cell.seeds)),
                f"{score.estimate:.3f}",
                _span(score.low, score.high, 3),
                f"{cell.random.mean():.3f}",
            ]
        )
    header = [
        "tasks",
        "width",
        "actor",
        "critics",
        "total",
        "runs",
        "success (IQM)",
        "95 % interval",
        "random policy",
    ]
    notes = sorted({score.note for score in scores if score.note})
    caption = "Success at the last evaluation." + (
        f" No interval means: {'; '.join(notes)}." if notes else ""
    )
    return Table(caption, header, rows, texts=(0, 1))


def _law_items(laws: Sequence[Law]) -> list[Text | Table | Drawing]:
    rows = []
    drawn = []
    for law in laws:
        for exponent in law.fit.exponents:
            rows.append(
                [
                    short_name(law.benchmark),
                    law.fit.model,
                    exponent.name,
                    str(law.fit.points),
                    str(law.fit.counts.get(exponent.name, "–")),
                    f"{exponent.estimate:.2f}" if exponent.identified else "–",
                    _span(exponent.low, exponent.high),
                    "identified" if exponent.identified else f"not identified: {exponent.refusal}",
                ]
            )
            if exponent.identified:
                label = f"{short_name(law.benchmark)}: {exponent.name}  (n = {law.fit.points})"
                drawn.append(Row(label, exponent.estimate, exponent.low, exponent.high))
    header = ["tasks", "law", "exponent of", "runs", "sizes", "estimate", "95 % interval", "verdict"]
    items: list[Text | Table | Drawing] = [
        Text(
            "Laws of the failure rate y = 1 - success: power is y = E + A N^-a with N actor and critics together; "
            "actor_critic is y = E + A N_actor^-a + B N_critic^-b; tasks adds C T^g for T tasks."
        ),
        Table("Exponents, with profile-likelihood intervals.", header, rows, texts=(0, 1, 2, 7)),
    ]
    if drawn:
        caption = "Identified exponents with 95 % profile-likelihood intervals; at 0 (dashed) size would not matter."
        items.append(
            Drawing("exponents", "Exponents", caption, figures.forest(drawn, label="exponent", line=0))
        )
    shared = [
        [short_name(law.benchmark), basis, f"{share:.2f}", _span(low, high)]
        for law in laws
        for basis, (share, low, high) in zip(("equal parameters", "equal FLOPs"), law.shares, strict=False)
    ]
    if shared:
        caption = "The critics' share of the budget at which the fitted law fails least, at the mean size of the sweep."
        items.append(
            Table(caption, ["tasks", "budget", "best critic share", "95 % interval"], shared, texts=(0, 1))
        )
    return items


def _residual_drawing(laws: Sequence[Law]) -> list[Drawing]:
    groups = {}
    for law in laws:
        if not law.fit.refusal and law.benchmark != "all task sets":
            groups[short_name(law.benchmark)] = (
                law.points.sizes["parameters"],
                law.fit.residuals(law.points),
            )
    if not groups:
        return []
    caption = "Each dot is a run. Fitted minus seen failure; a law that bends away from its points shows as a curve."
    return [Drawing("residuals", "Residuals", caption, figures.residuals(groups))]


def _heat_maps(found: Sequence[Cell], scores: Sequence[Interval]) -> list[Drawing]:
    """Actor width by critic width, for each benchmark where the two vary apart."""
    drawings = []
    for number, (benchmark, group) in enumerate(_by_benchmark(found).items()):
        actors = sorted({cell.actor_width for cell in group})
        critics = sorted({cell.critic_width for cell in group})
        if len(actors) < 2 or len(critics) < 2 or all(cell.width for cell in group):
            continue
        success = np.full((len(critics), len(actors)), np.nan)
        parameters = np.full(success.shape, np.nan)
        for cell, score in zip(found, scores, strict=True):
            if cell.benchmark == benchmark:
                place = critics.index(cell.critic_width), actors.index(cell.actor_width)
                success[place], parameters[place] = score.estimate, cell.parameters["total"]
        fewest = min(len(cell.seeds) for cell in group)
        caption = (
            f"{short_name(benchmark)}: IQM of success, at least {_count(fewest, 'run')} per cell. Dashed lines join "
            "cells of equal parameters, actor and critics together."
        )
        drawing = figures.heat_map(actors, critics, success, parameters)
        drawings.append(Drawing(f"actor_critic_{number}", "Actor against critic", caption, drawing))
    return drawings


def _profile_drawing(found: Sequence[Cell], generator: np.random.Generator) -> list[Drawing]:
    """Performance profiles by size, for the benchmarks of many tasks that have more than one run."""
    panels = {}
    levels = np.linspace(0, 1, 101)
    for benchmark, group in _by_benchmark(found).items():
        shown = [cell for cell in group if len(cell.seeds) > 1 and len(cell.tasks) > FEW_TASKS]
        if shown:
            panels[short_name(benchmark)] = [
                Series(
                    f"width {cell.name}",
                    levels,
                    *profile_band(cell.scores, levels, generator, resamples=1_000),
                )
                for cell in shown
            ]
    if not panels:
        return []
    caption = "Share of runs and tasks that score above a threshold, with 95 % bands from resampled runs."
    drawing = figures.lines(panels, x="success threshold", y="share above", log=False, dots=False)
    return [Drawing("profiles", "Performance profiles", caption, drawing)]


def _speed_table(found: Sequence[Cell]) -> Table:
    """Area under the learning curve, steps to half, and whether the curve has settled."""
    rows = []
    for cell in found:
        known = cell.env_steps >= 0
        steps = cell.env_steps[known] / len(cell.tasks)
        curve = np.nanmean(cell.curves.mean(-1)[:, known], axis=0)
        half = float(steps_to(0.5, steps, curve))
        settled = plateau(steps, curve) if len(steps) >= 10 else np.nan
        rows.append(
            [
                short_name(cell.benchmark),
                cell.name,
                f"{float(curve_area(steps, curve)):.3f}" if len(steps) > 1 else "–",
                f"{half:,.0f}" if np.isfinite(half) else "never",
                "too few evaluations"
                if np.isnan(settled)
                else f"{settled:,.0f}"
                if np.isfinite(settled)
                else "not yet",
            ]
        )
    caption = "Learning, of the mean curve over runs and tasks; steps are env steps per task."
    header = ["tasks", "width", "mean height of the curve", "steps to 50 % success", "settled from"]
    return Table(caption, header, rows, texts=(0, 1))


def _plasticity_items(dataset: xr.Dataset, found: Sequence[Cell]) -> list[Text | Drawing]:
    """Dormant shares at the last evaluation against width, and the caveat of the batch."""
    runs = to_runs(dataset)
    if "dormant_critic" not in runs:
        return []
    names = {"dormant_critic": "critic", "dormant_actor": "actor"}
    panels: dict[str, list[Series]] = {}
    for name, part in names.items():
        if name not in runs:
            continue
        values = runs[name].values
        last = np.array([row[committed - 1] if committed else np.nan for row, committed in
                         zip(values, runs.committed.values, strict=True)])  # fmt: skip
        for benchmark in _by_benchmark(found):
            here = (runs.benchmark.values == benchmark) & np.isfinite(last)
            widths = np.unique(runs[f"{part}_width"].values[here])
            if len(widths):
                of = runs[f"{part}_width"].values
                groups = [last[here & (of == width)] for width in widths]
                series = Series(
                    short_name(benchmark),
                    widths,
                    np.array([group.mean() for group in groups]),
                    np.array([group.min() for group in groups]),
                    np.array([group.max() for group in groups]),
                )
                panels.setdefault(f"dormant neurons of the {part}", []).append(series)
    if not panels:
        return []
    caption = (
        "Share of hidden neurons dormant at the last evaluation: mean over runs, in a band that spans them."
    )
    items: list[Text | Drawing] = [
        Drawing("dormant", "Dormant neurons", caption, figures.lines(panels, x="width", y="dormant"))
    ]
    counts = {len(cell.tasks) for cell in found}
    if len(counts) > 1:
        fixed = any(name == "agent.batch_per_task" for cell in found for name, _ in cell.settings)
        items.append(
            Text(
                "The batch per task varies here, so that the number of tasks and the batch can be told apart."
                if fixed
                else "The batch grows with the tasks here: a difference between task sets may be the batch's."
            )
        )
    return items


def _provenance(dataset: xr.Dataset) -> list[Text | Lines]:
    runs = to_runs(dataset)
    skipped = dataset.attrs.get("skipped", [])
    versions = sorted({str(version) for version in runs.code_version.values})
    lines = [f"{run}  {where}" for run, where in zip(runs.run_id.values, _run_words(runs), strict=True)]
    config = json.dumps(json.loads(str(runs.config.values[0])), indent=1)
    items: list[Text | Lines] = [Text(f"Code version: {', '.join(versions)}.")]
    if skipped:
        items.append(Lines(f"{_count(len(skipped), 'file')} skipped", "\n".join(skipped), opened=True))
    items.append(Lines(f"{_count(len(lines), 'run')}", "\n".join(lines)))
    items.append(Lines(f"Configuration of {runs.run_id.values[0]}", config))
    return items


def _run_words(runs: xr.Dataset) -> list[str]:
    return [
        f"{benchmark}  actor {actor}  critic {critic}  seed {seed}  {committed}/{planned} evaluations  {outcome}"
        for benchmark, actor, critic, seed, committed, planned, outcome in zip(
            runs.benchmark.values, runs.actor_width.values, runs.critic_width.values, runs.seed.values,
            runs.committed.values, runs.planned.values, runs.outcome.values, strict=True,
        )
    ]  # fmt: skip


def _lead(found: Sequence[Cell]) -> str:
    sets = " and ".join(short_name(benchmark) for benchmark in _by_benchmark(found))
    widths = sorted({cell.critic_width for cell in found})
    span = f"width {widths[0]}" if len(widths) == 1 else f"critic widths {widths[0]} to {widths[-1]}"
    return f"{sets}; {span}; {max(cell.vector_steps for cell in found):,} steps per task."


def _facts(everything: Sequence[Cell], found: Sequence[Cell], runs: int) -> list[tuple[str, str]]:
    planned = runs + sum(cell.unfinished for cell in everything)
    seeds = sorted({len(cell.seeds) for cell in found})
    return [
        ("runs finished", f"{runs} of {planned}"),
        ("task sets", str(len(_by_benchmark(found)))),
        ("sizes", str(len({cell.parameters["total"] for cell in found}))),
        ("seeds per cell", str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} – {seeds[-1]}"),
        ("steps per task", f"{max(cell.vector_steps for cell in found):,}"),
    ]


def _by_benchmark(found: Sequence[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in found:
        groups.setdefault(cell.benchmark, []).append(cell)
    return groups


def _span(low: float, high: float, digits: int = 2) -> str:
    """`0.12 – 0.34`; a dash where there is no interval, `> 0.12` where it has no end."""
    if np.isnan(low):
        return "–"
    return f"{low:.{digits}f} – {high:.{digits}f}" if np.isfinite(high) else f"> {low:.{digits}f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


METHODS = (
    "Score of a run: success at its last evaluation (an episode succeeds when any of its steps does), mean over tasks. "
    "Score of a cell: the interquartile mean (IQM) of its runs' scores.",
    "Intervals of scores: bootstrap over whole runs, because the tasks of a run share one network; standard error "
    "corrected for few runs, Student's quantile. One run has no interval.",
    "Scaling laws: least squares on logits of the failure rate over single runs; profile-likelihood intervals with the "
    f"F quantile. Fewer than {MODELS['power'].sizes_needed} sizes, an interval wider than 1, or a constant that fits "
    "as well: not identified.",
    "Random-policy line: the same environments under uniform random actions. A run counts as above it when its "
    "evaluations in the last third of training beat it beyond chance (Fisher's exact test, one-sided 5 %; the random "
    "policy's rate is taken to come from as many episodes as one evaluation).",
)
