"""Intervals of least-squares numbers if several points come from one run, or the noise varies with the size.

The covariance is the cluster-robust one with Bell and McCaffrey's correction for few clusters (CR2). Each combination
of the numbers has its own degrees of freedom, after Satterthwaite (Bell and McCaffrey 2002; Pustejovsky and Tipton
2018). A cluster is one run, because its evaluations depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, the p of a two-sided test against 0, and the degrees of freedom of both."""

    value: float
    low: float
    high: float
    p: float
    freedom: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def summary(self) -> dict[str, float | None]:
        """The estimate as JSON; what is not finite is None."""
        values = {"estimate": self.value, "low": self.low, "high": self.high, "p": self.p}
        return {name: value if np.isfinite(value) else None for name, value in values.items()}


@dataclass(frozen=True)
class Sandwich:
    """The result of a fit: its numbers, their covariance, and the data for the degrees of freedom."""

    numbers: Array  # [p]
    covariance: Array  # [p, p]
    jacobian: Array  # [points, p]
    reach: Array  # [points, p]: the change of the numbers by an error at a point, corrected for few clusters
    clusters: NDArray[np.int64]  # [points], from 0
    within: float = 0.0  # correlation of two points of one cluster
    known_freedom: float | None = None  # if all errors have one variance and are independent

    def estimate(self, contrast: Array, *, confidence: float = 0.95, value: float | None = None) -> Estimate:
        """The combination of the numbers with the weights `contrast` [p], with its interval.

        For a function of the numbers, pass its gradient as `contrast` and its `value`.
        """
        at = float(contrast @ self.numbers) if value is None else value
        error = float(np.sqrt(max(float(contrast @ self.covariance @ contrast), 0.0)))
        freedom = self.freedom(contrast)
        if not error:
            return Estimate(at, at, at, float(at == 0), freedom)
        spread = error * float(special.stdtrit(freedom, (1 + confidence) / 2))
        p = float(2 * special.stdtr(freedom, -abs(at) / error))
        return Estimate(at, at - spread, at + spread, p, freedom)

    @cached_property
    def _inverse(self) -> Array:
        return np.asarray(np.linalg.pinv(self.jacobian.T @ self.jacobian))

    def freedom(self, contrast: Array) -> float:
        """Satterthwaite's degrees of freedom of the variance of the combination `contrast` [p], at least 1.

        The variance is a quadratic form in the residuals. Its mean and variance are known if all errors have one
        variance and one correlation within clusters.
        """
        if self.known_freedom is not None:
            return self.known_freedom
        shares = self.reach @ contrast  # [points]
        inverse = self._inverse
        own = np.bincount(self.clusters, shares**2)
        drawn = _sums(self.clusters, self.jacobian * shares[:, None])  # [clusters, p]
        if not self.within:
            away = np.einsum("gp,pq,gq->g", drawn, inverse, drawn)
            square = inverse @ drawn.T @ drawn
            mean, spread = own.sum() - away.sum(), (own**2 - 2 * own * away).sum() + np.trace(square @ square)
            return float(max(1.0, mean**2 / spread)) if mean > 0 else 1.0
        apart = np.diag(own) - drawn @ inverse @ drawn.T
        diagonal = np.diag(np.bincount(self.clusters, shares))
        levels = diagonal - drawn @ inverse @ _sums(self.clusters, self.jacobian).T
        form = (1 - self.within) * apart + self.within * levels @ levels.T
        return float(max(1.0, np.trace(form) ** 2 / np.sum(form**2))) if np.trace(form) > 0 else 1.0


def sandwich(numbers: Array, jacobian: Array, residual: Array, runs: NDArray[Any]) -> Sandwich:
    """The sandwich of a least-squares fit with the given numbers [p].

    jacobian [points, p] and residual [points] are those at the optimum; runs [points] is the run of each point.
    """
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    clusters = np.unique(runs, return_inverse=True)[1]
    reach = jacobian @ inverse
    alone = np.bincount(clusters)[clusters] == 1  # all at once, because there may be thousands
    leave = 1 - np.sum(reach[alone] * jacobian[alone], axis=1)
    reach[alone] *= _inverse_roots(leave)[:, None]
    for own in _members(clusters):
        if len(own) > 1:
            reach[own] = _inverse_root(np.eye(len(own)) - reach[own] @ jacobian[own].T) @ reach[own]
    shares = _sums(clusters, reach * residual[:, None])
    return Sandwich(numbers, shares.T @ shares, jacobian, reach, clusters, _correlation(residual, clusters))


def student(numbers: Array, jacobian: Array, residual: Array) -> Sandwich:
    """As `sandwich`, if all errors have one variance and are independent: Student's intervals."""
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    freedom = len(residual) - len(numbers)
    covariance = inverse * float(residual @ residual) / freedom
    return Sandwich(
        numbers,
        covariance,
        jacobian,
        jacobian @ inverse,
        np.arange(len(residual)),
        known_freedom=float(freedom),
    )


def _members(clusters: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The indices of each cluster's points."""
    order = np.argsort(clusters, kind="stable")
    return np.split(order, np.cumsum(np.bincount(clusters))[:-1])


def _sums(clusters: NDArray[np.int64], values: Array) -> Array:
    """Sums over the points of each cluster of values [points, p]. [clusters, p]"""
    return np.stack([np.bincount(clusters, column) for column in values.T], axis=-1)


def _inverse_root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * _inverse_roots(values)) @ vectors.T)


def _inverse_roots(values: Array) -> Array:
    return np.where(values > 1e-9, 1 / np.sqrt(np.maximum(values, 1e-9)), 0)


def _correlation(residual: Array, clusters: NDArray[np.int64]) -> float:
    """The mean correlation of two residuals of one cluster, at least 0."""
    counts = np.bincount(clusters)
    pairs = float((counts * (counts - 1)).sum())
    if not pairs:
        return 0.0
    together = float((np.bincount(clusters, residual) ** 2).sum() - (residual**2).sum()) / pairs
    return float(np.clip(together / max(float(np.mean(residual**2)), 1e-300), 0, 0.99))
