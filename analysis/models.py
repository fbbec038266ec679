"""Families of scaling laws with a floor for the failure rate y, and how far a prediction is from what was seen.

    constant           y = E
    power              y = E + A N^-a
    actor_critic       y = E + A N_actor^-a + B N_critic^-b
    tasks              y = E + A N^-a T^g
    actor_critic_tasks y = E + (A N_actor^-a + B N_critic^-b) T^g
    interaction        y = E + A N^-(a + h log(T / T0)) T^g
    sigmoid            1 - y = ceiling / (1 + (N / M)^-k)
    broken             y = E + A N^-a (1 + (N / M)^4)^(-d / 4)          two exponents, a below M and a + d above

Positive numbers are fitted as logarithms, and sizes as log(N / N0) with N0 their geometric mean, so that the numbers of
a fit are nearly independent. A prediction is the failure rate [S, n] and its derivative [S, p, n] for numbers
theta [S, p] and log sizes x [n, regressors]: thousands of fits at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Likelihood = Literal["logit", "huber", "beta_binomial", "log_huber"]
Rows = slice | NDArray[np.int64]

STEEPEST = 4.0  # no exponent beyond is looked for
LOWEST = np.log(1e-6)  # of a logarithm of a rate: below, it is zero
HIGHEST = 0.9999  # failure rate up to which the logit is the logit
BREAK = 4.0  # sharpness of the broken law's bend
EACH = slice(None)  # each point has a prediction of its own
FAR = 0.05  # of the curvature of a point beyond Huber's delta; see Seen.loss


@dataclass(frozen=True)
class Model:
    """A law: `numbers` are what is fitted, `exponents` maps an exponent's number to the regressor it belongs to."""

    name: str
    regressors: tuple[str, ...]
    numbers: tuple[str, ...]
    exponents: dict[str, str]
    low: tuple[float, ...]
    high: tuple[float, ...]
    sizes_needed: int
    law: Callable[[Array, Array], tuple[Array, Array]]

    def inside(self, theta: Array) -> Array:
        """theta [S, p] within its bounds."""
        return np.asarray(theta.clip(self.low, self.high))


def additive(
    name: str, regressors: tuple[str, ...], *, tied: bool = False, times_tasks: bool = False
) -> Model:
    """A floor and one power law per regressor; `tied` gives the two one exponent, `times_tasks` multiplies by T^g."""
    numbers, low, high = ["log_floor"], [LOWEST], [np.log(0.999)]
    exponents = {}
    for regressor in regressors:
        numbers += [f"log_{regressor}", f"exponent_{regressor}"]
        low += [LOWEST, 0.0]
        high += [5.0, STEEPEST]
        exponents[f"exponent_{regressor}"] = regressor
    law = _tied if tied else _additive
    if times_tasks:
        numbers, low, high = [*numbers, "growth_tasks"], [*low, -STEEPEST], [*high, STEEPEST]
        exponents["growth_tasks"] = "tasks"
        regressors, law = (*regressors, "tasks"), _times_tasks
    return Model(name, regressors, tuple(numbers), exponents, tuple(low), tuple(high), 4, law)


def _additive(theta: Array, x: Array) -> tuple[Array, Array]:
    slopes = np.empty((*theta.shape, len(x)))
    slopes[:, 0] = np.exp(theta[:, :1])
    failure = slopes[:, 0].copy()
    for number in range(x.shape[1]):
        place = 1 + 2 * number
        term = slopes[:, place]  # written where it is wanted: fits are bound by memory
        np.multiply(theta[:, place + 1, None], -x[:, number], out=term)
        term += theta[:, place, None]
        np.exp(term, out=term)
        np.multiply(term, -x[:, number], out=slopes[:, place + 1])
        failure += term
    return failure, slopes


def _tied(theta: Array, x: Array) -> tuple[Array, Array]:
    """The first two terms share the exponent that stands with the first."""
    full = theta.copy()
    full[:, 4] = theta[:, 2]
    failure, slopes = _additive(full, x)
    slopes[:, 2] += slopes[:, 4]
    slopes[:, 4] = 0
    return failure, slopes


def _times_tasks(theta: Array, x: Array) -> tuple[Array, Array]:
    """What stands above the floor, times T^g."""
    failure, slopes = _additive(theta[:, :-1], x[:, :-1])
    floor, growth = slopes[:, :1], np.exp(theta[:, -1:] * x[:, -1])
    above = (failure - floor[:, 0]) * growth
    terms = slopes[:, 1:] * growth[:, None]
    return floor[:, 0] + above, np.concatenate([floor, terms, (above * x[:, -1])[:, None]], axis=1)


