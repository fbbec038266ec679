"""A sweep's dataset -> the page about it. Every sentence is derived from the runs: seeds, sizes, steps, intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import xarray as xr

from analysis import (
    beside_paper,
    comparisons,
    compute_study,
    figures,
    law_items,
    learning_items,
    paper,
    paper_curves,
    plasticity_study,
    update_study,
)
from analysis.comparisons import Comparison, Pair
from analysis.errors import SweepError
from analysis.figures import FEW_TASKS, Series, success_against_parameters
from analysis.findings import findings
from analysis.gridding import to_runs
from analysis.law_study import EVERYTHING, Law, law_of, span
from analysis.models import MODELS, Likelihood
from analysis.report import Drawing, Lines, Page, Section, Table, Text, counted
from analysis.scores import WORDS, Score
from analysis.statistics import Interval, interval, iqm_of_runs, performance_profile, profile_band, run_means
from analysis.variants import PLAIN, Variant, by_benchmark, following_settings, groups, short_name, variants
from analysis.x_axis import SIZE, Name, XAxis, compute_axis, compute_of

MATCHED = 1.25  # by which factor the sizes of two systems may differ to be compared
FEW_PROFILES = 5
MOST_DRAWN = 40  # comparisons in the figure; all stand in the table


def study(
    dataset: xr.Dataset,
    name: str,
    *,
    model: str = "auto",
    likelihood: Likelihood = "logit",
    score: Score = "last",
    x_axis: Name = "size",
    seed: int = 0,
) -> Page:
    """The page about a sweep. Raises SweepError where no run has finished.

    model is a law's name; auto takes actor_critic where widths of actor and critic vary apart, and power elsewhere.
    x_axis says what figures have along x: parameters and env steps, or the FLOPs of the updates for both.
    """
    generator = np.random.default_rng(seed)
    everything = variants(dataset, score)
    found = [variant for variant in everything if variant.seeds]
    if not found:
        waiting = sum(variant.unfinished for variant in everything)
        raise SweepError(
            f"no finished runs in {name} ({waiting} unfinished); wait for one, or relaunch the sweep"
        )
    x = compute_axis(compute_of(found) | paper_curves.compute()) if x_axis == "compute" else SIZE
    scores = [interval(run_means(variant.scores), iqm_of_runs, generator, bounds=(0, 1)) for variant in found]
    laws = _laws(found, model, likelihood, generator)
    compared = comparisons.comparisons(_pairs(found), generator)
    plasticity, plastic, not_plastic = plasticity_study.section(found, x)
    following = following_settings(to_runs(dataset))
    studied = [compute_study.study(name, group, generator) for name, group in groups(found).items()]
    curve_studies = [each for each in studied if each is not None]
    by_updates = update_study.laws(found, generator)
    runs = sum(len(variant.seeds) for variant in found)
    of_paper = beside_paper.beside(found, generator)
    shows, does_not_show = findings(
        everything, found, laws, compared, dataset.attrs, following,
        of_groups=[compute_study.sentences(each) for each in curve_studies],
        of_all=[beside_paper.sentences(of_paper), update_study.sentences(by_updates), (plastic, not_plastic)],
    )  # fmt: skip
    sections = [
        Section("Learning", [
            *learning_items.drawings(found, x), *beside_paper.items(of_paper), learning_items.speed_table(found),
        ]),
        Section("Success and size", [
            _size_drawing(found, scores, laws, x), *([] if x.compute else _parts_drawing(found, scores)),
            *learning_items.lost_drawing(found, x), *_heat_maps(found, scores),
            _score_table(found, scores), *_profile_drawing(found, generator), *_comparison_items(compared),
        ]),
        Section("Scaling laws", law_items.items(laws, x)),
        Section("Data and compute", [*compute_study.items(curve_studies), *update_study.items(by_updates)]),
        Section("How far to trust the laws", law_items.diagnostics(laws, x)),
        Section("Plasticity", plasticity),
        Section("Your own metrics", plasticity_study.own_metrics(found, x)),
        Section("Methods", [Text(text) for text in METHODS]),
        Section("Provenance", _provenance(dataset)),
    ]  # fmt: skip
    return Page(
        title=f"Scaling study: {name}",
        lead=_lead(found, score),
        facts=_facts(everything, found, runs),
        shows=shows,
        does_not_show=does_not_show,
        sections=[section for section in sections if section.items],
        footer=f"mtrl, run files gathered from {dataset.attrs.get('source', name)}.",
        fits={law.group: law.summary() for law in laws}
        | {"curves": {each.group: each.summary() for each in curve_studies}}
        | {"updates": {name: [law.summary() for law in each] for name, each in by_updates.items()}}
        | {"comparisons": [comparison.summary() for comparison in compared]},
    )


def _laws(
    found: Sequence[Variant], model: str, likelihood: Likelihood, generator: np.random.Generator
) -> list[Law]:
    """A law for each group; over all groups one with the tasks in it, where their number varies and nothing else."""
    over_tasks = model != "auto" and "tasks" in MODELS[model].regressors
    laws = [
        law_of(name, group, "auto" if over_tasks else model, generator, likelihood=likelihood)
        for name, group in groups(found).items()
    ]
    counts = {variant.task_count for variant in found}
    others = {(variant.system, variant.settings) for variant in found}
    if over_tasks:
        return [*laws, law_of(EVERYTHING, found, model, generator, likelihood=likelihood)]
    if len(counts) >= 3 and len(others) == 1:  # the tasks alone
        apart = any(law.fit.model == "actor_critic" for law in laws)
        for wide in ("actor_critic_tasks",) if apart else ("tasks", "interaction"):
            law = law_of(EVERYTHING, found, wide, generator, likelihood=likelihood)
            laws.append(law if wide != "interaction" else replace(law, group=f"{EVERYTHING}, interaction"))
    return laws


def _pairs(found: Sequence[Variant]) -> list[Pair]:
    """What to compare, of variants with several seeds."""
    several = [variant for variant in found if len(variant.seeds) > 1]
    return [
        *_pairs_of_sizes(several),
        *_pairs_of_parts(several),
        *_pairs_of_settings(several),
        *_pairs_of_systems(several),
    ]


def _pairs_of_sizes(several: Sequence[Variant]) -> list[Pair]:
    """Neighbouring sizes, and the widest with the narrowest."""
    pairs = []
    for name, group in groups(several).items():
        sizes = [variant for variant in group if variant.width]
        ends = [(sizes[0], sizes[-1])] if len(sizes) > 2 else []
        for small, large in (*pairwise(sizes), *ends):
            pairs.append(Pair(name, _size_name(large), _size_name(small), large.scores, small.scores))
    return pairs


def _pairs_of_parts(several: Sequence[Variant]) -> list[Pair]:
    """A wide critic with as wide an actor: of the mirrored widths the two that are furthest apart."""
    pairs = []
    for name, group in groups(several).items():
        of = {(variant.actor_width, variant.critic_width): variant for variant in group}
        mirrored = [
            (large / small, large, small) for small, large in of if large > small > 0 and (large, small) in of
        ]
        if mirrored:
            _, large, small = max(mirrored)
            critic, actor = of[small, large], of[large, small]
            words = f"wide critic ({_size_name(critic)})", f"wide actor ({_size_name(actor)})"
            pairs.append(Pair(name, *words, critic.scores, actor.scores))
    return pairs


def _size_name(variant: Variant) -> str:
    width = variant.width or f"{variant.actor_width}/{variant.critic_width}"
    return f"{'width' if variant.system == PLAIN else variant.system} {width}"


def _pairs_of_settings(several: Sequence[Variant]) -> list[Pair]:
    """The same networks under other settings."""
    alike: dict[tuple[str, str, int, int], list[Variant]] = {}
    for variant in several:
        key = (variant.benchmark, variant.system, variant.actor_width, variant.critic_width)
        alike.setdefault(key, []).append(variant)
    return [
        Pair(short_name(v.benchmark), v.name, other.name, v.scores, other.scores)
        for members in alike.values()
        for number, v in enumerate(members)
        for other in members[:number]
    ]


def _pairs_of_systems(several: Sequence[Variant]) -> list[Pair]:
    """Each system and the plain MLP of like size."""
    pairs = []
    plain: dict[tuple[object, ...], list[Variant]] = {}
    for variant in several:
        if variant.system == PLAIN:
            plain.setdefault((variant.benchmark, variant.settings), []).append(variant)
    for variant in several:
        rivals = plain.get((variant.benchmark, variant.settings), [])
        if variant.system == PLAIN or not rivals:
            continue
        total = np.log(variant.parameters["total"])
        match = min(rivals, key=lambda v: abs(np.log(v.parameters["total"]) - total))
        if abs(np.log(match.parameters["total"]) - total) < np.log(MATCHED):
            better = f"plain MLP, {match.name}"
            pairs.append(
                Pair(short_name(variant.benchmark), better, variant.name, match.scores, variant.scores)
            )
    return pairs


def _comparison_items(compared: Sequence[Comparison]) -> list[Table | Drawing | Lines]:
    if not compared:
        return []
    caption = (
        "Neighbouring sizes, the largest with the smallest, a wide critic with as wide an actor, other settings of the "
        "same networks, and systems of like size, all runs in. Welch's test; the exact rank test where every run of "
        "one is above every run of the other and there are 4 or more of each. Holm's correction is for all "
        f"{len(compared)} made here, so that one false claim among them has a chance of 5%. P(better): a run of the "
        "first beats one of the second."
    )
    return [
        comparisons.table(compared, caption),
        Lines("The comparisons as sentences for a paper", "\n".join(c.sentence for c in compared)),
        comparisons.drawing(compared[:MOST_DRAWN], "comparisons", "Comparisons"),
    ]


def _series(
    rows: Sequence[tuple[Variant, Interval]], part: str, law: Law | None = None, x: XAxis = SIZE
) -> Series:
    """One line: the variants of a group against their parameters, with the single runs."""
    name = rows[0][0].group
    rows = sorted(rows, key=lambda row: row[0].parameters[part])
    sizes = np.array([variant.parameters[part] for variant, _ in rows])
    runs = [(variant.parameters[part], score, lost) for variant, _ in rows
            for score, lost in
            zip(variant.scores.mean(-1), variant.diverged_runs[variant.finished], strict=True)]  # fmt: skip
    size, score, lost = (np.array(column) for column in zip(*runs, strict=True))
    several = max(len(variant.seeds) for variant, _ in rows) > 1
    grid = np.geomspace(sizes.min(), sizes.max(), 80)
    return Series(
        f"{name}  (n = {len(runs)})",
        x.size(name, sizes),
        np.array([score.estimate for _, score in rows]),
        np.array([score.low for _, score in rows]),
        np.array([score.high for _, score in rows]),
        curve=(x.size(name, grid), 1 - law.fit.failure(parameters=grid))
        if law and law.fit.identified and law.fit.model == "power"
        else None,
        dots=(x.size(name, size), score) if several else None,
        crosses=(x.size(name, size[lost]), score[lost]),
    )


def _size_drawing(
    found: Sequence[Variant], scores: Sequence[Interval], laws: Sequence[Law], x: XAxis
) -> Drawing:
    fits = {law.group: law for law in laws}
    of = dict(zip(map(id, found), scores, strict=True))
    published = {
        name: replace(series, sizes=x.size(f"{figures.PAPER}, {name}", series.sizes))
        for name, series in paper.series_by_width().items()
    }
    panels: dict[str, list[Series]] = {}
    random = {}
    for benchmark, group in by_benchmark(found).items():
        title = short_name(benchmark)
        panels[title] = [
            _series([(variant, of[id(variant)]) for variant in members], "total", fits.get(name), x)
            for name, members in groups(group).items()
        ]
        if benchmark in published:
            panels[title].append(replace(published[benchmark], label=figures.PAPER))
        random[title] = float(np.mean([variant.random.mean() for variant in group]))
    if not panels.keys() & published.keys():
        panels["the paper (multi-head MLP)"] = list(published.values())
    caption = (
        "IQM over runs of their scores, means over tasks, with 95% intervals where there are two runs or "
        "more; small dots are single runs, n in all; a fitted curve where a law is identified. The paper's points are "
        "its multi-head MLP after 2M steps per task: where lengths or tasks differ, compare shapes, not heights."
    )
    drawing = success_against_parameters(panels, random=random, x=x.size_label)
    return Drawing("success_against_parameters", f"Success against {x.size_word}", caption, drawing)


def _parts_drawing(found: Sequence[Variant], scores: Sequence[Interval]) -> list[Drawing]:
    """The same against the actor's and against the critics' parameters, where they are known apart."""
    if not all(variant.parameters["actor"] and variant.parameters["critic"] for variant in found):
        return []
    of = dict(zip(map(id, found), scores, strict=True))
    known = {variant.benchmark for variant in found}
    panels: dict[str, list[Series]] = {}
    for part, title in (("actor", "by the actor's size"), ("critic", "by the critics' size")):
        panels[title] = [
            _series([(variant, of[id(variant)]) for variant in members], part)
            for members in groups(found).values()
        ]
        panels[title] += [
            replace(series, label=figures.PAPER)
            for benchmark, series in paper.series_by_width(part).items()
            if benchmark in known
        ]
    caption = "The same variants against the parameters of the actor alone, and of the critics alone."
    drawing = success_against_parameters(panels, x="parameters")
    return [Drawing("success_against_parts", "Actor and critics apart", caption, drawing)]


def _score_table(found: Sequence[Variant], scores: Sequence[Interval]) -> Table:
    rows = []
    for variant, score in zip(found, scores, strict=True):
        rows.append(
            [
                short_name(variant.benchmark),
                variant.name,
                *(f"{variant.parameters[part]:,}" for part in ("actor", "critic", "total")),
                str(len(variant.seeds)),
                f"{score.estimate:.3f}",
                span(score.low, score.high, 3),
                "–" if np.isnan(variant.random).any() else f"{variant.random.mean():.3f}",
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
        "95% interval",
        "random policy",
    ]
    notes = sorted({score.note for score in scores if score.note})
    caption = "Success: the score that the first line names." + (
        f" No interval means: {'; '.join(notes)}." if notes else ""
    )
    return Table(caption, header, rows, texts=(0, 1))


def _heat_maps(found: Sequence[Variant], scores: Sequence[Interval]) -> list[Drawing]:
    """Actor width by critic width, for each group where the two vary apart."""
    drawings = []
    of = dict(zip(map(id, found), scores, strict=True))
    for number, (name, group) in enumerate(groups(found).items()):
        actors = sorted({variant.actor_width for variant in group})
        critics = sorted({variant.critic_width for variant in group})
        if len(actors) < 2 or len(critics) < 2 or all(variant.width for variant in group):
            continue
        success = np.full((len(critics), len(actors)), np.nan)
        of_actor = {variant.actor_width: variant.parameters["actor"] for variant in group}
        of_critic = {variant.critic_width: variant.parameters["critic"] for variant in group}
        parameters = np.add.outer(
            [of_critic[width] for width in critics], [of_actor[width] for width in actors]
        )
        for variant in group:
            place = critics.index(variant.critic_width), actors.index(variant.actor_width)
            success[place] = of[id(variant)].estimate
        fewest = min(len(variant.seeds) for variant in group)
        caption = (
            f"{name}: IQM of success, n = {fewest} or more runs per variant. Lines join variants of equal "
            "parameters, actor and critics together."
        )
        drawing = figures.heat_map(actors, critics, success, parameters)
        drawings.append(Drawing(f"actor_critic_{number}", "Actor against critic", caption, drawing))
    return drawings


def _profile_drawing(found: Sequence[Variant], generator: np.random.Generator) -> list[Drawing]:
    """Performance profiles by size, for the benchmarks of many tasks that have more than one run."""
    panels = {}
    levels = np.linspace(0, 1, 101)
    for benchmark, group in by_benchmark(found).items():
        shown = [variant for variant in group if len(variant.seeds) > 1 and len(variant.tasks) > FEW_TASKS]
        if len(shown) > FEW_PROFILES:  # more cannot be told apart
            shown = [shown[round(place)] for place in np.linspace(0, len(shown) - 1, FEW_PROFILES)]
        if shown:
            panels[short_name(benchmark)] = [_profile(variant, levels, generator) for variant in shown]
    if not panels:
        return []
    caption = (
        "Share of runs and tasks that score above a threshold, with 95% bands from n resampled runs; of two runs thin "
        "lines show each."
    )
    drawing = figures.lines(panels, x="success threshold", y="share above", log=False, dots=False)
    return [Drawing("profiles", "Performance profiles", caption, drawing)]


def _profile(variant: Variant, levels: np.ndarray, generator: np.random.Generator) -> Series:
    """A variant's profile in its band, or with the profile of each of two runs."""
    label = f"{variant.name}  (n = {len(variant.seeds)})"
    profile, low, high = profile_band(variant.scores, levels, generator, resamples=1_000)
    if len(variant.seeds) < figures.BAND_FROM:
        runs = np.stack([performance_profile(run[None], levels) for run in variant.scores])
        return Series(label, levels, profile, runs=runs)
    return Series(label, levels, profile, low, high)


