"""Laws in parameters N and env steps D, from whole learning curves, and the best size for a budget of compute.

    additive   f = A N^-a + B D^-b                                                  Hoffmann et al. 2022, no floor
    bounded    f = p + (1 - p) / (1 + (D N^h / D0)^b),  p = A N^-a                  a rise from failure to p

f is the failure rate. Both are fitted by least squares on logits, to at most 12 log-spaced steps of each curve. The
evaluations of a run depend on each other, so a run is one cluster (sandwich.py): more evaluations do not narrow an
interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.models import LOWEST, STEEPEST, Array, Model, Seen, additive, best_of
from analysis.sandwich import Estimate, Sandwich, sandwich

STEPS_OF_CURVE = 12
WIDTHS_NEEDED = 4
SEEDS_NEEDED = 2
BEGUN = 0.9  # the additive law is fitted to points of a lower mean failure
STARTS = 24  # of each fit
FARTHEST = 10.0  # beyond so many times the env steps that were run, a law says nothing
CLOSE = 1.5  # two laws agree on a size if it differs by less than this factor


@dataclass(frozen=True)
class Curves:
    """Learning curves as points [n]: parameters, env steps, failure rate, the run's number, FLOPs per env step."""

    size: Array
    steps: Array
    failure: Array
    run: NDArray[np.int64]
    cost: Array  # FLOPs of updates per env step
    episodes: float  # behind each success

    def where(self, keep: NDArray[Any]) -> Curves:
        """The points that `keep` selects, bool [n] or indices."""
        return Curves(
            self.size[keep],
            self.steps[keep],
            self.failure[keep],
            self.run[keep],
            self.cost[keep],
            self.episodes,
        )

    def refusal(self, seeds: int = SEEDS_NEEDED) -> str:
        """Why there are too few curves for a law; empty if there are enough."""
        first = np.unique(self.run, return_index=True)[1]
        sizes, runs = np.unique(self.size[first], return_counts=True)
        if len(sizes) < WIDTHS_NEEDED:
            return f"{len(sizes)} width{'' if len(sizes) == 1 else 's'}, {WIDTHS_NEEDED} needed"
        if runs.min() < seeds:
            return f"{runs.min()} seed at some width, {seeds} needed"
        steps = len(np.unique(self.steps))
        return f"{steps} evaluations, 4 needed" if steps < 4 else ""


def log_spaced(count: int) -> NDArray[np.int64]:
    """The indices of at most 12 of `count` evaluations at even steps, about evenly spaced in the logarithm."""
    places = np.unique(np.round(np.geomspace(1, count, STEPS_OF_CURVE)).astype(int)) - 1
    return places if count > STEPS_OF_CURVE else np.arange(count)


def _bounded(theta: Array, x: Array) -> tuple[Array, Array]:
    """The failure rates [samples, n] of the bounded law and their derivatives [samples, 5, n].

    theta is [samples, 5]; x is [n, 2], log N and log D.
    """
    log_a, a, middle, h, b = (theta[:, number, None] for number in range(5))
    size, steps = x[:, 0], x[:, 1]
    least = np.minimum(np.exp(log_a - a * size), 0.999)
    distance = steps + h * size - middle
    left = special.expit(-b * distance)
    pull = -(1 - least) * left * (1 - left)
    slopes = [least * (1 - left), -size * least * (1 - left), -b * pull, b * size * pull, distance * pull]
    return least + (1 - least) * left, np.stack(slopes, axis=1)


ADDITIVE = additive("additive", ("parameters", "steps"))
BOUNDED = Model(
    "bounded", ("parameters", "steps"),
    ("log_parameters", "exponent_parameters", "log_middle", "shift", "exponent_steps"),
    {"exponent_parameters": "parameters", "exponent_steps": "steps"},
    (LOWEST, -1, -40, -STEEPEST, 0), (-0.001, STEEPEST, 40, STEEPEST, STEEPEST), WIDTHS_NEEDED, _bounded,
)  # fmt: skip


