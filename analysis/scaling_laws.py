"""Scaling laws of the failure rate: fits with intervals, refusals, and the choice between laws. models.py has the laws.

A point is a run (or a variant, where runs are not known). Intervals are profile likelihoods with the F quantile, so
that few points give wide ones. A law is only as good as its data: fewer than 4 sizes, an interval wider than 1, or a
constant that fits as well, and the answer is "not identified", with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.models import (
    LOWEST,
    MODELS,
    STEEPEST,
    TIED,
    Array,
    Likelihood,
    Model,
    Seen,
    best_of,
    minimise,
    starts,
)
from analysis.sandwich import sandwich
from mtrl.sizing import ACTOR_FLOPS, CRITIC_FLOPS

CLAIM = 0.975  # confidence from which one exponent is said to be larger than another
STARTS = 16  # of a fit: 500 of 500 fits of the Chinchilla form found with as many the best of 4,500
WIDEST = 1.0  # of an exponent's interval; beyond, it says nothing
FIRST_STEPS = 12  # of a profile's three starts, before the best goes on
GRID = np.concatenate([[0.0], np.geomspace(0.01, STEEPEST, 50)])  # the exponents that a profile looks at


@dataclass(frozen=True)
class Points:
    """n points to fit: sizes by name (parameters, actor, critic, tasks), each [n]; success and trials [n].

    trials are the episodes behind each success. A stratum holds the runs of one variant: a bootstrap draws within.
    """

    sizes: dict[str, NDArray[Any]]
    success: NDArray[Any]
    trials: NDArray[Any]
    strata: NDArray[Any] | None = None
    single_runs: bool = (
        False  # one seed of each size then says nothing; a published point may stand for several seeds
    )

    def __len__(self) -> int:
        return len(self.success)

    def seen(self, likelihood: Likelihood) -> Seen:
        trials = np.asarray(self.trials, float)
        return Seen((1 - np.asarray(self.success, float)) * trials, trials, likelihood)

    def lone(self) -> str:
        """A refusal where no variant has a second seed, or an empty text."""
        if not self.single_runs or self.strata is None or np.bincount(self.strata).max() > 1:
            return ""
        return "1 seed of each size, 2 needed"

    def where(self, keep: NDArray[Any]) -> Points:
        sizes = {name: size[keep] for name, size in self.sizes.items()}
        strata = None if self.strata is None else self.strata[keep]
        return Points(sizes, self.success[keep], self.trials[keep], strata, self.single_runs)


@dataclass(frozen=True)
class Exponent:
    """An exponent with its profile interval, or the reason why the data do not say."""

    name: str
    estimate: float
    low: float
    high: float
    refusal: str = ""
    profile: tuple[Array, Array] | None = field(
        default=None, compare=False
    )  # exponents looked at, and by how much each fits worse

    @property
    def identified(self) -> bool:
        return not self.refusal


@dataclass(frozen=True)
class Fit:
    """A fitted law: `numbers` by name, on the centred log sizes."""

    model: str
    likelihood: Likelihood
    points: int
    counts: dict[str, int]  # distinct sizes of each regressor
    confidence: float
    exponents: tuple[Exponent, ...]
    numbers: dict[str, float]
    centre: tuple[float, ...]  # log of the geometric mean of each regressor's sizes
    loss: float
    rmse: float  # of the logits
    condition: float  # of the Gauss-Newton matrix, scaled to a unit diagonal
    refusal: str = ""

    @property
    def identified(self) -> bool:
        return not self.refusal and all(exponent.identified for exponent in self.exponents)

    @property
    def reason(self) -> str:
        return self.refusal or next((e.refusal for e in self.exponents if e.refusal), "")

    @property
    def floor(self) -> float:
        if "log_floor" in self.numbers:
            return float(np.exp(self.numbers["log_floor"]))
        ceiling = self.numbers.get("logit_ceiling")
        return float("nan") if ceiling is None else float(1 - special.expit(ceiling))

    def failure(self, **sizes: NDArray[Any]) -> Array:
        """The fitted failure rate at sizes [n], by the names of the law's regressors."""
        model = MODELS[self.model]
        theta = np.array([[self.numbers[name] for name in model.numbers]])
        return np.asarray(model.law(theta, centred(model, sizes, self.centre))[0][0])

    def residuals(self, points: Points) -> Array:
        """Fitted minus seen failure at the points, in logits. [n]"""
        model = MODELS[self.model]
        theta = np.array(list(self.numbers.values()))
        return residuals(
            model, centred(model, points.sizes, self.centre), points.seen(self.likelihood), theta
        )

    def summary(self) -> dict[str, Any]:
        """Everything to keep of the fit, for JSON."""
        exponents = [
            {"of": e.name, "estimate": _number(e.estimate), "low": _number(e.low), "high": _number(e.high),
             "refusal": e.refusal}
            for e in self.exponents
        ]  # fmt: skip
        return {
            "model": self.model,
            "likelihood": self.likelihood,
            "identified": self.identified,
            "reason": self.reason,
            "points": self.points,
            "sizes": self.counts,
            "confidence": self.confidence,
            "floor": _number(self.floor),
            "exponents": exponents,
            "logit_rmse": _number(self.rmse),
            "condition": _number(self.condition),
            "numbers": self.numbers,
            "centre": list(self.centre),
        }


