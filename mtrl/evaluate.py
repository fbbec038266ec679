"""Evaluation: whole episodes of a fixed policy on envs of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.config import Config
from mtrl.envs import VectorEnv
from mtrl.tasks import ACTION_SIZE

Policy = Callable[[NDArray[np.float64]], NDArray[Any]]  # observations [T, 39] -> actions [T, 4]


class Evaluator:
    """Plays evaluation episodes. Each call starts from the same seed, so that it depends on the policy alone."""

    def __init__(self, config: Config) -> None:
        self._episodes = config.evaluate.episodes
        self._seed = config.train.seed
        workers, restarts = config.run.env_workers, config.run.env_restarts
        env = config.env.held_out() if config.evaluate.goals == "held_out" else config.env
        self._envs = VectorEnv(env, seed=self._seed, workers=workers, restarts=restarts)

    def evaluate(self, policy: Policy) -> dict[str, NDArray[np.float64]]:
        """Means over the first `episodes` episodes of each task: success (at any step), return, length; each [T]."""
        sums = {name: np.zeros(self._envs.num_envs) for name in ("success", "return", "length")}
        episodes = np.zeros(self._envs.num_envs, np.int64)
        observation, _ = self._envs.reset(seed=self._seed)
        while (episodes < self._episodes).any():
            observation, _, _, _, info = self._envs.step(policy(observation))
            counted = info["_episode"] & (episodes < self._episodes)
            for name, total in sums.items():
                total[counted] += info["episode"][name][counted]
            episodes += counted
        return {name: total / self._episodes for name, total in sums.items()}

    def evaluate_random(self) -> dict[str, NDArray[np.float64]]:
        """The same for uniform random actions: the line that a trained policy must rise above."""
        generator = np.random.default_rng([self._seed, 1])
        return self.evaluate(lambda observation: generator.uniform(-1, 1, (len(observation), ACTION_SIZE)))

    def close(self) -> None:
        self._envs.close()