@dataclass(frozen=True)
class DataLaw:
    """A law fitted to curves."""

    name: str
    model: Model
    theta: Array  # [p]
    free: NDArray[np.int64]  # places of theta that were fitted
    spread: Sandwich  # of the free numbers
    centre: Array  # mean logs of N and D
    rms: float  # logits
    points: int
    runs: int

    def exponent(self, name: str) -> Estimate:
        """The exponent of `parameters` or of `steps`."""
        place = self.model.numbers.index(f"exponent_{name}")
        return self.spread.estimate((self.free == place).astype(float))

    def failure(self, size: Any, steps: Any) -> Array:
        """The failure rates [n] at sizes and env steps [n]."""
        return np.asarray(self.model.law(self.theta[None], self.places(size, steps))[0][0])

    def places(self, size: Any, steps: Any) -> Array:
        """Log sizes and log env steps about the centre. [n, 2]"""
        logs = np.stack(np.broadcast_arrays(np.log(size), np.log(steps)), axis=-1)
        return np.asarray(logs.reshape(-1, 2) - self.centre)

    def estimate(self, quantity: Callable[[Array], Array]) -> Estimate:
        """A smooth function of the law's numbers, with its interval from its gradient (the delta method).

        `quantity` takes the numbers of several laws [S, p] and returns [S].
        """
        step = 1e-4 * np.eye(len(self.theta))[self.free]
        value, *ends = quantity(np.concatenate([self.theta[None], self.theta + step, self.theta - step]))
        up, down = np.split(np.array(ends), 2)
        return self.spread.estimate((up - down) / 2e-4, value=float(value))

    def summary(self) -> dict[str, object]:
        """The law as JSON."""
        exponents = {name: self.exponent(name).summary() for name in ("parameters", "steps")}
        return {
            "law": self.name,
            "points": self.points,
            "runs": self.runs,
            "logit_rms": self.rms,
            **exponents,
        }


def started(curves: Curves) -> NDArray[np.bool_]:
    """Whether learning has begun at each point: the mean failure at its size and step is below BEGUN. bool [n]"""
    places = np.unique(np.stack([curves.size, curves.steps]), axis=1, return_inverse=True)[1]
    means = np.bincount(places, curves.failure) / np.bincount(places)
    return np.asarray(means[places] < BEGUN)


def fit_curves(curves: Curves, name: str, generator: np.random.Generator) -> DataLaw:
    """The law `name`, additive or bounded, fitted to the curves.

    Early in training the additive law is above 1, where a failure rate cannot be. So it is fitted only to points at
    which learning has begun.
    """
    model = ADDITIVE if name == "additive" else BOUNDED
    if name == "additive" and started(curves).sum() > 2 * len(ADDITIVE.numbers):
        curves = curves.where(started(curves))
    logs = np.stack([np.log(curves.size), np.log(curves.steps)], axis=-1)
    centre = logs.mean(0)
    x = logs - centre
    trials = np.full(len(x), curves.episodes)
    seen = Seen(curves.failure * trials, trials, "logit")
    fixed = (0,) if name == "additive" else ()
    best, _ = best_of(model, x, seen, _starts(model, name, curves, generator), fixed=fixed, steps=300)
    failure, slope = (part[0] for part in model.law(best[None], x))
    free = np.array([place for place in range(len(best)) if place not in fixed])
    steep = (failure * (1 - failure)).clip(1e-9)
    jacobian, residual = (slope[free] / steep).T, seen.target - special.logit(failure.clip(1e-9, 1 - 1e-9))
    spread = sandwich(best[free], jacobian, residual, curves.run)
    freedom = max(1, len(x) - len(free))
    runs = len(np.unique(curves.run))
    return DataLaw(
        name, model, best, free, spread, centre, float(np.sqrt(residual @ residual / freedom)), len(x), runs
    )


def _starts(model: Model, name: str, curves: Curves, generator: np.random.Generator) -> Array:
    low, high = np.log(curves.failure.clip(1e-3).min()), np.log(curves.failure.mean())
    spread = np.log(curves.steps).std()
    if name == "additive":
        columns = [
            np.full(STARTS, LOWEST), generator.uniform(low - 1, high, STARTS), generator.uniform(0.05, 0.8, STARTS),
            generator.uniform(low - 1, high, STARTS), generator.uniform(0.1, 1.2, STARTS),
        ]  # fmt: skip
    else:
        columns = [
            generator.uniform(low - 1, low + 0.5, STARTS).clip(max=-0.1), generator.uniform(0.0, 0.6, STARTS),
            generator.uniform(-2, 2, STARTS) * spread, generator.uniform(-0.2, 0.4, STARTS),
            generator.uniform(0.3, 2, STARTS),
        ]  # fmt: skip
    return model.inside(np.stack(columns, axis=-1))