def fit(
    model: Model,
    points: Points,
    generator: np.random.Generator,
    *,
    likelihood: Likelihood = "logit",
    confidence: float = 0.95,
    tries: int = STARTS,
    intervals: bool = True,
) -> Fit:
    """The law fitted to the points, with a profile interval for each exponent; no exponents without `intervals`."""
    counts = {name: len(np.unique(points.sizes[name])) for name in model.regressors}
    seen = points.seen(likelihood)
    numbers = len(model.numbers) + seen.extra
    refusal = _too_little(model, counts, len(points), numbers) or points.lone()
    if refusal:
        nothing = tuple(Exponent(name, np.nan, np.nan, np.nan, refusal) for name in model.exponents.values())
        empty = (np.nan, np.nan, np.nan)
        return Fit(model.name, likelihood, len(points), counts, confidence, nothing, {}, (), *empty, refusal)
    centre = tuple(float(np.log(points.sizes[name]).mean()) for name in model.regressors)
    x = centred(model, points.sizes, centre)
    theta, loss = best_of(model, x, seen, starts(model, x, seen, generator, tries))
    freedom = len(points) - numbers
    exponents = tuple(
        _profile(model, name, x, seen, theta, loss, freedom, confidence)
        for name in model.exponents
        if intervals
    )
    residual = residuals(model, x, seen, theta)
    return Fit(
        model=model.name,
        likelihood=likelihood,
        points=len(points),
        counts=counts,
        confidence=confidence,
        exponents=exponents,
        numbers=dict(zip((*model.numbers, *["log_precision"] * seen.extra), map(float, theta), strict=True)),
        centre=centre,
        loss=loss,
        rmse=float(np.sqrt(np.sum(residual**2) / freedom)),
        condition=_condition(model, x, theta),
    )


def failure_band(found: Fit, points: Points, **sizes: NDArray[Any]) -> tuple[Array, Array]:
    """Pointwise 95% interval of the fitted failure rate at sizes [n], from the fit's slopes; one run is one cluster."""
    model, seen = MODELS[found.model], points.seen("logit")
    theta = np.array([[found.numbers[name] for name in model.numbers]])
    x = centred(model, points.sizes, found.centre)
    rate, slope = (part[0] for part in model.law(theta, x))
    jacobian = (slope / (rate * (1 - rate)).clip(1e-9)).T
    spread = sandwich(theta[0], jacobian, -residuals(model, x, seen, theta[0]), np.arange(len(points)))
    at, grow = (part[0] for part in model.law(theta, centred(model, sizes, found.centre)))
    logits = [
        spread.estimate(row, value=float(special.logit(y)))
        for row, y in zip((grow / (at * (1 - at)).clip(1e-9)).T, at.clip(1e-9, 1 - 1e-9), strict=True)
    ]
    return special.expit(np.array([e.low for e in logits])), special.expit(np.array([e.high for e in logits]))


def centred(model: Model, sizes: dict[str, NDArray[Any]], centre: Sequence[float]) -> Array:
    """Log sizes [n, regressors] about `centre`."""
    if not model.regressors:
        return np.empty((len(next(iter(sizes.values()))), 0))
    logs = [
        np.log(np.asarray(sizes[name], float)) - c for name, c in zip(model.regressors, centre, strict=True)
    ]
    return np.stack(logs, axis=-1)


