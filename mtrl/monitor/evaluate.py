"""Evaluation: episodes of a fixed policy on envs of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl.config import Config
from mtrl.envs import VectorEnv
from mtrl.tasks import ACTION_SIZE

# observations [N, 39] of `tasks` [N], in ascending order -> actions [N, 4]
Policy = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[Any]]


class Evaluator:
    """Plays evaluation episodes. The result of a call depends only on the policy and the evaluation's number."""

    def __init__(self, config: Config) -> None:
        settings = config.evaluate
        self._episodes, self._goals = settings.episodes, config.env.goals_per_task
        self._seed = config.train.seed
        env = config.env.held_out() if settings.goals == "held_out" else config.env
        if not settings.whole_episodes:
            env = env.model_copy(update={"terminate_on_success": True})
        workers, restarts = config.run.env_workers, config.run.env_restarts
        self._envs = VectorEnv(env, seed=self._seed, workers=workers, restarts=restarts)

    def evaluate(self, policy: Policy, number: int = 0) -> dict[str, NDArray[np.float64]]:
        """Means over `episodes` episodes of each task: success (at any step), return, length; each [T].

        Evaluation `number` continues in each task's fixed order of goals where the evaluation before it stopped.
        """
        tasks = self._envs.num_envs
        goals = (number * self._episodes + np.arange(self._episodes)) % self._goals
        observation, _ = self._envs.reset(options={"goals": np.tile(goals, (tasks, 1))})
        sums = {name: np.zeros(tasks) for name in ("success", "return", "length")}
        left = np.full(tasks, self._episodes)
        action = np.zeros((tasks, ACTION_SIZE), np.float32)
        while len(playing := np.flatnonzero(left)):
            action[playing] = policy(observation[playing], playing)
            observation, _, _, _, info = self._envs.step(action)
            ended = info["_episode"]
            for name, total in sums.items():
                total[ended] += info["episode"][name][ended]
            left -= ended
        return {name: total / self._episodes for name, total in sums.items()}

    def evaluate_random(self) -> dict[str, NDArray[np.float64]]:
        """As `evaluate`, for uniform random actions: the baseline of every trained policy."""
        generator = np.random.default_rng([self._seed, 1])
        return self.evaluate(lambda observation, _: generator.uniform(-1, 1, (len(observation), ACTION_SIZE)))

    def close(self) -> None:
        """Closes the envs."""
        self._envs.close()
