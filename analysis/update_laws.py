"""D_J, the env steps to success J, as a law in the samples that updates draw and in parameters:

    line   D_J = A sigma^-s N^-n                                 over the measured range
    law    D_J = D_min (1 + (a / sigma)^alpha + (b / N)^beta)    with a least number of steps, after Fu et al. 2025

sigma is the number of transitions that updates draw per env step: transitions of an update times updates per vector
step over tasks. N counts the parameters of actor and critics. Both laws are fitted to log D_J by censored normal
regression: a run that never reaches J is slower than its last step (time_laws.py).

Intervals of the line are the jackknife's. Those of the law come from drawing whole runs with replacement: percentiles,
stretched about the estimate from the normal to Student's quantile and by sqrt(n / (n - 5)), as few runs need. alpha
asks for as many seeds as it is covered at (benchmarks/README.md): with fewer, the intervals narrow enough to be shown
are narrow by luck, and miss too often.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy import special

from analysis.models import Array, additive, best_of, minimise
from analysis.sandwich import Estimate
from analysis.slopes import doubt
from analysis.time_laws import Censored, Times, censored_lines

SIGMAS_NEEDED = 3
WIDTHS_NEEDED = 3
SEEDS_NEEDED = 2
ALPHA_SEEDS = 10
STARTS = 24
RESAMPLES = 400
DEEPER = 3.0  # by how much log D_min is lower in a resample's second start
NAMES = ("sigma", "N")

# A floor, D_min, and a power law of sigma and of N above it; D_J is measured in the largest one.
LAW = replace(
    additive("steps to J", NAMES),
    low=(-9.0, -14.0, 0.0, -14.0, 0.0), high=(0.0, 1.0, 4.0, 1.0, 4.0),
)  # fmt: skip


@dataclass(frozen=True)
class UpdateTimes:
    """D_J of runs [n] whose updates draw `sigma` transitions per env step."""

    sigma: Array
    times: Times

    @property
    def seeds(self) -> int:
        """The runs of the variant that has the fewest."""
        return int(np.unique(np.stack([self.sigma, self.times.size]), axis=1, return_counts=True)[1].min())

    def refusal(self) -> str:
        """Why there is too little for a law, or an empty text."""
        times = self.times
        sigmas, widths = (len(np.unique(values)) for values in (self.sigma, times.size))
        reached = int((~times.censored).sum())
        if sigmas < SIGMAS_NEEDED:
            return f"{sigmas} value{'' if sigmas == 1 else 's'} of sigma, {SIGMAS_NEEDED} needed"
        if widths < WIDTHS_NEEDED:
            return f"{widths} width{'' if widths == 1 else 's'}, {WIDTHS_NEEDED} needed"
        if self.seeds < SEEDS_NEEDED:
            return f"{self.seeds} seed of some variant, {SEEDS_NEEDED} needed"
        runs = len(self.sigma)
        return f"{reached} of {runs} runs reach it, half needed" if 2 * reached < runs else ""


@dataclass(frozen=True)
class UpdateLaw:
    """The line and the law of D_J, or why there is neither. Exponents are by name: sigma, N."""

    success: float  # J
    seen: UpdateTimes
    line: dict[str, Estimate] = field(default_factory=dict)
    law: dict[str, Estimate] = field(default_factory=dict)
    numbers: Array = field(default_factory=lambda: np.empty(0))  # LAW's
    centre: Array = field(default_factory=lambda: np.zeros(2))  # mean logs of sigma and N
    unit: float = 1.0  # env steps
    refusal: str = ""

    @property
    def censored(self) -> int:
        return int(self.seen.times.censored.sum())

    @property
    def least(self) -> float:
        """D_min: the env steps that are left at any size and any number of updates."""
        return float(self.unit * np.exp(self.numbers[0]))

    def refused(self, name: str) -> str:
        """Why the law's exponent says nothing, or an empty text."""
        if self.refusal or name != "sigma" or self.seen.seeds >= ALPHA_SEEDS:
            return self.refusal or doubt(self.law[name])
        return f"{self.seen.seeds} seeds of some variant, {ALPHA_SEEDS} needed"

    def steps(self, sigma: Array, size: Array) -> Array:
        """D_J by the law. [n]"""
        x = np.stack(np.broadcast_arrays(np.log(sigma), np.log(size)), axis=-1) - self.centre
        return np.asarray(self.unit * LAW.law(self.numbers[None], x)[0][0])

    def summary(self) -> dict[str, object]:
        """Everything to keep, for JSON."""
        return {
            "success": self.success,
            "runs": len(self.seen.sigma),
            "censored": self.censored,
            "refusal": self.refusal,
            "line": {name: found.summary() for name, found in self.line.items()},
            "law": {n: found.summary() | {"refusal": self.refused(n)} for n, found in self.law.items()},
        }