def residuals(model: Model, x: Array, seen: Seen, theta: Array) -> Array:
    """Fitted minus seen, in logits. [n]"""
    failure = model.law(theta[None, : len(model.numbers)], x)[0][0]
    rate = (seen.failed + 0.5) / (seen.trials + 1)
    return np.asarray(special.logit(failure.clip(1e-9, 1 - 1e-9)) - special.logit(rate))


def bootstrap(
    model: Model,
    points: Points,
    found: Fit,
    generator: np.random.Generator,
    *,
    resamples: int = 2_000,
    chunk: int = 50,  # samples at once: more no longer fit the cache
) -> Array:
    """The law's numbers [resamples, p] fitted anew to points drawn with replacement within their strata.

    A sample is a count per point, and all samples of a chunk are one batch that starts from the fit.
    """
    seen = points.seen(found.likelihood)
    x = centred(model, points.sizes, found.centre)
    theta = np.array([list(found.numbers.values())])
    samples = []
    for begin in range(0, resamples, chunk):
        number = min(chunk, resamples - begin)
        weights = draw_counts(points, generator, number)
        samples.append(
            minimise(model, x, seen, np.repeat(theta, number, 0), weights=weights, tolerance=1e-7)[0]
        )
    return np.asarray(np.concatenate(samples)[:, : len(model.numbers)])


def draw_counts(points: Points, generator: np.random.Generator, resamples: int) -> Array:
    """How often each point is drawn, as often in total as its stratum has points. [resamples, n]"""
    strata = np.zeros(len(points), int) if points.strata is None else points.strata
    counts = np.zeros((resamples, len(points)))
    for stratum in np.unique(strata):
        (members,) = np.nonzero(strata == stratum)
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = generator.multinomial(len(members), share, resamples)
    return counts


@dataclass(frozen=True)
class Choice:
    """How a law does on the same points as others."""

    model: str
    numbers: int
    left_out: float  # logit RMSE at the largest size, fitted without it
    aicc: float
    bic: float
    refusal: str = ""
    missed: Array | None = field(default=None, compare=False)  # logits, of each point of the largest size

    def beats(self, other: Choice) -> bool:
        """Whether this law does better than the other beyond noise: at the left-out size and over all points."""
        if self.missed is None or other.missed is None or len(self.missed) < 3 or other.bic - self.bic < 2:
            return False
        gain = other.missed**2 - self.missed**2
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        return bool(gain.mean() > error * special.stdtrit(len(gain) - 1, CLAIM))


def compare(
    models: Sequence[Model],
    points: Points,
    generator: np.random.Generator,
    *,
    likelihood: Likelihood = "logit",
) -> list[Choice]:
    """The laws by their error at the left-out largest size, then AICc; those that cannot be fitted come last."""
    choices = [_choice(model, points, generator, likelihood) for model in models]
    return sorted(choices, key=lambda c: (bool(c.refusal), np.nan_to_num(c.left_out, nan=np.inf), c.aicc))


def critic_against_actor(points: Points, found: Fit, generator: np.random.Generator) -> float:
    """P(the critic's exponent is larger than the actor's), from the F test of one exponent for both.

    A confidence, not a posterior: .975 is where a two-sided test at .05 would call them different.
    """
    seen = points.seen(found.likelihood)
    x = centred(TIED, points.sizes, found.centre)
    _, loss = best_of(TIED, x, seen, starts(TIED, x, seen, generator, STARTS))
    freedom = len(points) - len(found.numbers)
    worse = max(0.0, loss - found.loss)
    squared = 2 * worse if seen.extra else freedom * worse / (found.loss + 1e-12)
    larger = found.numbers["exponent_critic"] > found.numbers["exponent_actor"]
    share = float(special.stdtr(freedom, np.sqrt(squared)))
    return share if larger else 1 - share


