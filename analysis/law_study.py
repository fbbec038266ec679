"""The laws of a sweep's groups of variants: fits, and the sentences about them. law_items.py has tables and figures.

Each group has two laws: the line over the sizes that were measured (slopes.py), and the law with a free floor, which
says where the line would end (scaling_laws.py). What one refuses, the other may still say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import collapse
from analysis.exact_tests import p_words, trend_p
from analysis.models import MODELS, Likelihood
from analysis.sandwich import Estimate
from analysis.scaling_laws import (
    CLAIM,
    Choice,
    Fit,
    Points,
    best_critic_share,
    bootstrap,
    compare,
    critic_against_actor,
    fit,
    floor_interval,
    largest,
)
from analysis.slopes import WIDEST, Slopes, best_share, critic_minus_actor, slopes
from analysis.variants import Variant
from mtrl.sizing import flops_by_parameters

EVERYTHING = "all task sets"
LINES = {
    "power": "slope",
    "actor_critic": "elasticities",
    "tasks": "tasks",
    "actor_critic_tasks": "tasks",
    "interaction": "interaction",
}  # the line of a law; of any other, the slope
OTHER_LIKELIHOODS: tuple[Likelihood, ...] = ("logit", "huber", "beta_binomial")
TREND = 0.05

Share = tuple[float, float, float]  # estimate and interval


@dataclass(frozen=True)
class Law:
    """The two laws of one group's runs, with what follows from them."""

    group: str
    points: Points
    line: Slopes
    fit: Fit
    floor: tuple[float, float] = (0.0, 1.0)  # interval
    lost: int = 0  # collapsed and diverged runs among the points
    without_lost: Slopes | None = None  # the line of the other runs
    trend: float = float("nan")  # p of a rank correlation of success with size
    choices: tuple[Choice, ...] = ()  # this and other laws on the same points, best first
    rest: Fit | None = None  # the law fitted without the largest size
    others: tuple[Fit, ...] = ()  # the law by other likelihoods
    critic_larger: float | None = None  # confidence that the critic's exponent is the larger one
    shares: tuple[
        tuple[str, str, Share], ...
    ] = ()  # best critic share: by which law, at equal what, and how much

    @property
    def best_choice(self) -> Choice | None:
        """Another law that does better beyond noise, if there is one."""
        own = next((choice for choice in self.choices if choice.model == self.fit.model), None)
        better = [choice for choice in self.choices if own and choice.beats(own)]
        return better[0] if better else None

    def summary(self) -> dict[str, object]:
        """Everything to keep, for JSON."""
        choices = [
            {"model": c.model, "left_out": _finite(c.left_out), "aicc": _finite(c.aicc), "bic": _finite(c.bic),
             "refusal": c.refusal}
            for c in self.choices
        ]  # fmt: skip
        return self.fit.summary() | {
            "line": self.line.summary(),
            "floor_interval": list(self.floor),
            "lost_runs": self.lost,
            "line_without_lost": self.without_lost.summary() if self.without_lost else None,
            "p_trend": _finite(self.trend),
            "p_critic_exponent_larger": self.critic_larger,
            "best_critic_share": {
                f"{law}, {basis}": dict(zip(("share", "low", "high"), share, strict=True))
                for law, basis, share in self.shares
            },
            "choices": choices,
        }


def points_of(group: Sequence[Variant]) -> Points:
    """A point for each finished run: its mean score over its tasks."""
    counts = [len(variant.seeds) for variant in group]
    sizes = {
        part: np.repeat([float(variant.parameters[key]) for variant in group], counts)
        for part, key in (("parameters", "total"), ("actor", "actor"), ("critic", "critic"))
    }
    sizes["tasks"] = np.repeat([float(variant.task_count) for variant in group], counts)
    success = np.concatenate([variant.scores.mean(-1) for variant in group])
    trials = np.repeat([variant.score_episodes * variant.task_count for variant in group], counts)
    return Points(sizes, success, trials, np.repeat(np.arange(len(group)), counts), single_runs=True)