def _interaction(theta: Array, x: Array) -> tuple[Array, Array]:
    floor, a, exponent, growth, h = (theta[:, number, None] for number in range(5))
    size, tasks = x[:, 0], x[:, 1]
    term = np.exp(a - (exponent + h * tasks) * size + growth * tasks)
    first = np.broadcast_to(np.exp(floor), term.shape)
    slopes = np.stack([first, term, -term * size, term * tasks, -term * size * tasks], axis=1)
    return first + term, slopes


def _sigmoid(theta: Array, x: Array) -> tuple[Array, Array]:
    ceiling, slope, middle = (theta[:, number, None] for number in range(3))
    top = special.expit(ceiling)
    rise = special.expit(slope * (x[:, 0] - middle))
    bend = top * rise * (1 - rise)
    slopes = np.stack([-top * (1 - top) * rise, -bend * (x[:, 0] - middle), bend * slope], axis=1)
    return 1 - top * rise, slopes


def _broken(theta: Array, x: Array) -> tuple[Array, Array]:
    floor, a, exponent, change, middle = (theta[:, number, None] for number in range(5))
    beyond = BREAK * (x[:, 0] - middle)
    bend = np.logaddexp(0, beyond) / BREAK
    term = np.exp(a - exponent * x[:, 0] - change * bend)
    first = np.broadcast_to(np.exp(floor), term.shape)
    slopes = np.stack(
        [first, term, -term * x[:, 0], -term * bend, term * change * special.expit(beyond)], axis=1
    )
    return first + term, slopes


_N = {"exponent_parameters": "parameters"}
MODELS = {
    model.name: model
    for model in (
        additive("constant", ()),
        additive("power", ("parameters",)),
        additive("actor_critic", ("actor", "critic")),
        additive("tasks", ("parameters",), times_tasks=True),
        additive("actor_critic_tasks", ("actor", "critic"), times_tasks=True),
        Model(
            "interaction", ("parameters", "tasks"),
            ("log_floor", "log_parameters", "exponent_parameters", "growth_tasks", "interaction"),
            {**_N, "growth_tasks": "tasks", "interaction": "parameters"},
            (LOWEST, LOWEST, 0, -STEEPEST, -2), (0, 5, STEEPEST, STEEPEST, 2), 4, _interaction,
        ),
        Model(
            "sigmoid", ("parameters",), ("logit_ceiling", "exponent_parameters", "log_middle"), _N,
            (-10, 0, -30), (14, STEEPEST, 30), 4, _sigmoid,
        ),
        Model(
            "broken", ("parameters",),
            ("log_floor", "log_parameters", "exponent_parameters", "change", "log_middle"), _N,
            (LOWEST, LOWEST, 0, -STEEPEST, -6), (0, 5, STEEPEST, STEEPEST, 6), 8, _broken,
        ),
    )
}  # fmt: skip
TIED = additive("actor_critic with one exponent", ("actor", "critic"), tied=True)


class Loss(Protocol):
    """What fits are judged by."""

    @property
    def extra(self) -> int:
        """Numbers fitted besides the law's."""

    def loss(self, predicted: Array, log_precision: Array | None, rows: Rows = EACH) -> tuple[Array, ...]:
        """How predictions [S, m] are judged at each of n points, by arrays [S, n].

        They are the loss, its derivative in the prediction, and its curvature; with a log precision [S] also the
        derivative in that and what stands for the second one. `rows` [n] says which prediction each point has: runs
        of one size share it.
        """


