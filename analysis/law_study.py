"""The scaling laws of a sweep's groups of variants, with the sentences, tables and figures about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis import figures
from analysis.figures import Row
from analysis.models import MODELS, Likelihood
from analysis.report import Drawing, Table, Text
from analysis.scaling_laws import (
    ACTOR_FLOPS,
    CLAIM,
    CRITIC_FLOPS,
    Choice,
    Fit,
    Points,
    best_critic_share,
    bootstrap,
    compare,
    critic_against_actor,
    fit,
    largest,
)
from analysis.variants import Variant

EVERYTHING = "all task sets"
OF = {
    "parameters": "parameters",
    "actor": "actor parameters",
    "critic": "critic parameters",
}
OTHER_LIKELIHOODS: dict[Likelihood, str] = {
    "logit": "least squares on logits",
    "huber": "Huber on logits",
    "beta_binomial": "beta-binomial on counts",
}


@dataclass(frozen=True)
class Law:
    """A fit to one group's runs, with what follows from it."""

    group: str
    points: Points
    fit: Fit
    choices: tuple[Choice, ...] = ()  # this and other laws on the same points, best first
    rest: Fit | None = None  # the law fitted without the largest size
    others: tuple[Fit, ...] = ()  # the law by other likelihoods
    critic_larger: float | None = None  # confidence that the critic's exponent is the larger one
    # best critic share at equal parameters, at equal FLOPs: estimate and interval
    shares: tuple[tuple[float, float, float], ...] = ()

    def summary(self) -> dict[str, object]:
        """Everything to keep, for JSON."""
        shares = [{"share": share, "low": low, "high": high} for share, low, high in self.shares]
        choices = [
            {"model": c.model, "left_out": _finite(c.left_out), "aicc": _finite(c.aicc), "bic": _finite(c.bic),
             "refusal": c.refusal}
            for c in self.choices
        ]  # fmt: skip
        return self.fit.summary() | {
            "p_critic_exponent_larger": self.critic_larger,
            "best_critic_share": dict(zip(("equal parameters", "equal flops"), shares, strict=False)),
            "choices": choices,
        }


def points_of(group: Sequence[Variant]) -> Points:
    """A point for each finished run: its mean success over its tasks."""
    counts = [len(variant.seeds) for variant in group]
    sizes = {
        part: np.repeat([variant.parameters[key] for variant in group], counts)
        for part, key in (("parameters", "total"), ("actor", "actor"), ("critic", "critic"))
    }
    sizes["tasks"] = np.repeat([variant.task_count for variant in group], counts)
    success = np.concatenate([variant.scores.mean(-1) for variant in group])
    trials = np.repeat([variant.episodes * variant.task_count for variant in group], counts)
    return Points(sizes, success, trials, np.repeat(np.arange(len(group)), counts))


def law_of(
    name: str,
    group: Sequence[Variant],
    model: str,
    generator: np.random.Generator,
    *,
    likelihood: Likelihood = "logit",
) -> Law:
    """The law `model` over the single runs of the variants; auto takes actor_critic where their widths vary apart."""
    if model == "auto":
        model = "actor_critic" if any(variant.width is None for variant in group) else "power"
    points = points_of(group)
    found = fit(MODELS[model], points, generator, likelihood=likelihood)
    if found.refusal:
        return Law(name, points, found)
    rivals = [law for law in MODELS.values() if set(law.regressors) <= _varying(points)]
    choices = tuple(compare(rivals, points, generator, likelihood=likelihood))
    rest = fit(MODELS[model], points.where(~largest(points)), generator, likelihood=likelihood)
    others = tuple(
        fit(MODELS[model], points, generator, likelihood=other)
        for other in OTHER_LIKELIHOODS
        if other != likelihood
    )
    law = Law(name, points, found, choices, None if rest.refusal else rest, others)
    return law if model != "actor_critic" else _split(law, generator)


def _varying(points: Points) -> set[str]:
    """The regressors that these points can tell apart."""
    varying = {name for name, size in points.sizes.items() if len(np.unique(size)) > 1}
    together = len(np.unique(np.stack([points.sizes["actor"], points.sizes["critic"]]), axis=1).T)
    if together <= max(len(np.unique(points.sizes[name])) for name in ("actor", "critic")):
        varying -= {"actor", "critic"}  # they grow together
    return varying


def _split(law: Law, generator: np.random.Generator) -> Law:
    """The law with what it says of actor against critic, at the mean size of the sweep."""
    model, found, points = MODELS["actor_critic"], law.fit, law.points
    samples = bootstrap(model, points, found, generator, resamples=1_000)
    best = np.array([[found.numbers[name] for name in model.numbers]])
    total = float(np.exp(np.log(points.sizes["parameters"]).mean()))
    shares = []
    for flops in (False, True):
        budget = total * (ACTOR_FLOPS + CRITIC_FLOPS) / 2 if flops else total
        low, high = np.quantile(best_critic_share(samples, found.centre, budget, flops=flops), [0.025, 0.975])
        share = float(best_critic_share(best, found.centre, budget, flops=flops)[0])
        shares.append((share, float(low), float(high)))
    return Law(
        law.group, points, found, law.choices, law.rest, law.others,
        critic_against_actor(points, found, generator), tuple(shares),
    )  # fmt: skip


