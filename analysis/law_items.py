"""Tables and figures about the laws of a sweep, and about how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from analysis import figures
from analysis.exact_tests import p_number
from analysis.figures import Row
from analysis.law_study import EVERYTHING, OTHER_LIKELIHOODS, Law, span
from analysis.models import Likelihood
from analysis.report import Drawing, Table, Text
from analysis.scaling_laws import Choice, failure_band, largest
from analysis.x_axis import SIZE, XAxis

LIKELIHOOD_WORDS: dict[Likelihood, str] = {
    "logit": "least squares on logits",
    "huber": "Huber on logits",
    "beta_binomial": "beta-binomial on counts",
}
ASIDE = "with a free floor"
ILL_CONDITIONED = 1e6

Items = list[Text | Table | Drawing]


def items(laws: Sequence[Law], x: XAxis = SIZE) -> Items:
    """The failure with both laws, the exponents as a table and a forest plot, and the best split of a budget."""
    found: Items = [Text(LAWS), *_failure_drawing(laws, x), _exponent_table(laws), *_forest(laws)]
    shared = [
        [law.group, by, f"equal {basis}", f"{share:.2f}", span(low, high)]
        for law in laws
        for by, basis, (share, low, high) in law.shares
    ]
    if shared:
        caption = (
            "The critics' share of the budget at which a law fails least, at the mean size of the sweep."
        )
        header = ["group", "by", "at", "best critic share", "95% interval"]
        found.append(Table(caption, header, shared, texts=(0, 1, 2)))
    return found


def _failure_drawing(laws: Sequence[Law], x: XAxis) -> list[Drawing]:
    drawn = [law for law in laws if law.line.form == "slope" and not law.line.refusal]
    if not drawn:
        return []
    first, more = figures.first_panels(drawn)
    panels = {law.group: _failure_panel(law, x) for law in first}
    caption = (
        "Failure on logarithmic axes, a dot per run. Blue: the power law over the measured sizes (straight), in its "
        "95% band; orange, dashed: the law with a free floor, in its band, where its exponent is identified. Where the "
        f"two part, these runs do not say which holds.{more}"
    )
    return [
        Drawing("failure", f"Failure against {x.size_word}", caption, figures.failure(panels, x.size_label))
    ]


def _failure_panel(law: Law, x: XAxis) -> figures.Failure:
    sizes = law.points.sizes["parameters"]
    grid = np.geomspace(sizes.min(), sizes.max(), 40)
    at = x.size(law.group, grid)
    line = floor = None
    if not law.line.refusal:
        line = figures.Band(at, law.line.failure(parameters=grid), *law.line.band(parameters=grid))
    if law.fit.identified and law.fit.model == "power":
        floor = figures.Band(
            at, law.fit.failure(parameters=grid), *failure_band(law.fit, law.points, parameters=grid)
        )
    return figures.Failure(x.size(law.group, sizes), 1 - law.points.success, line, floor)


def _exponent_table(laws: Sequence[Law]) -> Table:
    rows = []
    for law in laws:
        for name, found in law.line.exponents.items():
            doubt = law.line.refused(name)
            rows.append(
                _exponent_row(
                    law, "measured sizes", name, found.value, found.low, found.high, doubt, digits=3
                )
            )
        if law.line.refusal:
            nothing = (np.nan, np.nan, np.nan)
            rows.append(_exponent_row(law, "measured sizes", "–", *nothing, law.line.refusal))
        for exponent in law.fit.exponents:
            numbers = (exponent.estimate, exponent.low, exponent.high)
            rows.append(_exponent_row(law, ASIDE, exponent.name, *numbers, exponent.refusal))
        if law.without_lost is not None:
            for name, found in law.without_lost.exponents.items():
                doubt = law.without_lost.refused(name)
                of = f"measured sizes, {law.lost} lost runs put aside"
                rows.append(_exponent_row(law, of, name, found.value, found.low, found.high, doubt, digits=3))
    caption = (
        "Exponents: over the measured sizes, by least squares on log failure (sandwich errors where sizes have several "
        "runs), and with a free floor, by profile likelihood. p of a trend: rank correlation of success with size."
    )
    header = ["group", "law", "exponent of", "runs", "estimate", "95% interval", "p of a trend", "verdict"]
    return Table(caption, header, rows, texts=(0, 1, 2, 7))


def _exponent_row(
    law: Law, of: str, name: str, estimate: float, low: float, high: float, doubt: str, digits: int = 2
) -> list[str]:
    return [
        law.group, of, name, str(len(law.points)), f"{estimate:.{digits}f}" if np.isfinite(estimate) else "–",
        span(low, high, digits), p_number(law.trend) if of != ASIDE and np.isfinite(law.trend) else "–",
        f"not identified: {doubt}" if doubt else "identified",
    ]  # fmt: skip


def _forest(laws: Sequence[Law]) -> list[Drawing]:
    rows = []
    for law in laws:
        rows += [
            Row(f"{law.group}: {name}  (n = {law.line.points})", found.value, found.low, found.high)
            for name, found in law.line.exponents.items()
            if not law.line.refused(name)
        ]
        rows += [
            Row(f"{law.group}: {e.name}, {ASIDE}", e.estimate, e.low, e.high, colour=figures.OKABE_ITO[1])
            for e in law.fit.exponents
            if e.identified
        ]
    if not rows:
        return []
    caption = "Identified exponents with 95% intervals; at 0 (dashed) size would not matter."
    return [Drawing("exponents", "Exponents", caption, figures.forest(rows, label="exponent", line=0))]


def diagnostics(laws: Sequence[Law], x: XAxis = SIZE) -> list[Table | Drawing]:
    """Tables and figures on how well the laws fit and predict.

    Other laws, other likelihoods, residuals, extrapolation, profiles of the exponents.
    """
    fitted = [law for law in laws if not law.fit.refusal]
    if not fitted:
        return []
    single = {law.group: law for law in fitted if not law.group.startswith(EVERYTHING)}
    residuals = {
        name: (x.size(name, law.points.sizes["parameters"]), law.fit.residuals(law.points))
        for name, law in single.items()
    }
    found: list[Table | Drawing] = [
        choice_table({law.group: law.choices for law in fitted}), _likelihood_table(fitted),
    ]  # fmt: skip
    if residuals:
        caption = "Fitted minus seen failure, a dot per run; a law that bends away from its points shows as a curve."
        found.append(Drawing("residuals", "Residuals", caption, figures.residuals(residuals, x.size_label)))
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
        "Each dot is a run. The law with a floor is fitted without the runs of the largest size (hollow) and predicts "
        "them; on the dashed line a prediction is right."
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
        "How much worse the law with a floor fits with an exponent held at a value, all else fitted anew, over what "
        "its 95% interval allows. The interval is where a line is below 1 (dashed); a flat line means not identified."
    )
    return [
        Drawing("exponent_profiles", "Profiles of the exponents", caption, figures.profiles_of_fit(drawn))
    ]


def choice_table(choices: Mapping[str, Sequence[Choice]]) -> Table:
    """A table of laws, sorted by how well they predict the largest size when they are fitted without it."""
    rows = []
    for name, members in choices.items():
        for choice in members:
            values = (choice.left_out, choice.aicc, choice.bic)
            numbers = [f"{value:.2f}" if np.isfinite(value) else "–" for value in values]
            rows.append([name, choice.model, str(choice.numbers), *numbers, choice.refusal])
    caption = (
        "Laws by their error at the left-out largest size (logit RMSE), best first; AICc and BIC are of all points and "
        "need more of them than numbers. Small gaps are noise: the page prefers a law only where it misses the "
        "left-out runs by less beyond chance, and its BIC is lower too."
    )
    header = ["group", "law", "numbers", "left-out error", "AICc", "BIC", "refused"]
    return Table(caption, header, rows, texts=(0, 1, 6))


def _likelihood_table(laws: Sequence[Law]) -> Table:
    rows = []
    for law in laws:
        for found in sorted((law.fit, *law.others), key=lambda f: OTHER_LIKELIHOODS.index(f.likelihood)):
            for exponent in found.exponents:
                values = [_shown(exponent.estimate, 2), span(exponent.low, exponent.high)]
                values += [_shown(found.rmse, 2), _condition(found.condition)]
                rows.append([law.group, exponent.name, LIKELIHOOD_WORDS[found.likelihood], *values])
    caption = (
        "The law with a floor by three likelihoods: where they disagree, outliers or the counts decide. RMSE is that "
        "of the residuals, in logits; the condition is the scaled Gauss-Newton matrix's: above 1,000 the numbers of a "
        "law trade against one another."
    )
    header = ["group", "exponent of", "likelihood", "estimate", "95% interval", "RMSE", "condition"]
    return Table(caption, header, rows, texts=(0, 1, 2))


def _condition(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return "above 1M" if value > ILL_CONDITIONED else f"{value:.0f}"


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


LAWS = (
    "Laws of the failure rate y = 1 - score. Over the measured sizes: y = A N^-a (N actor and critics together), "
    "y = A N_actor^-a N_critic^-b where their widths vary apart, y = A N^-a T^g over T tasks. With a free floor E: "
    "y = E + A N^-a, y = E + A N_actor^-a + B N_critic^-b, y = E + A N^-a T^g. The first says what was seen; the "
    "second what would be left at any size, and it needs much more to say it."
)