@dataclass(frozen=True)
class Seen:
    """What was seen at each of n points: how many of `trials` failed, and which likelihood that is judged by."""

    failed: Array  # [n]
    trials: Array  # [n]
    likelihood: Likelihood
    delta: float = 0.5  # where Huber's loss turns from square to straight

    @property
    def extra(self) -> int:
        """Numbers fitted besides the law's: the log precision of the beta-binomial."""
        return int(self.likelihood == "beta_binomial")

    @cached_property
    def target(self) -> Array:
        """The failure rates on the scale of the residuals; half a failure keeps 0 and 1 off the ends of the logit."""
        rate = (self.failed + 0.5) / (self.trials + 1)
        return np.asarray(special.logit(rate) if self.likelihood != "log_huber" else np.log(self.failed))

    def loss(self, predicted: Array, log_precision: Array | None, rows: Rows = EACH) -> tuple[Array, ...]:
        """See Loss.loss.

        Beyond delta Huber's loss is straight and has no curvature. It is given a small part of what iterative
        reweighting gives (the slope over the distance): none leaves a far start without a scale, and all of it makes
        reweighting's many small steps of Newton's few.
        """
        if self.likelihood == "beta_binomial":
            assert log_precision is not None
            return self._beta_binomial(predicted, np.exp(log_precision)[:, None], rows)
        if self.likelihood == "log_huber":
            residual, steep = np.log(predicted), 1 / predicted
        else:
            # A law may rise above 1 on its way: from there on the logit goes straight, so that it finds back.
            inside = predicted.clip(1e-9, HIGHEST)
            steep = 1 / (inside * (1 - inside))
            residual = special.logit(inside) + (predicted - inside).clip(0) * steep
        residual, steep = residual[:, rows] - self.target, steep[:, rows]
        if self.likelihood == "logit":
            return residual**2 / 2, residual * steep, steep**2
        size = np.abs(residual)
        near = np.minimum(size, self.delta)
        curvature = np.where(size <= self.delta, 1.0, FAR * self.delta / np.maximum(size, self.delta))
        pull = residual.clip(-self.delta, self.delta) * steep
        return near * (size - near / 2), pull, curvature * steep**2

    def _beta_binomial(self, predicted: Array, precision: Array, rows: Rows) -> tuple[Array, ...]:
        """Failures drawn from a binomial whose rate is drawn, per run, from a beta of this mean and precision."""
        k, n = self.failed, self.trials
        mean = predicted.clip(1e-9, HIGHEST)
        a, b = mean * precision, (1 - mean) * precision
        before = special.gammaln(a) + special.gammaln(b) - special.gammaln(precision)
        by_prediction = (predicted - mean, mean, a, b, before, special.psi(a), special.psi(b))
        beyond, mean, a, b, before, psi_a, psi_b = (part[:, rows] for part in by_prediction)
        after = special.gammaln(k + a) + special.gammaln(n - k + b) - special.gammaln(n + precision)
        up, down = special.psi(k + a) - psi_a, special.psi(n - k + b) - psi_b
        whole = special.psi(n + precision) - special.psi(precision)
        score = -precision * (mean * up + (1 - mean) * down - whole)
        pull = -precision * (up - down)
        # Fisher's information about the mean is that of a binomial, less what runs vary beyond it. About the log
        # precision it is that of a normal rate with the same variance.
        curvature = n / (mean * (1 - mean)) / (1 + (n - 1) / (precision + 1))
        information = (precision * (n - 1) / ((n + precision) * (precision + 1))) ** 2 / 2
        information = np.maximum(information, score**2)
        # A law may rise above 1 on its way: from there on the loss is a parabola, so that it finds back.
        loss = before - after + beyond * (pull + curvature * beyond / 2)
        return loss, pull + curvature * beyond, curvature, score, information


def minimise(
    model: Model,
    x: Array,
    seen: Loss,
    theta: Array,
    *,
    weights: Array | None = None,
    fixed: tuple[int, ...] = (),
    steps: int = 150,
    tolerance: float = 1e-9,
) -> tuple[Array, Array]:
    """Numbers [S, p] and losses [S] from the starts theta [S, p]: Levenberg-Marquardt, all starts at once.

    weights [S, n] count the points (a bootstrap sample is a multinomial count). Numbers in `fixed` keep their start;
    one at its bound stays there while the loss falls only beyond: a step that counts on it would lead astray.
    With a beta-binomial the last number is its log precision.
    """
    numbers = theta.shape[1]
    sizes = _sizes(x)
    movable = np.array([number not in fixed for number in range(numbers)])
    lowest, highest = _bounded(model, seen, np.array([[-np.inf], [np.inf]]) * np.ones(numbers))
    found, losses, theta = theta.copy(), np.empty(len(theta)), theta.copy()
    active = np.arange(len(theta))  # the starts that still move; what follows is of these
    damping = np.full(len(theta), 1e-3)
    loss, gradient, normal = _quadratic(model, sizes, seen, theta, weights)
    for _ in range(steps):
        free = movable & ((theta > lowest) | (gradient < 0)) & ((theta < highest) | (gradient > 0))
        system = normal * free[:, :, None] * free[:, None]
        diagonal = np.einsum("sii->si", system)  # a view
        diagonal += damping[:, None] * diagonal + 1e-10 + ~free
        step = np.linalg.solve(system, -(gradient * free)[..., None])[..., 0].clip(-2, 2)
        tried = _bounded(model, seen, theta + step)
        new_loss, new_gradient, new_normal = _quadratic(model, sizes, seen, tried, weights)
        better = new_loss < loss
        damping = np.where(better, damping * 0.2, damping * 6).clip(1e-9, 1e9)
        small = better & (loss - new_loss <= tolerance * (1e-12 + np.abs(loss))) & (damping < 1e-2)
        done = small | (damping >= 1e9)
        np.copyto(theta, tried, where=better[:, None])
        np.copyto(gradient, new_gradient, where=better[:, None])
        np.copyto(normal, new_normal, where=better[:, None, None])
        np.copyto(loss, new_loss, where=better)
        if done.any():
            found[active[done]], losses[active[done]] = theta[done], loss[done]
            moving = ~done
            active, damping, loss = active[moving], damping[moving], loss[moving]
            theta, gradient, normal = theta[moving], gradient[moving], normal[moving]
            weights = None if weights is None else weights[moving]
            if not len(active):
                break
    found[active], losses[active] = theta, loss
    return found, losses