def _provenance(dataset: xr.Dataset) -> list[Text | Lines]:
    runs = to_runs(dataset)
    skipped = dataset.attrs.get("skipped", [])
    versions = sorted({str(version) for version in runs.code_version.values})
    lines = [f"{run}  {where}" for run, where in zip(runs.run_id.values, _run_words(runs), strict=True)]
    config = json.dumps(json.loads(str(runs.config.values[0])), indent=1)
    items: list[Text | Lines] = [Text(f"Code version: {', '.join(versions)}.")]
    if skipped:
        items.append(Lines(f"{counted(len(skipped), 'file')} skipped", "\n".join(skipped), opened=True))
    items.append(Lines(f"{counted(len(lines), 'run')}", "\n".join(lines)))
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


def _lead(found: Sequence[Variant], score: Score) -> str:
    sets = " and ".join(short_name(benchmark) for benchmark in by_benchmark(found))
    widths = sorted({variant.critic_width for variant in found})
    span = f"width {widths[0]}" if len(widths) == 1 else f"critic widths {widths[0]} to {widths[-1]}"
    steps = max(variant.vector_steps for variant in found)
    return f"Score: {WORDS[score]}. {sets}; {span}; {steps:,} steps per task."


def _facts(everything: Sequence[Variant], found: Sequence[Variant], runs: int) -> list[tuple[str, str]]:
    planned = runs + sum(variant.unfinished for variant in everything)
    seeds = sorted({len(variant.seeds) for variant in found})
    return [
        ("runs finished", f"{runs} of {planned}"),
        ("task sets", str(len(by_benchmark(found)))),
        ("sizes", str(len({variant.parameters["total"] for variant in found}))),
        ("seeds per variant", str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} – {seeds[-1]}"),
        ("steps per task", f"{max(variant.vector_steps for variant in found):,}"),
    ]


METHODS = (
    "Score of a run: as the page's first line says, mean over tasks; an episode succeeds when any of its steps does. "
    "A variant is all seeds of one configuration; its score is the interquartile mean (IQM) of its runs' scores.",
    "Intervals of scores: bootstrap over whole runs, because the tasks of a run share one network; standard error "
    "corrected for few runs, Student's quantile. One run has no interval.",
    "Scaling laws over the measured sizes: least squares on the log failure of single runs; where sizes have several "
    "runs, sandwich errors with Satterthwaite's degrees of freedom (CR2). With a free floor: least squares on logits "
    f"and profile-likelihood intervals with the F quantile. Fewer than {MODELS['power'].sizes_needed} sizes, an "
    "interval wider than 1, or a constant that fits as well: not identified. A floor is "
    "spoken of only where its interval excludes 0.",
    "A run has collapsed when it ends below half of what it, or the median of its variant's other runs, had (a quarter "
    "at least), beyond chance (Fisher's exact test, .001).",
    "Random-policy line: the same environments under uniform random actions. A run counts as above it when its "
    "evaluations in the last third of training beat it beyond chance (Fisher's exact test, one-sided 5%; the random "
    "policy's rate is taken to come from as many episodes as one evaluation).",
)
