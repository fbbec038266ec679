"""Rewards scaled, task by task, so that returns fit a fixed range."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class ReturnScale:
    """Keeps the largest |discounted return| of each task, over all steps of all finished episodes.

    From BRC (Nauman et al. 2025). An episode that was cut off counts as if it continued with its mean reward for ever.
    The replay holds unscaled rewards; each update divides them by `scale`, so that old ones get the newest scale too.
    """

    def __init__(self, tasks: int, discount: float) -> None:
        self._discount = discount
        self.largest = np.zeros(tasks)
        self._rewards: list[list[float]] = [[] for _ in range(tasks)]  # of the episodes under way

    def observe(self, reward: Array, terminated: Array, truncated: Array) -> None:
        """Takes one vector step's rewards and flags, [T] each."""
        for task, rewards in enumerate(self._rewards):
            rewards.append(float(reward[task]))
            if terminated[task] or truncated[task]:
                after = 0.0 if terminated[task] else float(np.mean(rewards)) / (1 - self._discount)
                self.largest[task] = max(self.largest[task], self._largest_return(rewards, after))
                rewards.clear()

    def scale(self, temperature: Tensor, target_entropy: float, limit: float) -> Tensor:
        """The divisor [T] of each task's rewards that keeps soft values within +-limit; temperature is [T].

        It is (the largest return + half of the bonus that the target entropy would earn for ever) / limit; 1 for a task
        without a finished episode or without reward.
        """
        largest = torch.as_tensor(self.largest, dtype=temperature.dtype, device=temperature.device)
        bonus = temperature * (-target_entropy / (1 - self._discount) / 2)
        scale = (largest + bonus) / limit
        return torch.where((largest > 0) & (scale > 0), scale, 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"largest": self.largest.tolist(), "rewards": [list(rewards) for rewards in self._rewards]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.largest = np.array(state["largest"])
        self._rewards = [list(rewards) for rewards in state["rewards"]]

    def _largest_return(self, rewards: list[float], after: float) -> float:
        largest = 0.0
        for reward in reversed(rewards):
            after = reward + self._discount * after
            largest = max(largest, abs(after))
        return largest