@dataclass(frozen=True)
class Costs:
    """FLOPs of updates per env step as a power law of the parameters, fitted to the sizes that were run."""

    log_scale: float
    power: float
    smallest: float  # parameters
    largest: float

    def per_step(self, size: Any) -> Array:
        """FLOPs of updates per env step at sizes [n]."""
        return np.asarray(np.exp(self.log_scale) * np.asarray(size, float) ** self.power)


def costs(curves: Curves) -> Costs:
    """The power law fitted to the curves' costs."""
    power, scale = np.polyfit(np.log(curves.size), np.log(curves.cost), 1)
    return Costs(float(scale), float(power), float(curves.size.min()), float(curves.size.max()))


@dataclass(frozen=True)
class Optimum:
    """The best size for a budget by one law, with its env steps and success; `refusal` if the law does not say."""

    budget: float  # FLOPs
    log_size: Estimate
    steps: float
    success: tuple[float, float, float]  # with its interval
    refusal: str = ""


def optimum(law: DataLaw, curves: Curves, budget: float) -> Optimum:
    """The size at which the law fails least for `budget` FLOPs of updates, with its interval."""
    cost = costs(curves)

    def log_size(theta: Array) -> Array:
        return _least(law, cost, budget, theta)

    def logit(theta: Array) -> Array:
        size = np.exp(log_size(theta))
        failure = law.model.law(theta, law.places(size, budget / cost.per_step(size)))[0]
        return np.asarray(special.logit(np.diagonal(failure)))  # of each law at its own size

    size, failure = law.estimate(log_size), law.estimate(logit)
    best = float(np.exp(size.value))
    steps = float(budget / cost.per_step(best))
    middle, low, high = (1 - special.expit([failure.value, failure.high, failure.low])).tolist()
    return Optimum(budget, size, steps, (middle, low, high), _out_of_reach(best, steps, cost, curves))


def _least(law: DataLaw, cost: Costs, budget: float, theta: Array) -> Array:
    """The log N [S] of the least failure by numbers theta [S, p]: by a grid and a parabola."""
    grid = np.linspace(np.log(cost.smallest) - 4, np.log(cost.largest) + 6, 401)
    failure = np.log(law.model.law(theta, law.places(np.exp(grid), budget / cost.per_step(np.exp(grid))))[0])
    place = failure.argmin(1)
    inside = place.clip(1, len(grid) - 2)
    left, middle, right = (failure[np.arange(len(theta)), inside + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    curved = (place == inside) & (bend > 0)  # not at an end of the grid
    away = np.where(curved, 0.5 * (left - right) / np.where(curved, bend, 1), 0)
    return np.asarray(grid[place] + (grid[1] - grid[0]) * away)


def _out_of_reach(size: float, steps: float, cost: Costs, curves: Curves) -> str:
    if size >= cost.largest:
        return "the best size is at or beyond the largest that was run"
    if size <= cost.smallest:
        return "the best size is at or below the smallest that was run"
    if steps > FARTHEST * curves.steps.max():
        return f"it needs more than {FARTHEST:g} times the env steps that were run"
    return ""


def growth(law: DataLaw, curves: Curves) -> Estimate:
    """The power of compute with which the best size grows; b / (a + b) of the additive law if the cost goes as N."""
    power = costs(curves).power
    a, b = (law.model.numbers.index(f"exponent_{name}") for name in ("parameters", "steps"))
    return law.estimate(lambda theta: theta[:, b] / (theta[:, a] + power * theta[:, b]))


def agree(first: Optimum, second: Optimum) -> bool:
    """Whether two laws give about the same best size."""
    return bool(abs(first.log_size.value - second.log_size.value) < np.log(CLOSE))