def best_critic_share(numbers: Array, centre: Sequence[float], total: float, *, flops: bool = False) -> Array:
    """The critics' share of `total` at which an actor_critic law fails least. numbers is [S, 5]; returns [S].

    `total` counts parameters, or, with flops, training operations per transition. The failure is convex in the share:
    where its derivative changes sign is found by bisection.
    """
    costs = (ACTOR_FLOPS, CRITIC_FLOPS) if flops else (1, 1)
    low, high = np.full(len(numbers), 1e-6), np.full(len(numbers), 1 - 1e-6)
    for _ in range(60):
        share = (low + high) / 2
        pulls = []
        for number, (part, cost) in enumerate(zip((1 - share, share), costs, strict=True)):
            log_size = np.log(part * total / cost) - centre[number]
            exponent = numbers[:, 2 + 2 * number]
            pulls.append(exponent * np.exp(numbers[:, 1 + 2 * number] - exponent * log_size) / part)
        more_critic = pulls[1] > pulls[0]
        low, high = np.where(more_critic, share, low), np.where(more_critic, high, share)
    return np.asarray((low + high) / 2)


def _too_little(model: Model, counts: dict[str, int], points: int, numbers: int) -> str:
    for name, count in counts.items():
        needed = 3 if name == "tasks" else model.sizes_needed
        if count < needed:
            word = "task count" if name == "tasks" else "size"
            return f"{count} {word}{'' if count == 1 else 's'}, {needed} needed"
    return f"{points} points, {numbers + 1} needed" if points <= numbers else ""


def _choice(model: Model, points: Points, generator: np.random.Generator, likelihood: Likelihood) -> Choice:
    seen = points.seen(likelihood)
    k = len(model.numbers) + 1  # the spread, or precision, counts too
    counts = {name: len(np.unique(points.sizes[name])) for name in model.regressors}
    refusal = _too_little(model, counts, len(points), k)
    if refusal:
        return Choice(model.name, len(model.numbers), np.nan, np.nan, np.nan, refusal)
    n = len(points)
    centre = [float(np.log(points.sizes[name]).mean()) for name in model.regressors]
    x = centred(model, points.sizes, centre)
    _, loss = best_of(model, x, seen, starts(model, x, seen, generator, STARTS))
    deviance = 2 * loss if seen.extra else n * np.log(2 * loss / n + 1e-12)
    aicc = deviance + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf)
    out = largest(points)
    rest = points.where(~out)
    seen = rest.seen(likelihood)
    theta, _ = best_of(model, x[~out], seen, starts(model, x[~out], seen, generator, STARTS))
    missed = residuals(model, x[out], points.where(out).seen(likelihood), theta)
    return Choice(model.name, len(model.numbers), float(np.sqrt(np.mean(missed**2))), float(aicc),
                  float(deviance + k * np.log(n)), missed=missed)  # fmt: skip


def largest(points: Points) -> NDArray[np.bool_]:
    """The points of the largest size, for each number of tasks."""
    sizes = points.sizes["parameters"] if "parameters" in points.sizes else points.sizes["critic"]
    tasks = points.sizes.get("tasks", np.ones(len(points)))
    largest = {count: sizes[tasks == count].max() for count in np.unique(tasks)}
    return np.asarray([size >= largest[count] for size, count in zip(sizes, tasks, strict=True)])


def _profile(
    model: Model, name: str, x: Array, seen: Seen, theta: Array, loss: float, freedom: int, confidence: float
) -> Exponent:
    """The exponent's interval: the values at which the best fit of the rest is not significantly worse."""
    place = model.numbers.index(name)
    low_end, high_end = model.low[place], model.high[place]
    grid = np.concatenate([-GRID[:0:-1], GRID]) if low_end < 0 else GRID
    grid = np.unique(np.append(grid[(grid >= low_end) & (grid <= high_end)], theta[place]))
    losses, worse = _held(model, place, grid, x, seen, theta, loss, freedom)
    allowed = float(special.fdtri(1, freedom, confidence))
    inside = np.flatnonzero(worse <= allowed * (1 + 1e-6))
    first, last = int(inside[0]), int(inside[-1])
    low = _crossing(grid, worse, allowed, first - 1, first) if first > 0 else -np.inf if low_end < 0 else 0.0
    high = _crossing(grid, worse, allowed, last + 1, last) if last + 1 < len(grid) else np.inf
    return Exponent(model.exponents[name] if name != "interaction" else name, float(grid[losses.argmin()]), low, high,
                    _doubt(low, high, confidence, name), (grid, worse))  # fmt: skip


