"""Scaling laws: the failure rate y = 1 - success as a function of parameters and tasks.

    constant      y = E
    power         y = E + A N^-a
    actor_critic  y = E + A N_actor^-a + B N_critic^-b

Terms are positive and written exp(c - s log(N / N0)) with N0 the geometric mean of the sizes, so that coefficients and
exponents are nearly independent while fitting. Residuals are differences of logits, which makes a step from .90 to .95
as large as one from .05 to .10. All starts, and all points of a profile, are fitted at once as one batch.

A law is only as good as its data: fewer than 4 sizes, an exponent's interval wider than 1, or a constant that fits as
well, and the answer is "not identified", with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

SIZES_NEEDED = 4
WIDEST = 1.0  # of an exponent's interval; beyond, it says nothing
STEEPEST = 4.0
EXPONENTS = np.concatenate([[0.0], np.geomspace(0.01, STEEPEST, 160)])  # that a profile looks at


@dataclass(frozen=True)
class Model:
    """A sum of power laws and a floor: `regressors` names the sizes, one term each."""

    name: str
    regressors: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the fitted numbers: log floor, then log coefficient and exponent of each term."""
        terms = [
            name for regressor in self.regressors for name in (f"log_{regressor}", f"exponent_{regressor}")
        ]
        return ("log_floor", *terms)

    def exponent(self, regressor: str) -> int:
        """Where the exponent of `regressor` stands among the parameters."""
        return self.parameters.index(f"exponent_{regressor}")

    def inside(self, theta: Array) -> Array:
        """theta [S, p] with exponents between 0 and STEEPEST, and logs that `exp` can take."""
        theta = theta.clip(-60, 60)
        theta[:, 2::2] = theta[:, 2::2].clip(0, STEEPEST)
        return theta

    def predict(self, theta: Array, x: Array) -> tuple[Array, Array]:
        """Failure [S, n] and its derivative [S, n, p] for theta [S, p] and centred log sizes x [n, regressors]."""
        failure = np.repeat(np.exp(theta[:, :1]), len(x), axis=1)
        slopes = [failure]
        for number in range(len(self.regressors)):
            term = np.exp(theta[:, 1 + 2 * number, None] - theta[:, 2 + 2 * number, None] * x[:, number])
            slopes += [term, -term * x[:, number]]
            failure = failure + term
        return failure, np.stack(slopes, axis=-1)


MODELS = {
    model.name: model
    for model in (
        Model("constant", ()),
        Model("power", ("parameters",)),
        Model("actor_critic", ("actor", "critic")),
    )
}


@dataclass(frozen=True)
class Exponent:
    """An exponent with its profile interval, or the reason why the data do not say."""

    name: str
    estimate: float
    low: float
    high: float
    refusal: str = ""

    @property
    def identified(self) -> bool:
        return not self.refusal


@dataclass(frozen=True)
class Fit:
    """A fitted law. `coefficients` are E and, for each term, its A at N = 1 and its exponent."""

    model: str
    points: int
    sizes: dict[str, int]  # regressor -> distinct values
    confidence: float
    exponents: tuple[Exponent, ...]
    theta: tuple[float, ...]
    centre: tuple[float, ...]  # log of the geometric mean of each regressor's sizes
    rmse: float  # of the logits
    refusal: str = ""

    @property
    def identified(self) -> bool:
        return not self.refusal and all(exponent.identified for exponent in self.exponents)

    @property
    def reason(self) -> str:
        return self.refusal or next((e.refusal for e in self.exponents if e.refusal), "")

    @property
    def floor(self) -> float:
        return float(np.exp(self.theta[0])) if self.theta else float("nan")

    def summary(self) -> dict[str, Any]:
        """Everything to keep of the fit, for JSON."""
        numbers = [
            {"of": e.name, "estimate": _number(e.estimate), "low": _number(e.low), "high": _number(e.high),
             "refusal": e.refusal}
            for e in self.exponents
        ]  # fmt: skip
        return {
            "model": self.model,
            "identified": self.identified,
            "reason": self.reason,
            "points": self.points,
            "sizes": self.sizes,
            "confidence": self.confidence,
            "floor": _number(self.floor),
            "exponents": numbers,
            "logit_rmse": _number(self.rmse),
        }

    def failure(self, *sizes: NDArray[Any]) -> Array:
        """The fitted failure rate at the sizes, one array per regressor."""
        x = np.stack(
            [np.log(size) - centre for size, centre in zip(sizes, self.centre, strict=True)], axis=-1
        )
        failure: Array = MODELS[self.model].predict(np.array([self.theta]), x)[0][0]
        return failure


def fit(
    model: Model,
    sizes: Sequence[NDArray[Any]],
    success: NDArray[Any],
    trials: NDArray[Any],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    starts: int = 32,
) -> Fit:
    """The law fitted to success [n] at `sizes`, one array [n] per regressor; a point is a run or a cell.

    trials [n] are the episodes behind each success: they keep 0 and 1 off the ends of the logit. Intervals are
    profile likelihoods with the F quantile, so that few points give wide ones.
    """
    counts = {name: len(np.unique(size)) for name, size in zip(model.regressors, sizes, strict=True)}
    short = [
        f"{n} {'size' if n == 1 else 'sizes'}, {SIZES_NEEDED} needed"
        for n in counts.values()
        if n < SIZES_NEEDED
    ]
    freedom = len(success) - len(model.parameters)
    if short or freedom < 1:
        reason = short[0] if short else f"{len(success)} points, {len(model.parameters) + 1} needed"
        nothing = [Exponent(name, np.nan, np.nan, np.nan, reason) for name in model.regressors]
        return Fit(model.name, len(success), counts, confidence, tuple(nothing), (), (), np.nan, reason)
    logs = [np.log(np.asarray(size, float)) for size in sizes]
    centre = tuple(float(log.mean()) for log in logs)
    x = (
        np.stack([log - c for log, c in zip(logs, centre, strict=True)], axis=-1)
        if logs
        else np.empty((len(success), 0))
    )
    y = _logit_of_counts(1 - np.asarray(success, float), np.asarray(trials, float))
    theta, losses = minimise(model, x, y, _starts(model, y, generator, starts))
    best = int(np.argmin(losses))
    exponents = tuple(
        _profile(model, name, x, y, theta[best], float(losses[best]), freedom, confidence)
        for name in model.regressors
    )
    rmse = float(np.sqrt(losses[best] / max(freedom, 1)))
    return Fit(
        model.name, len(success), counts, confidence, exponents, tuple(map(float, theta[best])), centre, rmse
    )


