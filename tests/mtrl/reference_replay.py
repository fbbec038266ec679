"""The replay's slow twin: a list of tuples per task and the formulas as written. Obvious rather than fast."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np


class Transition(NamedTuple):
    observation: np.ndarray
    action: np.ndarray
    reward: np.float32
    terminated: bool
    truncated: bool
    next_observation: np.ndarray


class ReferenceReplay:
    """Holds the newest `capacity` transitions of each task, with their ids and, for mode prioritized, weights."""

    def __init__(self, capacity: int, tasks: int, alpha: float) -> None:
        self.transitions = [deque[Transition](maxlen=capacity) for _ in range(tasks)]
        self.weights = [deque[float](maxlen=capacity) for _ in range(tasks)]
        self.added = 0
        self.alpha = alpha

    def add(self, *columns: np.ndarray) -> None:
        for task, transitions in enumerate(self.transitions):
            row = [column[task] for column in columns]
            float32 = [np.array(value, np.float32) for value in row]
            transitions.append(
                Transition(float32[0], float32[1], float32[2][()], bool(row[3]), bool(row[4]), float32[5])
            )
            weights = self.weights[task]
            if len(weights) == weights.maxlen:
                weights.popleft()
            weights.append(max(weights, default=0.0) or 1.0)
        self.added += 1

    def offset(self, task: int, id: int) -> int | None:
        """The place of `id` in the task's deque; None where it was overwritten."""
        assert id >> 48 == task
        offset = (id & (1 << 48) - 1) - (self.added - len(self.transitions[task]))
        assert offset < len(self.transitions[task])
        return offset if offset >= 0 else None

    def update_priorities(self, ids: np.ndarray, priorities: np.ndarray) -> int:
        stale = 0
        for id, priority in zip(ids.tolist(), priorities.tolist(), strict=True):
            offset = self.offset(id >> 48, id)
            stale += offset is None
            if offset is not None:
                weight = 0.0 if priority == 0 else priority**self.alpha
                tiny = float(np.finfo(np.float32).tiny)
                self.weights[id >> 48][offset] = float(np.float32(max(weight, tiny if priority > 0 else 0.0)))
        return stale

    def importance_weights(self, ids: np.ndarray, beta: float) -> np.ndarray:
        """(N P(i)) ** -beta over its maximum in the batch; Schaul et al. 2016, section 3.4."""
        density = []
        for id in ids.tolist():
            weights = self.weights[id >> 48]
            density.append(len(weights) * weights[self.offset(id >> 48, id)] / sum(weights))
        weight = np.array(density) ** -beta
        return weight / weight.max()


def n_step_return(transitions: list[Transition], n: int, discount: float) -> tuple[float, float, Transition]:
    """Of the first transition: its return over at most n steps of one episode, discount ** steps, the last of them."""
    steps = [transitions[0]]
    for transition in transitions[1:n]:
        ended = steps[-1].terminated or steps[-1].truncated
        if ended or not np.array_equal(steps[-1].next_observation, transition.observation):
            break
        steps.append(transition)
    value = sum(discount**k * float(step.reward) for k, step in enumerate(steps))
    return value, discount ** len(steps), steps[-1]


def philox(seed: int, draw: int, task: int, lane: int) -> list[int]:
    """Philox4x32-10 word by word (Salmon et al. 2011)."""
    word = (1 << 32) - 1
    counter, key = [lane, task, draw & word, draw >> 32], [seed & word, seed >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            second >> 32 ^ counter[1] ^ key[0],
            second & word,
            first >> 32 ^ counter[3] ^ key[1],
            first & word,
        ]
        key = [key[0] + 0x9E3779B9 & word, key[1] + 0xBB67AE85 & word]
    return counter


def uniform_offsets(seed: int, draw: int, task: int, size: int, n: int) -> list[int]:
    """Where the uniform modes draw: lane's 64 bits, times `size`, over 2 ** 64."""
    offsets = []
    for lane in range(n):
        low, high = philox(seed, draw, task, lane // 2)[lane % 2 * 2 :][:2]
        offsets.append((low | high << 32) * size >> 64)
    return offsets


SHARED = 0xFFFFFFFF  # the "task" whose numbers uniform_shared uses
