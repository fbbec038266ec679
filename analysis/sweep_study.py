"""A sweep's dataset -> the page about it. Every sentence is derived from the runs: seeds, sizes, steps, intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from analysis import paper
from analysis.cells import Cell, cells
from analysis.figures import FEW_TASKS, Series, learning_curves, short_name, success_against_parameters
from analysis.frames import SweepError, to_runs
from analysis.models import MODELS, Model
from analysis.report import Drawing, Lines, Page, Section, Table, Text
from analysis.scaling_laws import Fit, Points, fit
from analysis.statistics import Interval, interval, iqm_of_runs

SEEDS_NEEDED = 3  # runs of a cell below which no difference between cells is claimed
PAPER_STEPS = 2_000_000  # vector steps
PAPER_WIDTHS = (256, 4096)


def study(dataset: xr.Dataset, name: str, *, model: str = "power", seed: int = 0) -> Page:
    """The page about a sweep. Raises SweepError where no run has finished."""
    generator = np.random.default_rng(seed)
    everything = cells(dataset)
    found = [cell for cell in everything if cell.seeds]
    if not found:
        waiting = sum(cell.unfinished for cell in everything)
        raise SweepError(
            f"no finished runs in {name} ({waiting} unfinished); wait for one, or relaunch the sweep"
        )
    scores = [interval(cell.scores, iqm_of_runs, generator, bounds=(0, 1)) for cell in found]
    fits = {
        benchmark: _fit(group, MODELS[model], generator) for benchmark, group in _by_benchmark(found).items()
    }
    shows, does_not_show = findings(everything, found, fits, dataset.attrs.get("skipped", []))
    runs = sum(len(cell.seeds) for cell in found)
    return Page(
        title=f"Scaling study: {name}",
        lead=_lead(found),
        facts=_facts(everything, found, runs),
        shows=shows,
        does_not_show=does_not_show,
        sections=[
            Section("Learning", [_learning_drawing(found)]),
            Section("Success and size", [_size_drawing(found, scores, fits), _score_table(found, scores)]),
            Section("Scaling laws", [*_law_items(fits)]),
            Section("Methods", [Text(text) for text in METHODS]),
            Section("Provenance", _provenance(dataset)),
        ],
        footer=f"mtrl, run files gathered from {dataset.attrs.get('source', name)}.",
        fits={benchmark: law.summary() for benchmark, law in fits.items()},
    )


def findings(
    everything: Sequence[Cell], found: Sequence[Cell], fits: dict[str, Fit], skipped: Sequence[str]
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
    for benchmark, law in fits.items():
        yes, no = _law_sentence(short_name(benchmark), law)
        shows += yes
        not_shown += no
    not_shown += _width_caveats(found)
    return shows, not_shown


def _learned(group: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Per task of one benchmark: does the last evaluation stand above the random policy?"""
    yes: list[str] = []
    no: list[str] = []
    where = "" if len(group[0].tasks) == 1 else f" (in {short_name(group[0].benchmark)})"
    above: dict[str, int] = {}
    runs = sum(len(cell.seeds) for cell in group)
    for place, task in enumerate(group[0].tasks):
        scores = np.concatenate([cell.scores[:, place] for cell in group])
        random = float(np.mean([cell.random[place] for cell in group]))
        wins = sum(is_above(score, random, group[0].episodes) for score in scores)
        above[task] = wins
        if len(group[0].tasks) > FEW_TASKS:
            continue
        line = (
            f"{short_name(task)}{where} {'ends' if wins else 'does not end'} above its random-policy line "
            f"({random:.0%}) in {wins if wins else 'any'} of {_count(runs, 'run')}; "
            f"mean success {scores.mean():.0%}."
        )
        (yes if wins else no).append(line)
    if len(group[0].tasks) > FEW_TASKS:
        learned = sum(count == runs for count in above.values())
        yes.append(
            f"{group[0].benchmark}: {learned} of {len(above)} tasks end above their random-policy line in every run."
        )
    return yes, no


def is_above(success: float, random: float, episodes: int) -> bool:
    """Whether `success` over `episodes` beats the random policy's beyond chance (Fisher's exact test, one-sided 5 %).

    The random policy's rate is taken to come from as many episodes.
    """
    won, lucky = round(success * episodes), round(random * episodes)
    table = [[won, episodes - won], [lucky, episodes - lucky]]
    return bool(stats.fisher_exact(table, alternative="greater").pvalue < 0.05)


def _law_sentence(benchmark: str, law: Fit) -> tuple[list[str], list[str]]:
    if not law.identified:
        return [], [f"{benchmark}: a scaling exponent is not identified: {law.reason}."]
    (exponent,) = law.exponents[:1]
    return [
        f"{benchmark}: failure falls with parameters as N^-{exponent.estimate:.2f} towards a floor of "
        f"{law.floor:.0%}; {law.confidence:.0%} interval {exponent.low:.2f} to {exponent.high:.2f}."
    ], []


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


def _fit(group: Sequence[Cell], law: Model, generator: np.random.Generator) -> Fit:
    """The law over single runs: a point is one run's mean success over its tasks."""
    sizes = {
        "parameters": [cell.parameters["total"] for cell in group for _ in cell.seeds],
        "actor": [cell.parameters["actor"] for cell in group for _ in cell.seeds],
        "critic": [cell.parameters["critic"] for cell in group for _ in cell.seeds],
    }
    success = np.concatenate([cell.scores.mean(-1) for cell in group])
    trials = np.concatenate([np.full(len(cell.seeds), cell.episodes * len(cell.tasks)) for cell in group])
    points = Points({name: np.array(size) for name, size in sizes.items()}, success, trials)
    return fit(law, points, generator)


def _learning_drawing(found: Sequence[Cell]) -> Drawing:
    runs = sorted({cell.curves.shape[0] for cell in found})
    span = _count(runs[0], "run") if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs"
    band = " The band spans the runs." if runs[-1] > 1 else ""
    caption = (
        f"Success of the deterministic policy over {found[0].episodes} episodes per task; {span} per line, "
        f"lighter is larger.{band} The dashed line is a uniform random policy: it succeeds by chance on easy tasks."
    )
    return Drawing("learning_curves", "Learning curves", caption, learning_curves(found))


def _size_drawing(found: Sequence[Cell], scores: Sequence[Interval], fits: dict[str, Fit]) -> Drawing:
    ours = []
    for benchmark in fits:
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


def _law_items(fits: dict[str, Fit]) -> list[Text | Table]:
    rows = []
    for benchmark, law in fits.items():
        for exponent in law.exponents:
            rows.append(
                [
                    short_name(benchmark),
                    exponent.name,
                    str(law.points),
                    str(law.counts[exponent.name]),
                    f"{exponent.estimate:.2f}" if exponent.identified else "–",
                    _span(exponent.low, exponent.high),
                    "identified" if exponent.identified else f"not identified: {exponent.refusal}",
                ]
            )
    header = ["tasks", "exponent of", "runs", "sizes", "estimate", "95 % interval", "verdict"]
    return [
        Text(
            "The law is y = E + A N^-a for the failure rate y = 1 - success, N being actor and critics together."
        ),
        Table("Exponents, with profile-likelihood intervals.", header, rows, texts=(0, 1, 6)),
    ]


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
    "Random-policy line: the same environments under uniform random actions. A run counts as above it when its last "
    "evaluation beats it beyond chance (Fisher's exact test, one-sided 5 %).",
)