def minimise(
    model: Model, x: Array, y: Array, theta: Array, *, fixed: Sequence[int] = (), steps: int = 200
) -> tuple[Array, Array]:
    """Theta [S, p] and loss [S] (sum of squared residuals of logits) from the starts theta [S, p].

    Levenberg-Marquardt on all starts at once; parameters in `fixed` keep their start. x is [n, regressors], y [n].
    """
    theta = theta.copy()
    free = np.array([number not in fixed for number in range(theta.shape[1])])
    damping = np.full(len(theta), 1e-2)
    residual, slope = _residual(model, theta, x, y)
    loss = np.einsum("sn,sn->s", residual, residual)
    active = np.arange(len(theta))
    for _ in range(steps):
        jacobian = slope[active] * free
        normal = np.einsum("snp,snq->spq", jacobian, jacobian)
        gradient = np.einsum("snp,sn->sp", jacobian, residual[active])
        diagonal = np.einsum("spp->sp", normal)
        normal[:, np.arange(theta.shape[1]), np.arange(theta.shape[1])] += (
            damping[active, None] * diagonal + 1e-9
        )
        step = np.linalg.solve(normal, -gradient[..., None])[..., 0].clip(-2, 2)
        tried = model.inside(theta[active] + step)
        new_residual, new_slope = _residual(model, tried, x, y)
        new_loss = np.einsum("sn,sn->s", new_residual, new_residual)
        better = new_loss < loss[active]
        gain = np.where(better, loss[active] - new_loss, np.inf)
        chosen = active[better]
        theta[chosen], residual[chosen], slope[chosen] = (
            tried[better],
            new_residual[better],
            new_slope[better],
        )
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 5), 1e-12, 1e10)
        done = (gain <= 1e-12 * (1e-12 + loss[active])) | (damping[active] >= 1e10)
        loss[chosen] = new_loss[better]
        active = active[~done]
        if not len(active):
            break
    return theta, loss


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None


def _residual(model: Model, theta: Array, x: Array, y: Array) -> tuple[Array, Array]:
    failure, slope = model.predict(theta, x)
    inside = np.clip(failure, 1e-9, 1 - 1e-9)
    return special.logit(inside) - y, slope / (inside * (1 - inside))[..., None]


def _profile(
    model: Model, name: str, x: Array, y: Array, theta: Array, loss: float, freedom: int, confidence: float
) -> Exponent:
    """The exponent's interval: the values at which the best fit of the rest is not significantly worse."""
    place = model.exponent(name)
    grid = np.sort(np.append(EXPONENTS, theta[place]))
    others = [n for n in range(len(theta)) if n != place]
    starts = np.tile(theta, (len(grid), 1))
    starts[:, place] = grid
    shaken = np.concatenate([starts, starts])
    shaken[len(grid) :, others[0]] -= 3  # the floor far down: its own valley where the exponent is small
    losses = minimise(model, x, y, shaken, fixed=[place])[1].reshape(2, -1).min(0)
    # The best fit itself is in the grid; the margin is the optimiser's tolerance.
    limit = loss * (1 + 1e-6 + special.fdtri(1, freedom, confidence) / freedom)
    inside = np.flatnonzero(losses <= limit)
    first, last = int(inside[0]), int(inside[-1])
    low = _crossing(grid, losses, limit, first - 1, first) if first > 0 else 0.0
    high = _crossing(grid, losses, limit, last + 1, last) if last + 1 < len(grid) else np.inf
    refusal = ""
    if low <= 0:
        refusal = "a constant fits as well"
    elif high - low > WIDEST:
        end = f"{high:.2f}" if np.isfinite(high) else f"beyond {STEEPEST:g}"
        refusal = f"its {confidence:.0%} interval, {low:.2f} to {end}, is wider than {WIDEST:g}"
    return Exponent(name, float(theta[place]), low, high, refusal)


def _crossing(grid: Array, losses: Array, limit: float, outside: int, inside: int) -> float:
    """Where the loss crosses the limit between two neighbours of the grid, linearly."""
    share = (limit - losses[inside]) / (losses[outside] - losses[inside])
    return float(grid[inside] + share * (grid[outside] - grid[inside]))


def _logit_of_counts(rate: Array, trials: Array) -> Array:
    return np.asarray(special.logit((rate * trials + 0.5) / (trials + 1)))


def _starts(model: Model, y: Array, generator: np.random.Generator, starts: int) -> Array:
    """Spread over plausible floors, coefficients and exponents. [starts, p]"""
    middle = float(np.log(special.expit(y).mean()))
    theta = np.empty((starts, len(model.parameters)))
    theta[:, 0] = middle - generator.uniform(0, 4, starts)
    for number in range(len(model.regressors)):
        theta[:, 1 + 2 * number] = middle - generator.uniform(0, 2, starts)
        theta[:, 2 + 2 * number] = generator.uniform(0.05, 1.5, starts)
    return theta