def law_of(
    name: str,
    group: Sequence[Variant],
    model: str,
    generator: np.random.Generator,
    *,
    likelihood: Likelihood = "logit",
) -> Law:
    """The laws over the single runs of the variants; auto takes actor_critic where their widths vary apart."""
    if model == "auto":
        model = "actor_critic" if any(variant.width is None for variant in group) else "power"
    lost = np.concatenate([collapse.collapsed(variant) for variant in group])
    return law_of_points(name, points_of(group), model, generator, likelihood=likelihood, lost=lost)


def law_of_points(
    name: str,
    points: Points,
    model: str,
    generator: np.random.Generator,
    *,
    likelihood: Likelihood = "logit",
    lost: NDArray[np.bool_] | None = None,
) -> Law:
    """The line and the law with a floor through the points; `lost` marks collapsed and diverged runs."""
    form = LINES.get(model, "slope")
    line = slopes(form, points)
    found = fit(MODELS[model], points, generator, likelihood=likelihood)
    law = Law(
        name, points, line, found,
        floor=floor_interval(found, points),
        lost=int(lost.sum()) if lost is not None else 0,
        without_lost=_without(form, points, lost),
        trend=_trend(points, generator),
        shares=_line_shares(line, generator),
    )  # fmt: skip
    return law if found.refusal else _tried(law, model, generator, likelihood)


def _without(form: str, points: Points, lost: NDArray[np.bool_] | None) -> Slopes | None:
    """The line of the runs that are not lost, where some are and some are left."""
    return slopes(form, points.where(~lost)) if lost is not None and 0 < lost.sum() < len(lost) else None


def _tried(law: Law, model: str, generator: np.random.Generator, likelihood: Likelihood) -> Law:
    """The law beside its rivals, other likelihoods, and itself without the largest size."""
    points = law.points
    rivals = [rival for rival in MODELS.values() if set(rival.regressors) <= _varying(points)]
    without = points.where(~largest(points))
    rest = fit(MODELS[model], without, generator, likelihood=likelihood, intervals=False)
    others = [
        fit(MODELS[model], points, generator, likelihood=o) for o in OTHER_LIKELIHOODS if o != likelihood
    ]
    tried: dict[str, Any] = {
        "choices": tuple(compare(rivals, points, generator, likelihood=likelihood)),
        "rest": None if rest.refusal else rest,
        "others": tuple(others),
    }
    if model == "actor_critic":
        tried["critic_larger"] = critic_against_actor(points, law.fit, generator)
        tried["shares"] = (*law.shares, *_floor_shares(law, generator))
    return Law(**(vars(law) | tried))


def _trend(points: Points, generator: np.random.Generator) -> float:
    sizes = points.sizes["parameters"] if "parameters" in points.sizes else points.sizes["critic"]
    if len(np.unique(sizes)) < 2 or points.lone():
        return float("nan")
    return trend_p(sizes, points.success, generator)


def _varying(points: Points) -> set[str]:
    """The regressors that these points can tell apart."""
    varying = {name for name, size in points.sizes.items() if len(np.unique(size)) > 1}
    if not {"actor", "critic"} <= varying:
        return varying - {"actor", "critic"}
    together = len(np.unique(np.stack([points.sizes["actor"], points.sizes["critic"]]), axis=1).T)
    if together <= max(len(np.unique(points.sizes[name])) for name in ("actor", "critic")):
        varying -= {"actor", "critic"}  # they grow together
    return varying


def _line_shares(line: Slopes, generator: np.random.Generator) -> tuple[tuple[str, str, Share], ...]:
    """The best share by the elasticities: the same part of FLOPs as of parameters."""
    if line.form != "elasticities" or line.refusal:
        return ()
    share = best_share(line, generator)
    return (("elasticities", "parameters", share), ("elasticities", "FLOPs", share))


def _floor_shares(law: Law, generator: np.random.Generator) -> tuple[tuple[str, str, Share], ...]:
    """The best share by the law with a floor, at the mean size of the sweep."""
    model, found, points = MODELS["actor_critic"], law.fit, law.points
    samples = bootstrap(model, points, found, generator, resamples=1_000)
    best = np.array([[found.numbers[name] for name in model.numbers]])
    total = float(np.exp(np.log(points.sizes["actor"] + points.sizes["critic"]).mean()))
    shares = []
    for basis in ("parameters", "FLOPs"):
        flops = basis == "FLOPs"
        budget = flops_by_parameters(total / 2, total / 2) if flops else total
        low, high = np.quantile(best_critic_share(samples, found.centre, budget, flops=flops), [0.025, 0.975])
        share = float(best_critic_share(best, found.centre, budget, flops=flops)[0])
        shares.append(("with a floor", basis, (share, float(low), float(high))))
    return tuple(shares)


