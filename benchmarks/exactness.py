"""Whether an implementation of Meta-World's envs gives the observations and rewards of stock Meta-World.

EnvPool takes neither a goal nor a state. So the goal is found from its first observation: stock is reset to the vector
from which its own first observation comes closest. Then both play the same actions. What is left of a difference in the
first observation is reported, and not removed.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.types import Task
from numpy.typing import NDArray

from mtrl.envs.goals import draw_goals

Vector = NDArray[Any]
Act = Callable[[Vector], Vector]  # an observation -> an action
SMALL, LARGE = 1e-6, 1e-3
_NUDGE = 1e-6  # of a reset vector; so small that the nudged one keeps Meta-World's least distances


class Player(Protocol):
    """One task, played."""

    def reset(self) -> Vector: ...

    def step(self, action: Vector) -> tuple[Vector, float, bool]: ...


class Stock:
    """Meta-World's own env of a task, which is told its reset vector."""

    def __init__(self, task: str) -> None:
        self._task, self._env = task, ALL_V3_ENVIRONMENTS[task](reward_function_version="v2")

    def reset(self, vector: Vector) -> Vector:
        data = {"rand_vec": vector.copy(), "env_cls": type(self._env), "partially_observable": False}
        self._env.set_task(Task(self._task, pickle.dumps(data)))
        observation: Vector = self._env.reset()[0]
        return observation

    def step(self, action: Vector) -> tuple[Vector, float, bool]:
        observation, reward, _, _, info = self._env.step(action)
        return observation, float(reward), bool(info["success"])

    def reset_to(self, observation: Vector) -> Vector:
        """Resets to the vector whose first observation is closest to `observation`. Returns its first observation.

        Positions in it move as the vector does, so Newton's first step finds it and the second removes rounding.
        """
        vector = draw_goals(self._env, seed=0, count=1)[0]
        space = self._env._random_reset_space
        free = np.eye(len(vector))[space.low < space.high]
        for _ in range(2):
            first = self.reset(vector)
            slopes = np.array([(self.reset(vector + _NUDGE * axis) - first) / _NUDGE for axis in free])
            vector = vector + np.linalg.lstsq(slopes.T, observation - first, rcond=1e-6)[0] @ free
        return self.reset(vector)


@dataclass(frozen=True)
class Difference:
    """The largest differences from stock in one episode, and the first step (from 1) beyond 1e-6 and 1e-3, or None."""

    case: str
    peer: str
    steps: int
    start: float  # of the first observation
    observation: float
    observation_beyond_small: int | None
    observation_beyond_large: int | None
    reward: float
    reward_beyond_small: int | None
    reward_beyond_large: int | None
    reward_before: float  # the reward's before the observation's, the first one's included, is beyond 1e-6
    success: int  # steps in which one reports success and the other does not

    def line(self) -> str:
        return (
            f"{self.case:40} {self.peer:36} start {self.start:.0e}   observation {self.observation:.0e} "
            f"(step {self.observation_beyond_large})   reward {self.reward:.0e} (step {self.reward_beyond_large}), "
            f"before {self.reward_before:.0e}   success {self.success}"
        )


def compare(case: str, peer_name: str, stock: Stock, peer: Player, act: Act, steps: int) -> Difference:
    """One episode of `steps` steps. `act` sees stock's observations; both get its actions."""
    target = peer.reset()
    return _play(case, peer_name, stock, peer, (stock.reset_to(target), target), act, steps)


def _play(
    case: str, peer_name: str, stock: Stock, peer: Player, first: tuple[Vector, Vector], act: Act, steps: int
) -> Difference:
    observation = first[0]
    observations, rewards, successes = [_largest(*first)], [0.0], 0
    for _ in range(steps):
        action = act(observation)
        observation, reward, success = stock.step(action)
        theirs, their_reward, their_success = peer.step(action)
        observations.append(_largest(observation, theirs))
        rewards.append(abs(reward - their_reward))
        successes += success != their_success
    agreed = _beyond(observations, SMALL)
    return Difference(
        case=case,
        peer=f"{peer_name}; stock on MuJoCo {mujoco.__version__}",
        steps=steps,
        start=observations[0],
        observation=max(observations),
        observation_beyond_small=agreed,
        observation_beyond_large=_beyond(observations, LARGE),
        reward=max(rewards),
        reward_beyond_small=_beyond(rewards, SMALL),
        reward_beyond_large=_beyond(rewards, LARGE),
        reward_before=max(rewards[:agreed], default=0.0),
        success=successes,
    )


def _largest(ours: Vector, theirs: Vector) -> float:
    return float(np.abs(ours - theirs).max())


def _beyond(differences: list[float], limit: float) -> int | None:
    """The first step whose difference is larger; 0 is the reset."""
    return next((step for step, difference in enumerate(differences) if difference > limit), None)


def scripted(task: str) -> Act:
    """Meta-World's scripted policy with noise, so that the task's objects are touched."""
    policy, generator = ENV_POLICY_MAP[task](), np.random.default_rng(0)

    def act(observation: Vector) -> Vector:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action = policy.get_action(observation) + generator.normal(0, 0.2, 4)
        return np.clip(action, -1, 1).astype(np.float32)

    return act


def random() -> Act:
    """Uniform actions, which rarely touch an object."""
    generator = np.random.default_rng(0)
    return lambda _: generator.uniform(-1, 1, 4).astype(np.float32)