def sentences(law: Law) -> tuple[list[str], list[str]]:
    """What the law shows, and what it does not."""
    where, fitted = law.group, law.fit
    if fitted.refusal:
        return [], [f"{where}: a scaling exponent is not identified: {fitted.refusal}."]
    yes: list[str] = []
    no: list[str] = []
    for exponent in fitted.exponents:
        if exponent.identified:
            interval = f"{fitted.confidence:.0%} interval"
            if exponent.name == "tasks":
                yes.append(
                    f"{where}: with sizes held, failure grows with the number of tasks as "
                    f"T^{-exponent.estimate:.2f}; {interval} {-exponent.high:.2f} to {-exponent.low:.2f}."
                )
            elif exponent.name in OF:
                yes.append(
                    f"{where}: failure falls with {OF[exponent.name]} as N^-{exponent.estimate:.2f} towards a "
                    f"floor of {fitted.floor:.0%}; {interval} {exponent.low:.2f} to {exponent.high:.2f}."
                )
            elif exponent.low > 0 or exponent.high < 0:
                word = "larger" if exponent.low > 0 else "smaller"
                yes.append(
                    f"{where}: size helps with a {word} exponent where there are more tasks; {interval} of the "
                    f"interaction {exponent.low:.2f} to {exponent.high:.2f}."
                )
            else:
                no.append(f"{where}: whether the exponent of size depends on the number of tasks.")
        else:
            what = {
                "parameters": "a scaling exponent",
                "interaction": "the interaction of size and tasks",
            }.get(exponent.name, f"the exponent of {exponent.name}")
            no.append(f"{where}: {what} is not identified: {exponent.refusal}.")
    for words, says in _split_sentences(law):
        (yes if says else no).append(words)
    best = law.choices[0] if law.choices else None
    if (
        best
        and not best.refusal
        and best.model != fitted.model
        and fitted.identified
        and np.isfinite(best.left_out)
    ):
        own = next(choice for choice in law.choices if choice.model == fitted.model)
        no.append(
            f"{where}: that {fitted.model} is the right law: fitted without the largest size, {best.model} predicts it "
            f"better (error {best.left_out:.2f} against {own.left_out:.2f} logits)."
        )
    return yes, no


def _split_sentences(law: Law) -> list[tuple[str, bool]]:
    """(sentence, whether it is shown) about actor against critic."""
    if law.critic_larger is None:
        return []
    sure = max(law.critic_larger, 1 - law.critic_larger)
    order = ("critic", "actor") if law.critic_larger >= 0.5 else ("actor", "critic")
    where = law.group
    if sure < CLAIM:
        return [(f"{where}: whether actor or critic has the larger exponent (confidence {sure:.2f}).", False)]
    text = f"{where}: the {order[0]}'s exponent is larger than the {order[1]}'s, with confidence {sure:.3f}."
    said = [(text, True)]
    for basis, (share, low, high) in zip(("parameters", "FLOPs"), law.shares, strict=True):
        if high - low < 0.5:
            said.append(
                (
                    f"{where}: at equal {basis}, success is best with {share:.0%} of them in the critics; "
                    f"95% interval {low:.0%} to {high:.0%}.",
                    True,
                )
            )
    return said


def items(laws: Sequence[Law]) -> list[Text | Table | Drawing]:
    """Exponents in a table and a forest, the best split, and how sure the fits are."""
    rows = []
    drawn = []
    for law in laws:
        for exponent in law.fit.exponents:
            rows.append(
                [
                    law.group,
                    law.fit.model,
                    exponent.name,
                    str(law.fit.points),
                    str(law.fit.counts.get(exponent.name, "–")),
                    f"{exponent.estimate:.2f}" if exponent.identified else "–",
                    span(exponent.low, exponent.high),
                    "identified" if exponent.identified else f"not identified: {exponent.refusal}",
                ]
            )
            if exponent.identified:
                label = f"{law.group}: {exponent.name}  (n = {law.fit.points})"
                drawn.append(Row(label, exponent.estimate, exponent.low, exponent.high))
    header = ["group", "law", "exponent of", "runs", "sizes", "estimate", "95% interval", "verdict"]
    caption = "Exponents, with profile-likelihood intervals."
    found: list[Text | Table | Drawing] = [
        Text(
            "Laws of the failure rate y = 1 - success: power is y = E + A N^-a with N actor and critics together; "
            "actor_critic is y = E + A N_actor^-a + B N_critic^-b; tasks adds C T^g for T tasks."
        ),
        Table(caption, header, rows, texts=(0, 1, 2, 7)),
    ]
    if drawn:
        caption = (
            "Identified exponents with 95% profile-likelihood intervals; at 0 (dashed) size would not matter."
        )
        found.append(
            Drawing("exponents", "Exponents", caption, figures.forest(drawn, label="exponent", line=0))
        )
    shared = [
        [law.group, basis, f"{share:.2f}", span(low, high)]
        for law in laws
        for basis, (share, low, high) in zip(("equal parameters", "equal FLOPs"), law.shares, strict=False)
    ]
    if shared:
        caption = "The critics' share of the budget at which the fitted law fails least, at the mean size of the sweep."
        header = ["group", "budget", "best critic share", "95% interval"]
        found.append(Table(caption, header, shared, texts=(0, 1)))
    return found


