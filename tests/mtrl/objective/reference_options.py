"""The options of the agent written out slowly: gradient surgery, categorical targets, the scale of returns.

Loops over tasks, rows and atoms in numpy float64; they share no code with the library.
"""

from __future__ import annotations

import math

import numpy as np


def pcgrad(gradients, order):
    """Yu et al. 2020, algorithm 1, with one order for all tasks: the mean of the projected gradients [T, P]."""
    projected = []
    for i, original in enumerate(gradients):
        g = original.copy()
        for j in order:
            product = g @ gradients[j]
            if j != i and product < 0:
                g = g - product / (gradients[j] @ gradients[j] + 1e-8) * gradients[j]
        projected.append(g)
    return np.mean(projected, axis=0)


class GradNorm:
    """Chen et al. 2018, algorithm 1, over all parameters, by Adam with its first and second moments in full."""

    def __init__(self, tasks, asymmetry, lr):
        self.weight, self.first, self.steps = np.ones(tasks), None, 0
        self.asymmetry, self.lr = asymmetry, lr
        self.mean, self.square = np.zeros(tasks), np.zeros(tasks)

    def __call__(self, losses, gradients):
        """The gradient to descend, [P]; then the weights move."""
        tasks = len(losses)
        result = sum(w * g for w, g in zip(self.weight, gradients, strict=True)) / tasks
        if self.first is None:
            self.first = np.abs(losses)
        norm = np.array([math.sqrt(g @ g) for g in gradients])
        average = np.mean(self.weight * norm)
        progress = np.abs(losses) / self.first
        slope = np.zeros(tasks)
        for t in range(tasks):
            wanted = average * (progress[t] / np.mean(progress)) ** self.asymmetry
            slope[t] = norm[t] if self.weight[t] * norm[t] > wanted else -norm[t]
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * slope
        self.square = 0.999 * self.square + 0.001 * slope**2
        step = (self.mean / (1 - 0.9**self.steps)) / (np.sqrt(self.square / (1 - 0.999**self.steps)) + 1e-8)
        self.weight = np.maximum(self.weight - self.lr * step, 1e-3)
        self.weight = self.weight * tasks / self.weight.sum()
        return result


def c51(probability, atoms, reward, follows, bonus):
    """Bellemare et al. 2017, algorithm 1, with the entropy bonus of each row: a distribution [K] for each row."""
    result = np.zeros_like(probability)
    for row in range(len(probability)):
        for mass, atom in zip(probability[row], atoms, strict=True):
            _share(result[row], atoms, reward[row] + follows[row] * (atom - bonus[row]), mass)
    return result


def two_hot(values, atoms):
    result = np.zeros((len(values), len(atoms)))
    for row, value in enumerate(values):
        _share(result[row], atoms, value, 1.0)
    return result


def _share(masses, atoms, value, mass):
    """Puts `mass` at `value` onto the atoms beside it."""
    value = min(max(value, atoms[0]), atoms[-1])
    above = next(k for k in range(1, len(atoms)) if atoms[k] >= value or k == len(atoms) - 1)
    share = (value - atoms[above - 1]) / (atoms[above] - atoms[above - 1])
    masses[above - 1] += mass * (1 - share)
    masses[above] += mass * share


def hl_gauss(values, atoms, sigma):
    """Farebrother et al. 2024, eq. 3.4, by the error function of the standard library."""
    width = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    result = np.zeros((len(values), len(atoms)))
    for row, value in enumerate(values):
        value = min(max(value, atoms[0]), atoms[-1])
        below = lambda x: 0.5 * (1 + math.erf((x - value) / (math.sqrt(2) * sigma * width)))  # noqa: E731, B023
        for k, atom in enumerate(atoms):
            result[row, k] = below(atom + width / 2) - below(atom - width / 2)
        result[row] /= result[row].sum()
    return result


def largest_return(rewards, ended, discount):
    """The largest |return| from any step of one episode that was terminated (`ended`) or cut off."""
    after = 0.0 if ended else np.mean(rewards) / (1 - discount)
    returns = []
    for i in range(len(rewards)):
        left = rewards[i:]
        returns.append(sum(discount**k * r for k, r in enumerate(left)) + discount ** len(left) * after)
    return max(abs(r) for r in returns)
