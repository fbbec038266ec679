"""Stock Meta-World, stepped one env at a time: the slow twin of mtrl.envs."""

from __future__ import annotations

import pickle

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task


class StockEnv:
    """Meta-World's own env of one task, its goal set through Meta-World's own `set_task`."""

    def __init__(self, task, reward_version="v2"):
        self.task = task
        self.env = ALL_V3_ENVIRONMENTS[task](reward_function_version=reward_version)

    def reset(self, goal):
        """The first observation [39] of an episode with the reset vector `goal`."""
        data = {"rand_vec": goal.copy(), "env_cls": type(self.env), "partially_observable": False}
        self.env.set_task(Task(self.task, pickle.dumps(data)))
        return self.env.reset()[0]

    def step(self, action):
        """(observation [39], reward, success) of a float32 action."""
        observation, reward, _, _, info = self.env.step(action.astype(np.float32))
        return observation, float(reward), bool(info["success"])