def sentences(law: Law) -> tuple[list[str], list[str]]:
    """What the laws show, and what they do not."""
    said = [*_line_sentences(law), *_lost_sentences(law), *_floor_sentences(law), *_split_sentences(law)]
    best = law.best_choice
    if best and law.fit.identified:
        said.append((
            f"{law.group}: that {law.fit.model} is the right law: fitted without the largest size, {best.model} "
            "predicts it better beyond noise.", False,
        ))  # fmt: skip
    return [words for words, shown in said if shown], [words for words, shown in said if not shown]


def _line_sentences(law: Law) -> list[tuple[str, bool]]:
    """(sentence, whether it is shown) of the exponents over the sizes that were measured."""
    line, where = law.line, law.group
    if line.refusal:
        said = [(f"{where}: a scaling exponent is not identified: {line.refusal}.", False)]
        if law.trend < TREND:
            said.append(
                (f"{where}: success changes with size (rank correlation, {p_words(law.trend)}).", True)
            )
        return said
    said = []
    for name, found in line.exponents.items():
        refusal = line.refused(name)
        if name == "parameters":
            said.append(
                (f"{where}: a scaling exponent over the measured sizes is not identified: {refusal}.", False)
                if refusal
                else (_slope_words(law, found), True)
            )
        elif name == "growth with tasks":
            said.append(
                (f"{where}: how failure grows with tasks is not identified: {refusal}.", False)
                if refusal
                else (
                    f"{where}: at equal size, failure grows with the number of tasks as T^{found.value:.2f}; "
                    f"{interval_words(found)}.",
                    True,
                )
            )
        elif name == "interaction":
            said.append(_interaction_words(where, found))
    return said


def _slope_words(law: Law, found: Estimate) -> str:
    sizes = law.points.sizes["parameters"]
    verb = "falls" if found.value > 0 else "grows"
    return (
        f"{law.group}: from {short(sizes.min())} to {short(sizes.max())} parameters, failure {verb} as "
        f"N^-a with a = {found.value:.3f} ({interval_words(found, 3)}; n = {law.line.points}). "
        f"Ten times the parameters leave {10**-found.value:.0%} of the failure."
    )


def _interaction_words(where: str, found: Estimate) -> tuple[str, bool]:
    if not found.clear:
        return f"{where}: whether the exponent of size depends on the number of tasks.", False
    word = "larger" if found.value > 0 else "smaller"
    return (
        f"{where}: the exponent of size is {word} where there are more tasks, by {abs(found.value) * np.log(2):.3f} "
        f"each time the tasks double; {interval_words(found)} per e-fold.",
        True,
    )


def _lost_sentences(law: Law) -> list[tuple[str, bool]]:
    """The line of the runs that did not collapse, beside that of all."""
    rest = law.without_lost
    if rest is None or "parameters" not in rest.exponents:
        return []
    found, refusal = rest.exponents["parameters"], rest.refused("parameters")
    where = f"{law.group}, without its {law.lost} collapsed or diverged run{'' if law.lost == 1 else 's'}"
    if refusal:
        return [(f"{where}: a scaling exponent is not identified: {refusal}.", False)]
    return [(f"{where}: failure goes as N^-a with a = {found.value:.3f} ({interval_words(found, 3)}).", True)]


