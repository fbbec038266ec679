"""The report's sentences: what a sweep's runs show and what they do not. All of them are computed from the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from analysis import collapse, law_study
from analysis.comparisons import Comparison
from analysis.exact_tests import fisher_p
from analysis.figures import FEW_TASKS
from analysis.law_study import Law
from analysis.report import counted
from analysis.variants import Variant, by_benchmark, groups, short_name

SEEDS_NEEDED = 3  # with fewer runs of a variant, no difference between variants is claimed
PAPER_STEPS = 2_000_000  # vector steps
PAPER_WIDTHS = (256, 4096)
MANY_COMPARISONS = 4  # more comparisons are only counted
MANY_GROUPS = 6  # what is said of each of more groups comes after what is said of all

Findings = tuple[list[str], list[str]]  # shown, not shown


def findings(
    everything: Sequence[Variant],
    found: Sequence[Variant],
    laws: Sequence[Law],
    compared: Sequence[Comparison],
    attributes: Mapping[str, Any],
    following: Sequence[str],
    of_groups: Sequence[Findings],
    of_all: Sequence[Findings],
) -> Findings:
    """The sentences on what the runs show and what they do not.

    `everything` are all variants, `found` those with finished runs, `attributes` those of the dataset, `following` the
    settings that change with the size. `of_groups` and `of_all` are what other rooms say.
    """
    of_laws = [*map(law_study.sentences, laws), *of_groups]
    of_losses = [_lost_of(name, group) for name, group in groups(found).items()]
    learned = [_learned(group) for group in by_benchmark(found).values()]
    rest = [_compared(compared), ([], _following(following)), ([], _caveats(found, laws)), *of_all]
    if len(laws) <= MANY_GROUPS:
        parts = [*of_losses, _diverged(found), *learned, *of_laws, *rest]
    else:
        parts = [_diverged(found), *learned, *rest, *of_losses, *of_laws]
    shows, not_shown = zip(*parts, strict=True)
    return list(chain(*shows)), list(chain(_left_out(everything, attributes), *not_shown))


def _left_out(everything: Sequence[Variant], attributes: Mapping[str, Any]) -> list[str]:
    """Which runs and files no score or fit uses, and why."""
    lines = []
    if unfinished := sum(variant.unfinished for variant in everything):
        lines.append(
            f"{counted(unfinished, 'run')} not finished: they are drawn, but no score or fit uses them."
        )
    if unscored := sum(variant.unscored for variant in everything):
        lines.append(
            f"{counted(unscored, 'run')} ended without any success of some task: no score or fit uses them."
        )
    if lacking := sum(variant.lacking for variant in everything):
        lines.append(
            f"The last evaluation of {counted(lacking, 'run')} lacks a task: it counts with its last known value."
        )
    if skipped := attributes.get("skipped", []):
        lines.append(f"{counted(len(skipped), 'file')} could not be read; Provenance names each.")
    if repeated := attributes.get("repeated", []):
        lines.append(
            f"Runs that stand in several files ({counted(len(repeated), 'file')} more): each is read once."
        )
    return lines


def _lost_of(name: str, group: Sequence[Variant]) -> Findings:
    """Collapsed and diverged runs of a group."""
    lines = collapse.sentences(name, group)
    return [line for line in lines if "is open" not in line], [line for line in lines if "is open" in line]


def _diverged(found: Sequence[Variant]) -> Findings:
    """The metrics by which runs diverged."""
    diverged = sum(variant.diverged for variant in found)
    if not diverged:
        return [], []
    causes = Counter(cause for variant in found for cause in variant.causes if cause)
    told = ", ".join(f"{cause} in {number}" for cause, number in causes.most_common())
    line = (
        f"{counted(diverged, 'run')} diverged{f', seen by {told}' if told else ''}; a diverged run counts with the "
        "score that it had, 0 where it had none."
    )
    return [line], []


def _following(settings: Sequence[str]) -> list[str]:
    if not settings:
        return []
    return [f"What size does apart from {', '.join(settings)}: these settings change with the size here."]


def _compared(compared: Sequence[Comparison]) -> Findings:
    """A sentence for each comparison; with more than MANY_COMPARISONS, how many are supported and how many are not."""
    yes = [c.sentence for c in compared if c.supported]
    no = [c.sentence for c in compared if not c.supported]
    if len(no) > MANY_COMPARISONS:
        no = [f"{len(no)} of {len(compared)} comparisons: these runs do not support them (see the table)."]
    if len(yes) > MANY_COMPARISONS:
        yes = [f"{len(yes)} of {len(compared)} comparisons are supported after correction (see the table)."]
    return yes, no


def _learned(group: Sequence[Variant]) -> Findings:
    """For each task of one benchmark, whether the runs beat the random policy over the last third of training."""
    yes: list[str] = []
    no: list[str] = []
    name = short_name(group[0].benchmark)
    if any(np.isnan(variant.random).any() for variant in group):
        return yes, [f"{name}: whether tasks are learned; the random policy is not known."]
    where = "" if len(group[0].tasks) == 1 else f" (in {name})"
    runs = sum(len(variant.seeds) for variant in group)
    above: list[int] = []
    for place, task in enumerate(group[0].tasks):
        random = float(np.mean([variant.random[place] for variant in group]))
        late = [(rate, episodes) for variant in group for rate, episodes in variant.late(place)]
        above.append(sum(is_above(rate, episodes, random, group[0].episodes) for rate, episodes in late))
        if len(group[0].tasks) <= FEW_TASKS:
            last = float(np.mean(np.concatenate([variant.scores[:, place] for variant in group])))
            (yes if above[-1] else no).append(
                f"{short_name(task)}{where} {'rises' if above[-1] else 'does not rise'} above its random-policy line "
                f"({random:.0%}) in {above[-1] or 'any'} of {counted(runs, 'run')}: success is "
                f"{np.mean([rate for rate, _ in late]):.0%} over the last third of training, its score {last:.0%}."
            )
    if len(group[0].tasks) > FEW_TASKS:
        yes += _learned_of_many(name, above, runs)
    return yes, no


def _learned_of_many(name: str, above: Sequence[int], runs: int) -> list[str]:
    every, some = sum(count == runs for count in above), sum(count > 0 for count in above)
    return [
        f"{name}: {every} of {len(above)} tasks rise above their random-policy line in every run, {some} in some runs."
    ]


def is_above(success: float, episodes: int, random: float, random_episodes: int) -> bool:
    """Whether `success` over `episodes` is above the random policy's by Fisher's exact test (one-sided, p < 0.05)."""
    won, lucky = round(success * episodes), round(random * random_episodes)
    return fisher_p(won, episodes, lucky, random_episodes) < 0.05


def _caveats(found: Sequence[Variant], laws: Sequence[Law]) -> list[str]:
    lines = []
    fewest = min(len(variant.seeds) for variant in found)
    sizes = sorted({variant.parameters["total"] for variant in found})
    shown = any(
        not law.line.refusal and not law.line.refused(name) for law in laws for name in law.line.exponents
    )
    if fewest < SEEDS_NEEDED and len(sizes) > 1 and not shown:
        lines.append(
            f"A width effect: there {'is 1 run' if fewest == 1 else f'are {fewest} runs'} per width, and two runs "
            f"of the same width differ by luck; {SEEDS_NEEDED} or more per width are needed to tell the two apart."
        )
    widths = sorted({width for variant in found for width in (variant.actor_width, variant.critic_width)})
    if 0 < widths[-1] < PAPER_WIDTHS[0]:
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
        lines.append(f"Anything about MT10 or larger: the largest set here has {counted(most, 'task')}.")
    return lines