def diagnostics(laws: Sequence[Law]) -> list[Table | Drawing]:
    """How well the laws fit and predict: rivals, other likelihoods, residuals, extrapolation, profiles."""
    fitted = [law for law in laws if not law.fit.refusal]
    if not fitted:
        return []
    single = {law.group: law for law in fitted if not law.group.startswith(EVERYTHING)}
    residuals = {
        name: (law.points.sizes["parameters"], law.fit.residuals(law.points)) for name, law in single.items()
    }
    found: list[Table | Drawing] = [
        choice_table({law.group: law.choices for law in fitted}), _likelihood_table(fitted),
    ]  # fmt: skip
    if residuals:
        caption = "Fitted minus seen failure, a dot per run; a law that bends away from its points shows as a curve."
        found.append(Drawing("residuals", "Residuals", caption, figures.residuals(residuals)))
    return found + _extrapolation(single) + _profiles(fitted)


def _extrapolation(laws: Mapping[str, Law]) -> list[Drawing]:
    drawn = {}
    for name, law in laws.items():
        if law.rest is not None:
            predicted = 1 - law.rest.failure(**law.points.sizes)
            drawn[name] = figures.Predicted(law.points.success, predicted, largest(law.points))
    if not drawn:
        return []
    caption = (
        "Each dot is a run. The law is fitted without the runs of the largest size (hollow) and predicts them; on the "
        "dashed line a prediction is right."
    )
    return [Drawing("extrapolation", "Extrapolation", caption, figures.extrapolation(drawn))]


def _profiles(laws: Sequence[Law]) -> list[Drawing]:
    drawn = {}
    for law in laws:
        freedom = law.fit.points - len(law.fit.numbers)
        for exponent in law.fit.exponents:
            if exponent.profile is not None:
                grid, worse = exponent.profile
                allowed = float(special.fdtri(1, freedom, law.fit.confidence))
                drawn[f"{law.group}: {exponent.name}"] = (grid, worse / allowed)
    if not drawn:
        return []
    caption = (
        "How much worse the law fits with an exponent held at a value, all else fitted anew, over what its 95% "
        "interval allows. The interval is where a line is below 1 (dashed); a flat line means not identified."
    )
    return [
        Drawing("exponent_profiles", "Profiles of the exponents", caption, figures.profiles_of_fit(drawn))
    ]


def choice_table(choices: Mapping[str, Sequence[Choice]]) -> Table:
    """Laws by how well they predict the left-out largest size."""
    rows = []
    for name, members in choices.items():
        for choice in members:
            values = (choice.left_out, choice.aicc, choice.bic)
            numbers = [f"{value:.2f}" if np.isfinite(value) else "–" for value in values]
            rows.append([name, choice.model, str(choice.numbers), *numbers, choice.refusal])
    caption = (
        "Laws by their error at the left-out largest size (logit RMSE), best first; AICc and BIC are of all points and "
        "need more of them than numbers."
    )
    header = ["group", "law", "numbers", "left-out error", "AICc", "BIC", "refused"]
    return Table(caption, header, rows, texts=(0, 1, 6))


def _likelihood_table(laws: Sequence[Law]) -> Table:
    rows = []
    for law in laws:
        for found in sorted(
            (law.fit, *law.others), key=lambda f: list(OTHER_LIKELIHOODS).index(f.likelihood)
        ):
            for exponent in found.exponents:
                values = [_shown(exponent.estimate, 2), span(exponent.low, exponent.high)]
                values += [_shown(found.rmse, 2), _shown(found.condition, 0)]
                rows.append([law.group, exponent.name, OTHER_LIKELIHOODS[found.likelihood], *values])
    caption = (
        "The same law by three likelihoods: where they disagree, outliers or the counts decide. RMSE is that of the "
        "residuals, in logits; the condition is the scaled Gauss-Newton matrix's: above 1,000 the numbers of a law "
        "trade against one another."
    )
    header = ["group", "exponent of", "likelihood", "estimate", "95% interval", "RMSE", "condition"]
    return Table(caption, header, rows, texts=(0, 1, 2))


def span(low: float, high: float, digits: int = 2) -> str:
    """`0.12 – 0.34`; a dash where there is no interval, `> 0.12` or `< 0.34` where it has one end."""
    if np.isnan(low):
        return "–"
    if np.isfinite(low) and np.isfinite(high):
        return f"{low:.{digits}f} – {high:.{digits}f}"
    return (
        f"> {low:.{digits}f}" if np.isfinite(low) else f"< {high:.{digits}f}" if np.isfinite(high) else "any"
    )


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
