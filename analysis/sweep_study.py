"""A sweep's dataset -> the page about it. Every sentence is derived from the runs: seeds, sizes, steps, intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import xarray as xr
from scipy import stats

from analysis import comparisons, figures, law_study, paper, plasticity_study
from analysis.comparisons import Comparison
from analysis.figures import FEW_TASKS, Series, learning_curves, success_against_parameters
from analysis.frames import SweepError
from analysis.gridding import to_runs
from analysis.law_study import EVERYTHING, Law, law_of, span
from analysis.models import MODELS, Likelihood
from analysis.report import Drawing, Lines, Page, Section, Table, Text
from analysis.statistics import Interval, curve_area, interval, iqm_of_runs, plateau, profile_band, steps_to
from analysis.variants import PLAIN, Variant, groups, short_name, variants

SEEDS_NEEDED = 3  # runs of a variant below which no difference between variants is claimed
PAPER_STEPS = 2_000_000  # vector steps
PAPER_WIDTHS = (256, 4096)
MATCHED = 1.25  # by which factor the sizes of two systems may differ to be compared
FEW_PROFILES = 5
MANY_COMPARISONS = 4  # above, the words only count them


def study(
    dataset: xr.Dataset, name: str, *, model: str = "auto", likelihood: Likelihood = "logit", seed: int = 0
) -> Page:
    """The page about a sweep. Raises SweepError where no run has finished.

    model is a law's name; auto takes actor_critic where widths of actor and critic vary apart, and power elsewhere.
    """
    generator = np.random.default_rng(seed)
    everything = variants(dataset)
    found = [variant for variant in everything if variant.seeds]
    if not found:
        waiting = sum(variant.unfinished for variant in everything)
        raise SweepError(
            f"no finished runs in {name} ({waiting} unfinished); wait for one, or relaunch the sweep"
        )
    scores = [interval(variant.scores, iqm_of_runs, generator, bounds=(0, 1)) for variant in found]
    laws = _laws(found, model, likelihood, generator)
    compared = comparisons.comparisons(_pairs(found), generator)
    plasticity, plastic, not_plastic = plasticity_study.section(found)
    shows, does_not_show = findings(everything, found, laws, compared, dataset.attrs.get("skipped", []))
    runs = sum(len(variant.seeds) for variant in found)
    sections = [
        Section("Learning", [_learning_drawing(found), _speed_table(found)]),
        Section("Success and size", [
            _size_drawing(found, scores, laws), *_parts_drawing(found, scores), *_heat_maps(found, scores),
            _score_table(found, scores), *_profile_drawing(found, generator), *_comparison_items(compared),
        ]),
        Section("Scaling laws", law_study.items(laws)),
        Section("How far to trust the laws", law_study.diagnostics(laws)),
        Section("Plasticity", plasticity),
        Section("Methods", [Text(text) for text in METHODS]),
        Section("Provenance", _provenance(dataset)),
    ]  # fmt: skip
    return Page(
        title=f"Scaling study: {name}",
        lead=_lead(found),
        facts=_facts(everything, found, runs),
        shows=shows + plastic,
        does_not_show=does_not_show + not_plastic,
        sections=[section for section in sections if section.items],
        footer=f"mtrl, run files gathered from {dataset.attrs.get('source', name)}.",
        fits={law.group: law.summary() for law in laws}
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


def _pairs(found: Sequence[Variant]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """What to compare: neighbouring sizes, other settings of the same networks, other systems of like size."""
    pairs = []
    several = [variant for variant in found if len(variant.seeds) > 1]
    for name, group in groups(several).items():
        sizes = [variant for variant in group if variant.width]
        for small, large in pairwise(sizes):
            pairs.append((f"{name}: {large.name} above {small.width}", large.scores, small.scores))
    for number, variant in enumerate(several):
        for other in several[:number]:
            same = (other.benchmark, other.system, other.actor_width, other.critic_width)
            if same == (variant.benchmark, variant.system, variant.actor_width, variant.critic_width):
                claim = f"{short_name(variant.benchmark)}: {variant.name} above {other.name}"
                pairs.append((claim, variant.scores, other.scores))
    for variant in several:
        rivals = [c for c in several if (c.benchmark, c.settings) == (variant.benchmark, variant.settings)]
        plain = [c for c in rivals if c.system == PLAIN and variant.system != PLAIN]
        if plain:
            total = np.log(variant.parameters["total"])
            match = min(plain, key=lambda c: abs(np.log(c.parameters["total"]) - total))
            if abs(np.log(match.parameters["total"]) - total) < np.log(MATCHED):
                claim = f"{short_name(variant.benchmark)}: plain MLP, {match.name} above {variant.name}"
                pairs.append((claim, match.scores, variant.scores))
    return pairs


def _comparison_items(compared: Sequence[Comparison]) -> list[Table | Drawing]:
    if not compared:
        return []
    caption = (
        "Neighbouring sizes, other settings of the same networks, and systems of like size, all runs in. "
        f"p is Welch's; Holm's correction is for all {len(compared)} made here, so that one false claim among them has "
        "a chance of 5%. P(better): that a run of the first beats one of the second on the same task."
    )
    return [
        comparisons.table(compared, caption),
        comparisons.drawing(compared, "comparisons", "Comparisons"),
    ]


def findings(
    everything: Sequence[Variant],
    found: Sequence[Variant],
    laws: Sequence[Law],
    compared: Sequence[Comparison],
    skipped: Sequence[str],
) -> tuple[list[str], list[str]]:
    """What the runs show and what they do not, in sentences."""
    finished = sum(len(variant.seeds) for variant in found)
    unfinished = sum(variant.unfinished for variant in everything)
    diverged = sum(variant.diverged for variant in found)
    shows = [f"The pipeline works: {_count(finished, 'run')} went from environment to run file to this page."]
    not_shown: list[str] = []
    if unfinished:
        not_shown.append(
            f"{_count(unfinished, 'run')} not finished: they are drawn, but no score or fit uses them."
        )
    if skipped:
        not_shown.append(f"{_count(len(skipped), 'file')} could not be read; Provenance names each.")
    if diverged:
        where = ", ".join(f"{v.benchmark} {v.name}: {v.diverged}" for v in found if v.diverged)
        causes = Counter(cause for variant in found for cause in variant.causes if cause)
        told = ", ".join(f"{cause} in {number}" for cause, number in causes.most_common())
        shows.append(
            f"{_count(diverged, 'run')} diverged ({where}){f', seen by {told}' if told else ''}; it counts with the "
            "score at its last evaluation, 0 where it had none."
        )
    for group in _by_benchmark(found).values():
        yes, no = _learned(group)
        shows += yes
        not_shown += no
    for law in laws:
        yes, no = law_study.sentences(law)
        shows += yes
        not_shown += no
    yes, no = _compared(compared)
    shows += yes
    not_shown += no + _width_caveats(found)
    return shows, not_shown


def _compared(compared: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    """Each comparison in a sentence; of many, those that are supported, and a count of the rest."""
    yes = [c.sentence for c in compared if c.supported]
    no = [c.sentence for c in compared if not c.supported]
    if len(no) > MANY_COMPARISONS:
        no = [
            f"{len(no)} of {len(compared)} comparisons of variants: these runs do not support them (see the table)."
        ]
    if len(yes) > MANY_COMPARISONS:
        yes = [
            f"{len(yes)} of {len(compared)} comparisons of variants are supported after correction (see the table)."
        ]
    return yes, no


def _learned(group: Sequence[Variant]) -> tuple[list[str], list[str]]:
    """Per task of one benchmark: do the runs stand above the random policy over the last third of training?"""
    yes: list[str] = []
    no: list[str] = []
    if any(np.isnan(variant.random).any() for variant in group):
        return yes, [
            f"{short_name(group[0].benchmark)}: whether tasks are learned; the random policy is not known."
        ]
    where = "" if len(group[0].tasks) == 1 else f" (in {short_name(group[0].benchmark)})"
    runs = sum(len(variant.seeds) for variant in group)
    above: list[int] = []
    for place, task in enumerate(group[0].tasks):
        random = float(np.mean([variant.random[place] for variant in group]))
        late = [(rate, episodes) for variant in group for rate, episodes in variant.late(place)]
        above.append(sum(is_above(rate, episodes, random, group[0].episodes) for rate, episodes in late))
        last = float(np.mean(np.concatenate([variant.scores[:, place] for variant in group])))
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
    """Whether `success` over `episodes` beats the random policy's beyond chance: Fisher's exact test, one-sided 5%."""
    won, lucky = round(success * episodes), round(random * random_episodes)
    table = [[won, episodes - won], [lucky, random_episodes - lucky]]
    return bool(stats.fisher_exact(table, alternative="greater").pvalue < 0.05)


def _width_caveats(found: Sequence[Variant]) -> list[str]:
    lines = []
    fewest = min(len(variant.seeds) for variant in found)
    sizes = sorted({variant.parameters["total"] for variant in found})
    if fewest < SEEDS_NEEDED and len(sizes) > 1:
        lines.append(
            f"A width effect: there {'is 1 run' if fewest == 1 else f'are {fewest} runs'} per width, and two runs "
            f"of the same width differ by luck; {SEEDS_NEEDED} or more per width are needed to tell the two apart."
        )
    widths = sorted({width for variant in found for width in (variant.actor_width, variant.critic_width)})
    if widths[-1] < PAPER_WIDTHS[0]:
        lines.append(
            f"Anything about the paper's widths ({PAPER_WIDTHS[0]} to {PAPER_WIDTHS[1]}): "
            f"the widest network here has {widths[-1]}."
        )
    steps = max(variant.vector_steps for variant in found)
    if steps < PAPER_STEPS:
        lines.append(
            f"Final performance: runs last {steps:,} steps per task, {steps / PAPER_STEPS:.2g} of the paper's "
            f"{PAPER_STEPS:,}."
        )
    most = max(variant.task_count for variant in found)
    if most < 10:
        lines.append(f"Anything about MT10 or larger: the largest set here has {_count(most, 'task')}.")
    return lines


def _learning_drawing(found: Sequence[Variant]) -> Drawing:
    runs = sorted({variant.curves.shape[0] for variant in found})
    span = _count(runs[0], "run") if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs"
    few = len({variant.name for variant in found}) <= figures.MANY_LINES
    band = " The band spans the runs." if runs[-1] > 1 and few else ""
    caption = (
        f"Success of the deterministic policy over {found[0].episodes} episodes per task; {span} per line, "
        f"lighter is larger.{band} The dashed line is a uniform random policy: it succeeds by chance on easy tasks."
    )
    return Drawing("learning_curves", "Learning curves", caption, learning_curves(found))


def _series(rows: Sequence[tuple[Variant, Interval]], part: str, law: Law | None = None) -> Series:
    """One line: the variants of a group against their parameters, with the single runs."""
    rows = sorted(rows, key=lambda row: row[0].parameters[part])
    sizes = np.array([variant.parameters[part] for variant, _ in rows])
    runs = [(variant.parameters[part], score, lost) for variant, _ in rows
            for score, lost in
            zip(variant.scores.mean(-1), variant.diverged_runs[variant.finished], strict=True)]  # fmt: skip
    size, score, lost = (np.array(column) for column in zip(*runs, strict=True))
    several = max(len(variant.seeds) for variant, _ in rows) > 1
    grid = np.geomspace(sizes.min(), sizes.max(), 80)
    return Series(
        f"{rows[0][0].group}  (n = {len(runs)})",
        sizes,
        np.array([score.estimate for _, score in rows]),
        np.array([score.low for _, score in rows]),
        np.array([score.high for _, score in rows]),
        curve=(grid, 1 - law.fit.failure(parameters=grid))
        if law and law.fit.identified and law.fit.model == "power"
        else None,
        dots=(size, score) if several else None,
        crosses=(size[lost], score[lost]),
    )


def _size_drawing(found: Sequence[Variant], scores: Sequence[Interval], laws: Sequence[Law]) -> Drawing:
    fits = {law.group: law for law in laws}
    of = dict(zip(map(id, found), scores, strict=True))
    published = paper.series_by_width()
    panels: dict[str, list[Series]] = {}
    random = {}
    for benchmark, group in _by_benchmark(found).items():
        title = short_name(benchmark)
        panels[title] = [
            _series([(variant, of[id(variant)]) for variant in members], "total", fits.get(name))
            for name, members in groups(group).items()
        ]
        if benchmark in published:
            panels[title].append(replace(published[benchmark], label=figures.PAPER))
        random[title] = float(np.mean([variant.random.mean() for variant in group]))
    if not panels.keys() & published.keys():
        panels["the paper (multi-head MLP)"] = list(published.values())
    caption = (
        "IQM over runs of the mean over tasks at the last evaluation, with 95% intervals where there are two runs or "
        "more; small dots are single runs, n in all; a fitted curve where a law is identified. The paper's points are "
        "its multi-head MLP after 2M steps per task: where lengths or tasks differ, compare shapes, not heights."
    )
    drawing = success_against_parameters(panels, random=random)
    return Drawing("success_against_parameters", "Success against parameters", caption, drawing)


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
    caption = "Success at the last evaluation." + (
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
        parameters = np.full(success.shape, np.nan)
        for variant in group:
            place = critics.index(variant.critic_width), actors.index(variant.actor_width)
            success[place], parameters[place] = of[id(variant)].estimate, variant.parameters["total"]
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
    for benchmark, group in _by_benchmark(found).items():
        shown = [variant for variant in group if len(variant.seeds) > 1 and len(variant.tasks) > FEW_TASKS]
        if len(shown) > FEW_PROFILES:  # more cannot be told apart
            shown = [shown[round(place)] for place in np.linspace(0, len(shown) - 1, FEW_PROFILES)]
        if shown:
            panels[short_name(benchmark)] = [
                Series(
                    f"{variant.name}  (n = {len(variant.seeds)})",
                    levels,
                    *profile_band(variant.scores, levels, generator, resamples=1_000),
                )
                for variant in shown
            ]
    if not panels:
        return []
    caption = "Share of runs and tasks that score above a threshold, with 95% bands from n resampled runs."
    drawing = figures.lines(panels, x="success threshold", y="share above", log=False, dots=False)
    return [Drawing("profiles", "Performance profiles", caption, drawing)]


def _speed_table(found: Sequence[Variant]) -> Table:
    """Area under the learning curve, steps to half, and whether the curve has settled."""
    rows = []
    for variant in found:
        known = variant.env_steps >= 0
        steps = variant.env_steps[known] / variant.task_count
        curve = np.nanmean(variant.curves.mean(-1)[:, known], axis=0)
        half = float(steps_to(0.5, steps, curve))
        settled = plateau(steps, curve) if len(steps) >= 10 else np.nan
        rows.append(
            [
                short_name(variant.benchmark),
                variant.name,
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
    header = ["tasks", "width", "mean height of the curve", "steps to 50% success", "settled from"]
    return Table(caption, header, rows, texts=(0, 1))


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


def _lead(found: Sequence[Variant]) -> str:
    sets = " and ".join(short_name(benchmark) for benchmark in _by_benchmark(found))
    widths = sorted({variant.critic_width for variant in found})
    span = f"width {widths[0]}" if len(widths) == 1 else f"critic widths {widths[0]} to {widths[-1]}"
    return f"{sets}; {span}; {max(variant.vector_steps for variant in found):,} steps per task."


def _facts(everything: Sequence[Variant], found: Sequence[Variant], runs: int) -> list[tuple[str, str]]:
    planned = runs + sum(variant.unfinished for variant in everything)
    seeds = sorted({len(variant.seeds) for variant in found})
    return [
        ("runs finished", f"{runs} of {planned}"),
        ("task sets", str(len(_by_benchmark(found)))),
        ("sizes", str(len({variant.parameters["total"] for variant in found}))),
        ("seeds per variant", str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} – {seeds[-1]}"),
        ("steps per task", f"{max(variant.vector_steps for variant in found):,}"),
    ]


def _by_benchmark(found: Sequence[Variant]) -> dict[str, list[Variant]]:
    groups: dict[str, list[Variant]] = {}
    for variant in found:
        groups.setdefault(variant.benchmark, []).append(variant)
    return groups


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


METHODS = (
    "Score of a run: success at its last evaluation (an episode succeeds when any of its steps does), mean over tasks. "
    "Score of a variant: the interquartile mean (IQM) of its runs' scores.",
    "Intervals of scores: bootstrap over whole runs, because the tasks of a run share one network; standard error "
    "corrected for few runs, Student's quantile. One run has no interval.",
    "Scaling laws: least squares on logits of the failure rate over single runs; profile-likelihood intervals with the "
    f"F quantile. Fewer than {MODELS['power'].sizes_needed} sizes, an interval wider than 1, or a constant that fits "
    "as well: not identified.",
    "Random-policy line: the same environments under uniform random actions. A run counts as above it when its "
    "evaluations in the last third of training beat it beyond chance (Fisher's exact test, one-sided 5%; the random "
    "policy's rate is taken to come from as many episodes as one evaluation).",
)