def _held(
    model: Model, place: int, grid: Array, x: Array, seen: Seen, theta: Array, loss: float, freedom: int
) -> tuple[Array, Array]:
    """Losses with number `place` held at each value of the grid, all else fitted anew, and how much worse each is."""
    tries = np.tile(theta, (3, len(grid), 1))
    tries[..., place] = grid
    if place:
        tries[1, :, 0] -= 3  # other valleys: the floor far down,
    tries[2, :, 1 : max(place, 2) : 2] -= 2  # or less of what else falls
    flat = model.inside(tries.reshape(-1, len(theta))[:, : len(model.numbers)])
    flat = np.concatenate([flat, tries.reshape(-1, len(theta))[:, len(model.numbers) :]], axis=1)
    theta_early, early = minimise(model, x, seen, flat, fixed=(place,), steps=FIRST_STEPS)
    valley = early.reshape(3, -1).argmin(0)  # the best of each value goes on alone
    chosen = theta_early.reshape(3, len(grid), -1)[valley, np.arange(len(grid))]
    losses = minimise(model, x, seen, chosen, fixed=(place,), tolerance=1e-8)[1]
    if theta[place] in grid:
        here = np.searchsorted(grid, theta[place])
        losses[here] = min(loss, losses[here])
    best = min(loss, float(losses.min()))
    # A likelihood is judged by itself; a sum of squares by its own size, the spread being unknown.
    return losses, 2 * (losses - best) if seen.extra else freedom * (losses - best) / (best + 1e-12)


def floor_interval(found: Fit, points: Points) -> tuple[float, float]:
    """The interval of the floor: the failure rates below which size may not bring it. 0 to 1 where nothing is known."""
    if found.refusal or "log_floor" not in found.numbers:
        return 0.0, 1.0
    model, seen = MODELS[found.model], points.seen(found.likelihood)
    x = centred(model, points.sizes, found.centre)
    theta = np.array(list(found.numbers.values()))
    lowest_seen = float(1 - points.success.max())
    rates = np.concatenate([[np.exp(LOWEST)], np.geomspace(1e-4, max(2 * lowest_seen, 2e-4), 40)])
    freedom = found.points - len(found.numbers)
    _, worse = _held(model, 0, np.log(rates), x, seen, theta, found.loss, freedom)
    allowed = float(special.fdtri(1, freedom, found.confidence))
    inside = np.flatnonzero(worse <= allowed * (1 + 1e-6))
    if not len(inside):  # between two values of the grid
        return found.floor, found.floor
    first, last = int(inside[0]), int(inside[-1])
    low = _crossing(rates, worse, allowed, first - 1, first) if first > 0 else 0.0
    high = _crossing(rates, worse, allowed, last + 1, last) if last + 1 < len(rates) else float(rates[-1])
    return low, high


def _doubt(low: float, high: float, confidence: float, name: str) -> str:
    """Why an exponent with this interval says nothing, or an empty text."""
    if low <= 0 <= high and name != "interaction":
        return "a constant fits as well"
    if high - low <= WIDEST:
        return ""
    start = f"{low:.2f}" if np.isfinite(low) else f"beyond {-STEEPEST:g}"
    end = f"{high:.2f}" if np.isfinite(high) else f"beyond {STEEPEST:g}"
    return f"its {confidence:.0%} interval, {start} to {end}, is wider than {WIDEST:g}"


def _crossing(grid: Array, worse: Array, allowed: float, outside: int, inside: int) -> float:
    """Where the profile crosses what is allowed between two neighbours of the grid; its root is nearly straight."""
    near, far = np.sqrt(np.maximum(worse[[inside, outside]], 0))
    share = (np.sqrt(allowed) - near) / (far - near)
    return float(grid[inside] + share * (grid[outside] - grid[inside]))


def _condition(model: Model, x: Array, theta: Array) -> float:
    slope = model.law(theta[None, : len(model.numbers)], x)[1][0]
    size = np.linalg.norm(slope, axis=1, keepdims=True)
    return float(np.linalg.cond(slope / np.where(size > 0, size, 1)))


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None
