"""Laws without a floor, straight in logarithms. They describe the measured sizes only.

    slope         log y = c - a log N
    tasks         log y = c - a log N + g log T                     tasks multiply: y = A N^-a T^g
    interaction   log y = c - (a + h log T) log N + g log T         the exponent of size depends on the tasks
    elasticities  log y = c - a log N_actor - b log N_critic        the effect of one size, the other fixed

y is the failure rate of a run; the fit is by least squares. If several runs share a size, their spread may differ from
size to size, and intervals are those of sandwich.py; with one point per size they are Student's.
scaling_laws.py has the laws with a floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.models import Array
from analysis.sandwich import Estimate, Sandwich, sandwich, student
from analysis.scaling_laws import Points

SIZES_NEEDED = 4
TASKS_NEEDED = 3
ROUNDING = 1e-9  # a smaller exponent counts as 0: all runs have the same score
WIDEST = 1.0  # an exponent with a wider interval says nothing

Columns = Callable[[dict[str, Array]], Array]  # log sizes, centred -> design without the intercept [n, k]
COLUMNS: dict[str, tuple[tuple[str, ...], Columns]] = {
    "slope": (("parameters",), lambda x: np.stack([-x["parameters"]], axis=-1)),
    "tasks": (
        ("parameters", "growth with tasks"),
        lambda x: np.stack([-x["parameters"], x["tasks"]], axis=-1),
    ),
    "interaction": (
        ("parameters", "growth with tasks", "interaction"),
        lambda x: np.stack([-x["parameters"], x["tasks"], -x["parameters"] * x["tasks"]], axis=-1),
    ),
    "elasticities": (("actor", "critic"), lambda x: np.stack([-x["actor"], -x["critic"]], axis=-1)),
}
REGRESSORS = {
    "slope": ("parameters",),
    "tasks": ("parameters", "tasks"),
    "interaction": ("parameters", "tasks"),
    "elasticities": ("actor", "critic"),
}


@dataclass(frozen=True)
class Slopes:
    """A fitted line: its exponents by name, or why there is none."""

    form: str
    points: int
    sizes: int  # distinct, of the first regressor
    exponents: dict[str, Estimate]
    centre: dict[str, float]  # mean log of each regressor
    numbers: Array  # intercept first
    fit: Sandwich | None  # None if the line is refused
    spread: float  # standard deviation of log failure about the line
    refusal: str = ""

    def refused(self, name: str) -> str:
        """Why the exponent `name` says nothing; empty if it does."""
        return self.refusal or doubt(self.exponents[name])

    def failure(self, **sizes: Any) -> Array:
        """The fitted failure rates [n] at sizes [n], given by the names of the regressors."""
        return np.asarray(np.exp(self._design(sizes) @ self.numbers))

    def band(self, **sizes: Any) -> tuple[Array, Array]:
        """The pointwise 95% interval of the fitted failure rates at sizes [n]: lower and upper ends, [n] each."""
        design = self._design(sizes)
        assert self.fit is not None
        found = [self.fit.estimate(row) for row in design]
        return np.exp(np.array([e.low for e in found])), np.exp(np.array([e.high for e in found]))

    def _design(self, sizes: dict[str, Any]) -> Array:
        logs = {name: np.log(np.asarray(sizes[name], float)) - at for name, at in self.centre.items()}
        columns = COLUMNS[self.form][1](logs)
        return np.column_stack([np.ones(len(columns)), columns])

    def summary(self) -> dict[str, object]:
        """The line as JSON."""
        exponents = {
            name: found.summary() | {"refusal": self.refused(name)} for name, found in self.exponents.items()
        }
        return {"form": self.form, "points": self.points, "refusal": self.refusal, "exponents": exponents}


def slopes(form: str, points: Points) -> Slopes:
    """The line of that form (a key of COLUMNS), fitted to the points' log failure rates."""
    names, columns = COLUMNS[form]
    centre = {name: float(np.log(points.sizes[name]).mean()) for name in REGRESSORS[form]}
    sizes = len(np.unique(points.sizes[REGRESSORS[form][0]]))
    logs = {name: np.log(np.asarray(points.sizes[name], float)) - at for name, at in centre.items()}
    x = columns(logs)
    design = np.column_stack([np.ones(len(points)), x])
    refusal = _too_little(form, points, design)
    if refusal:
        return Slopes(form, len(points), sizes, {}, centre, np.empty(0), None, np.nan, refusal)
    y = log_failure(points)
    numbers = np.asarray(np.linalg.lstsq(design, y, rcond=None)[0], float)
    residual = y - design @ numbers
    spread = float(np.sqrt(residual @ residual / (len(y) - design.shape[1])))
    if _repeated(points):
        fit = sandwich(numbers, design, residual, np.arange(len(y)))
    else:
        fit = student(numbers, design, residual)
    exponents = {name: fit.estimate(np.eye(len(numbers))[place]) for place, name in enumerate(names, start=1)}
    return Slopes(form, len(points), sizes, exponents, centre, numbers, fit, spread)