def _floor_sentences(law: Law) -> list[tuple[str, bool]]:
    """The exponents with a free floor, and the floor where its interval excludes 0."""
    found, where = law.fit, law.group
    if found.refusal:
        return (
            [] if law.line.refusal else [(f"{where}: exponents with a free floor: {found.refusal}.", False)]
        )
    said: list[tuple[str, bool]] = []
    for exponent in found.exponents:
        if exponent.name in ("interaction", "tasks"):
            continue  # the line says it
        of = "" if exponent.name == "parameters" else f" of the {exponent.name}"
        words = f"{exponent.low:.2f} to {exponent.high:.2f}"
        said.append(
            (
                f"{where}: the exponent{of} with a free floor is {exponent.estimate:.2f}; 95% interval {words}.",
                True,
            )
            if exponent.identified
            else (
                f"{where}: the exponent{of} with a free floor is not identified: {exponent.refusal}.",
                False,
            )
        )
    low, high = law.floor
    if low > 0:
        said.append(
            (
                f"{where}: failure has a floor of {found.floor:.1%}; 95% interval {low:.1%} to {high:.1%}.",
                True,
            )
        )
    elif found.identified:
        said.append(
            (f"{where}: whether failure has a floor: 0 is inside its interval, 0% to {high:.1%}.", False)
        )
    return said


def _split_sentences(law: Law) -> list[tuple[str, bool]]:
    """(sentence, whether it is shown) about actor against critic."""
    said: list[tuple[str, bool]] = []
    where, line = law.group, law.line
    if line.form == "elasticities" and not line.refusal:
        said += _elasticity_sentences(where, line)
    if law.critic_larger is not None:
        sure = max(law.critic_larger, 1 - law.critic_larger)
        order = ("critic", "actor") if law.critic_larger >= 0.5 else ("actor", "critic")
        said.append(
            (
                f"{where}: with a free floor, whether actor or critic has the larger exponent (confidence {sure:.2f}).",
                False,
            )
            if sure < CLAIM
            else (
                f"{where}: with a free floor, the {order[0]}'s exponent is larger than the {order[1]}'s, with "
                f"confidence {sure:.3f}.",
                True,
            )
        )
    for by, basis, (share, low, high) in law.shares:
        if by == "elasticities" and high - low < 0.5:
            said.append((
                f"{where}: at equal {basis}, success is best with {share:.0%} of them in the critics; 95% interval "
                f"{low:.0%} to {high:.0%} (by the elasticities).", True,
            ))  # fmt: skip
    return said


def _elasticity_sentences(where: str, line: Slopes) -> list[tuple[str, bool]]:
    said = []
    for part, found in line.exponents.items():
        bought = f"doubling the {part}'s parameters changes failure by {2**-found.value - 1:+.1%}"
        words = f"elasticity {found.value:.3f}, {interval_words(found, 3)}"
        said.append((f"{where}: {bought}, the other held ({words})", found.clear))
    gap = critic_minus_actor(line)
    larger, smaller = ("critic", "actor") if gap.value > 0 else ("actor", "critic")
    words = f"by {abs(gap.value):.3f} ({interval_words(gap, 3)} of critic minus actor, {p_words(gap.p)})"
    said.append(
        (f"{where}: the {larger}'s elasticity is larger than the {smaller}'s, {words}", True)
        if gap.clear
        else (
            f"{where}: whether more critic or more actor buys more: their elasticities differ {words}",
            False,
        )
    )
    return [(f"{text}.", shown) for text, shown in said]


def interval_words(found: Estimate, digits: int = 2) -> str:
    return f"95% interval {decimals(found.low, digits)} to {decimals(found.high, digits)}"


def estimate_words(found: Estimate) -> str:
    """`0.42 (0.27 – 0.56)`, or that the data do not say, where the interval is too wide to say anything."""
    if not found.high - found.low <= WIDEST:
        return "not identified by these data"
    return f"{found.value:z.2f} ({span(found.low, found.high)})"


def short(count: float) -> str:
    """`461k` for 460,900."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{float(f'{count / size:.3g}'):g}{letter}"
    return f"{count:g}"


def span(low: float, high: float, digits: int = 2) -> str:
    """`0.12 – 0.34`; a dash where there is no interval, `> 0.12` or `< 0.34` where it has one end."""
    if np.isnan(low):
        return "–"
    if np.isfinite(low) and np.isfinite(high):
        return f"{decimals(low, digits)} – {decimals(high, digits)}"
    if np.isfinite(low):
        return f"> {decimals(low, digits)}"
    return f"< {decimals(high, digits)}" if np.isfinite(high) else "any"


def decimals(value: float, digits: int) -> str:
    """So many decimals, and one more where they would all be zeros: `-0.0003`, so that the sign is true."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{value:.{digits + 1}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