def update_law(
    seen: UpdateTimes, success: float, generator: np.random.Generator, *, resamples: int = RESAMPLES
) -> UpdateLaw:
    """Line and law of D_J in sigma and N, or the reason why these runs have none."""
    refusal = seen.refusal()
    if refusal:
        return UpdateLaw(success, seen, refusal=refusal)
    times = seen.times
    logs = np.stack([np.log(seen.sigma), np.log(times.size)], axis=-1)
    centre = logs.mean(0)
    line = censored_lines(centre - logs, np.log(times.steps), times.censored)
    unit = float(times.steps.max())
    loss = Censored(np.log(times.steps / unit), times.censored)
    best = _fit(logs - centre, loss, generator)
    drawn = _resampled(logs - centre, loss, best, generator, resamples)
    law = {
        name: _stretched(best[2 + 2 * place], drawn[:, 2 + 2 * place], len(logs) - len(LAW.numbers))
        for place, name in enumerate(NAMES)
    }
    numbers = best[: len(LAW.numbers)]
    return UpdateLaw(success, seen, dict(zip(NAMES, line, strict=True)), law, numbers, centre, unit)


def _fit(x: Array, loss: Censored, generator: np.random.Generator) -> Array:
    """The likeliest numbers and log precision, of many starts."""
    middle = loss.logs.mean()
    lowest = (0.2, 0.0, 0.1, 0.0, 0.1, 1.0)
    highest = (4.0, 2.0, 1.5, 2.0, 1.5, 4.0)
    starts = generator.uniform(lowest, highest, (STARTS, 6))
    starts[:, [0, 1, 3]] = middle - starts[:, [0, 1, 3]]  # logarithms of steps
    return best_of(LAW, x, loss, starts, steps=300)[0]


def _resampled(
    x: Array, loss: Censored, best: Array, generator: np.random.Generator, resamples: int
) -> Array:
    """The numbers fitted anew to runs drawn with replacement, from the fit and from a lower D_min. [resamples, p]"""
    runs = len(x)
    counts = generator.multinomial(runs, np.full(runs, 1 / runs), resamples).astype(float)
    starts = np.repeat(best[None], resamples, 0)
    lower = starts.copy()
    lower[:, 0] -= DEEPER
    tries = [minimise(LAW, x, loss, start, weights=counts, tolerance=1e-7) for start in (starts, lower)]
    return np.where((tries[1][1] < tries[0][1])[:, None], tries[1][0], tries[0][0])


def _stretched(value: float, drawn: Array, freedom: int) -> Estimate:
    """The interval of a number from its resamples."""
    runs = freedom + len(LAW.numbers)
    stretch = special.stdtrit(freedom, 0.975) / special.ndtri(0.975) * np.sqrt(runs / freedom)
    low, high = value + (np.quantile(drawn, [0.025, 0.975]) - value) * stretch
    return Estimate(float(value), float(low), float(high), float("nan"), float(freedom))
