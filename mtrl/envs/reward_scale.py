"""Rewards on one scale for all tasks, as a wrapper around a vector env."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from mtrl.envs.step_buffers import Array
from mtrl.envs.vector_env import VectorEnv

_EPSILON = 1e-8


class PerTaskRewardScale(gymnasium.vector.VectorWrapper):  # type: ignore[misc]
    """Divides each task's reward by the standard deviation of its discounted return so far.

    The return starts anew with each episode; its moments are over all steps so far (Welford), the current step
    included. info["episode"]["return"] is not scaled.
    """

    def __init__(self, env: VectorEnv, *, discount: float = 0.99) -> None:
        super().__init__(env)
        self._discount = discount
        # squares: of deviations, summed
        self._returns, self._mean, self._squares = np.zeros((3, env.num_envs))
        self._count = 0

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Array) -> None:
        """Begins a step; `step_wait` ends it."""
        self.env.step_async(actions)

    def step_wait(self) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """The result of the step begun last, as `step` gives it."""
        observation, reward, terminated, truncated, info = self.env.step_wait()
        self._returns = self._returns * self._discount + reward
        self._count += 1
        deviation = self._returns - self._mean
        self._mean = self._mean + deviation / self._count
        self._squares = self._squares + deviation * (self._returns - self._mean)
        self._returns[terminated | truncated] = 0
        return observation, reward / self.scale, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Any]:
        self._returns = np.zeros_like(self._returns)
        result: tuple[Array, Any] = self.env.reset(seed=seed, options=options)
        return result

    @property
    def scale(self) -> Array:
        """The divisor [T] of each task's rewards; 1 until there are two steps."""
        if self._count < 2:
            return np.ones_like(self._mean)
        return np.sqrt(self._squares / self._count + _EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """The env's state and the moments."""
        moments = (self._count, self._returns.copy(), self._mean.copy(), self._squares.copy())
        return {"env": self.env.state_dict(), "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues bit for bit where `state_dict` was taken."""
        self.env.load_state_dict(state["env"])
        self._count, *arrays = state["moments"]
        self._returns, self._mean, self._squares = (array.copy() for array in arrays)
