"""The transitions on which a run's plasticity is measured from its first evaluation to its last."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.config import Config
from mtrl.replay import Batch

Array = NDArray[Any]


class FixedBatch:
    """Transitions of evenly spaced vector steps, from the run's start to its first evaluation after an update.

    There are `plasticity.batch_per_task` of every task, or fewer if there are fewer steps. Copied from the env stream,
    so the replay's sampling and priorities are unaffected. Always one-step, even when `replay.n_step` is above 1.
    """

    def __init__(self, config: Config) -> None:
        learning = (
            s for s in config.evaluate.steps(config.train.vector_steps) if s > config.train.random_steps
        )
        self._until = next(learning, config.train.vector_steps)
        self._rows = min(config.plasticity.batch_per_task, self._until)
        self._discount = config.agent.discount
        self._kept: list[list[Array]] = []

    def offer(self, vector_step: int, *transition: Array) -> None:
        """Keeps a vector step's transitions if it is one of the evenly spaced steps.

        transition: observation, action, reward, terminated and next observation, [T, ...] each. vector_step counts
        from 0.
        """
        if vector_step < self._until and self._place(vector_step + 1) > self._place(vector_step):
            self._kept.append([np.asarray(column, np.float32).copy() for column in transition])

    def batch(self, device: torch.device) -> Batch:
        """The kept transitions on `device`, ordered by task, with weights 1 and ids -1."""
        columns = (np.stack(column, axis=1) for column in zip(*self._kept, strict=True))  # [T, rows, ...]
        flat = [torch.from_numpy(column.reshape(-1, *column.shape[2:])).to(device) for column in columns]
        observation, action, reward, terminated, next_observation = flat
        tasks = len(self._kept[0][0])
        return Batch(
            observation=observation,
            action=action,
            reward=reward,
            terminated=terminated,
            next_observation=next_observation,
            task=torch.arange(tasks, device=device).repeat_interleave(len(self._kept)),
            weight=torch.ones_like(reward),
            id=torch.full_like(reward, -1, dtype=torch.int64),
            discount=torch.full_like(reward, self._discount),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [list(transition) for transition in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept = [list(transition) for transition in state["kept"]]

    def _place(self, steps: int) -> int:
        """How many of the first `steps` vector steps are kept."""
        return steps * self._rows // self._until
