"""Small replays and transitions that show where they come from."""

import numpy as np
import torch

from mtrl import config
from mtrl.replay import Batch, Replay

MODES = ("uniform", "uniform_shared", "prioritized", "prioritized_independent")


SIZES = {"observation_size": 3, "action_size": 2}


def make(mode="uniform", capacity=8, tasks=2, seed=0, **more):
    fields = {name: more.pop(name) for name in list(more) if name in config.ReplaySettings.model_fields}
    settings = config.ReplaySettings(capacity=capacity, mode=mode, **fields)
    return Replay(settings, tasks=tasks, seed=seed, **{**SIZES, "discount": 0.99, **more})


class Feed:
    """Transitions that tell where they come from: the observation holds task, time and a random number."""

    def __init__(self, tasks, observation_size=3, action_size=2, seed=0):
        self.rng, self.time = np.random.default_rng(seed), 0
        self.tasks, self.observation_size, self.action_size = tasks, observation_size, action_size
        self.observation = self.observe()

    def follow(self, observation):
        """The observation after `observation` in its episode."""
        return self.observe()

    def observe(self):
        self.time += 1
        observation = self.rng.standard_normal((self.tasks, self.observation_size))
        observation[:, 0], observation[:, 1] = np.arange(self.tasks), self.time
        return observation

    def step(self, terminated=False, truncated=False, broken=False):
        """The columns of one `add`. A broken step's next observation is not the one the next step starts from."""
        flags = [np.broadcast_to(np.asarray(flag), (self.tasks,)).copy() for flag in (terminated, truncated)]
        next_observation = self.follow(self.observation)
        columns = (
            self.observation,
            self.rng.standard_normal((self.tasks, self.action_size)),
            self.rng.standard_normal(self.tasks),
            *flags,
            next_observation,
        )
        ended = flags[0] | flags[1] | broken
        self.observation = np.where(ended[:, None], self.observe(), next_observation)
        return columns


def fill(replay, steps, feed=None, **step):
    feed = feed or Feed(len(replay.size))
    for _ in range(steps):
        replay.add(*feed.step(**step))
    return replay


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
