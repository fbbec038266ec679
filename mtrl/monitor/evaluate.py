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
        self._copies = min(settings.envs_per_task, settings.episodes)
        self._envs = VectorEnv(
            env,
            seed=self._seed,
            workers=config.run.env_workers,
            restarts=config.run.env_restarts,
            copies=self._copies,
        )

    def evaluate(self, policy: Policy, number: int = 0) -> dict[str, NDArray[np.float64]]:
        """Means over `episodes` episodes of each task: success (at any step), return, length; each [T].

        Evaluation `number` continues in each task's fixed order of goals where the evaluation before it stopped.
        """
        rows, copies = self._envs.num_envs, self._copies  # row i is of task i // copies
        episodes = np.arange(self._episodes)
        plan = np.full((copies, -(-self._episodes // copies)), -1)  # the envs of a task take turns
        plan[episodes % copies, episodes // copies] = (number * self._episodes + episodes) % self._goals
        goals = np.tile(plan, (rows // copies, 1))
        observation, _ = self._envs.reset(options={"goals": goals})
        played = {name: np.zeros(goals.shape) for name in ("success", "return", "length")}
        over, wanted = np.zeros(rows, np.int64), (goals >= 0).sum(1)
        action = np.zeros((rows, ACTION_SIZE), np.float32)
        while len(playing := np.flatnonzero(over < wanted)):
            action[playing] = policy(observation[playing], playing // copies)
            observation, _, _, _, info = self._envs.step(action)
            (ended,) = np.nonzero(info["_episode"])
            for name, kept in played.items():
                kept[ended, over[ended]] = info["episode"][name][ended]
            over[ended] += 1
        return {name: self._means(kept) for name, kept in played.items()}

    def _means(self, played: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means [T] over the episodes of each task, added in the order of its goals, however many envs played them."""
        by_task = played.reshape(-1, self._copies, played.shape[1]).swapaxes(1, 2)
        in_order = by_task.reshape(len(by_task), -1)[:, : self._episodes]
        means: NDArray[np.float64] = in_order.cumsum(1)[:, -1] / self._episodes
        return means

    def evaluate_random(self) -> dict[str, NDArray[np.float64]]:
        """As `evaluate`, for uniform random actions: the baseline of every trained policy."""
        generator = np.random.default_rng([self._seed, 1])
        return self.evaluate(lambda observation, _: generator.uniform(-1, 1, (len(observation), ACTION_SIZE)))

    def close(self) -> None:
        """Closes the envs."""
        self._envs.close()