def best_of(
    model: Model, x: Array, seen: Loss, tries: Array, *, fixed: tuple[int, ...] = (), steps: int = 150
) -> tuple[Array, float]:
    """The numbers [p] of the least loss from many starts [S, p], and that loss."""
    theta, losses = minimise(model, x, seen, tries, fixed=fixed, steps=steps)
    best = int(losses.argmin())
    return theta[best], float(losses[best])


def _bounded(model: Model, seen: Loss, theta: Array) -> Array:
    law = model.inside(theta[:, : len(model.numbers)])
    return np.concatenate([law, theta[:, len(model.numbers) :].clip(-1, 12)], axis=1) if seen.extra else law


class Sizes(NamedTuple):
    """The distinct rows of x [n, regressors], where runs share sizes."""

    x: Array  # [m, regressors]
    rows: Rows  # which of them each point has
    sums: Array | None  # [n, m]: times this, points are summed by size; None where no runs share one


def _sizes(x: Array) -> Sizes:
    sizes, rows = np.unique(x, axis=0, return_inverse=True)
    if len(sizes) == len(x):
        return Sizes(x, EACH, None)
    return Sizes(sizes, rows.reshape(-1), np.eye(len(sizes))[rows.reshape(-1)])


def _quadratic(
    model: Model, sizes: Sizes, seen: Loss, theta: Array, weights: Array | None
) -> tuple[Array, Array, Array]:
    """Loss [S], gradient [S, p] and Gauss-Newton matrix [S, p, p] at theta."""
    p = len(model.numbers)
    failure, slope = model.law(theta[:, :p], sizes.x)
    parts = seen.loss(failure, theta[:, p] if seen.extra else None, sizes.rows)
    if weights is not None:
        parts = tuple(part * weights for part in parts)
    loss, pull, curvature, *precision = parts
    if sizes.sums is not None:
        pull, curvature = pull @ sizes.sums, curvature @ sizes.sums
    gradient = np.empty(theta.shape)
    normal = np.zeros((*theta.shape, theta.shape[1]))
    gradient[:, :p] = (slope @ pull[..., None])[..., 0]
    normal[:, :p, :p] = (slope * curvature[:, None]) @ slope.swapaxes(1, 2)
    if precision:
        gradient[:, p], normal[:, p, p] = (part.sum(-1) for part in precision)
    return loss.sum(-1), gradient, normal


def starts(model: Model, x: Array, seen: Seen, generator: np.random.Generator, number: int) -> Array:
    """Spread over what is plausible: floors, coefficients and exponents. [number, p]"""
    rate = float(
        np.mean(np.exp(seen.target) if seen.likelihood == "log_huber" else special.expit(seen.target))
    )
    middle = np.log(rate)
    span = x[:, 0].std() if x.shape[1] else 1.0
    draw: dict[str, Any] = {
        "log_floor": lambda: middle - generator.uniform(0, 4, number),
        "logit_ceiling": lambda: generator.uniform(0, 5, number),
        "log_middle": lambda: generator.uniform(-1, 1, number) * span,
        "change": lambda: generator.uniform(-1, 1, number),
        "interaction": lambda: generator.uniform(-0.3, 0.3, number),
        "growth_tasks": lambda: generator.uniform(-0.5, 1.5, number),
    }
    columns = []
    for name in model.numbers:
        if name in draw:
            columns.append(draw[name]())
        elif name.startswith("exponent"):
            columns.append(generator.uniform(0.05, 1.5, number))
        else:
            columns.append(middle - generator.uniform(0, 2, number))
    if seen.extra:
        columns.append(generator.uniform(1, 5, number))
    return _bounded(model, seen, np.stack(columns, axis=-1).astype(float))