def log_failure(points: Points) -> Array:
    """The log failure rates [n], of (failures + 0.5) / (episodes + 1), which is finite for a run without failures."""
    seen = points.seen("logit")
    return np.asarray(np.log((seen.failed + 0.5) / (seen.trials + 1)))


def critic_minus_actor(line: Slopes) -> Estimate:
    """The critic's elasticity minus the actor's."""
    assert line.fit is not None
    return line.fit.estimate(np.array([0.0, -1, 1]))


def best_share(
    line: Slopes, generator: np.random.Generator, *, draws: int = 4_000
) -> tuple[float, float, float]:
    """The critics' share of a budget at which the line fails least, with its 95% interval.

    With y = A N_actor^-a N_critic^-b it is b / (a + b), for parameters and for FLOPs. The interval is from draws of a
    and b about their estimates. An elasticity below 0 counts as 0; if both are, every share is equally good.
    """
    assert line.fit is not None
    pair = np.array([line.exponents["actor"].value, line.exponents["critic"].value])
    freedom = min(e.freedom for e in line.exponents.values())
    noise = generator.multivariate_normal(np.zeros(2), line.fit.covariance[1:, 1:], draws)
    scale = np.sqrt(freedom / generator.chisquare(freedom, draws))[:, None]
    drawn = np.concatenate([pair[None], pair + noise * scale]).clip(0)
    total = drawn.sum(-1)
    share = np.where(total > 0, drawn[:, 1] / np.where(total > 0, total, 1), generator.random(draws + 1))
    low, high = np.quantile(share[1:], [0.025, 0.975])
    return float(share[0]), float(low), float(high)


def _repeated(points: Points) -> bool:
    """Whether most points share their size with another, so that the spread of each size can be estimated."""
    if points.strata is None:
        return False
    counts = np.bincount(points.strata)
    return bool((counts[points.strata] > 1).mean() > 0.5)


def _too_little(form: str, points: Points, design: Array) -> str:
    sizes = points.sizes
    if form != "elasticities":
        count = len(np.unique(sizes["parameters"]))
        if count < SIZES_NEEDED:
            return f"{count} size{'' if count == 1 else 's'}, {SIZES_NEEDED} needed"
    if "tasks" in REGRESSORS[form]:
        count = len(np.unique(sizes["tasks"]))
        if count < TASKS_NEEDED:
            return f"{count} task count{'' if count == 1 else 's'}, {TASKS_NEEDED} needed"
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return "its sizes grow together" if form == "elasticities" else "sizes and tasks vary together"
    needed = design.shape[1] + 1
    return f"{len(points)} points, {needed} needed" if len(points) < needed else points.lone()


def doubt(found: Estimate) -> str:
    """Why an exponent with this interval says nothing, or an empty text."""
    if found.high - found.low > WIDEST:
        return f"its 95% interval, {found.low:.2f} to {found.high:.2f}, is wider than {WIDEST:g}"
    return "" if found.clear and abs(found.value) > ROUNDING else "a constant fits as well"
