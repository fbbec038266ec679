"""One Meta-World task: goals drawn by its own generator, episode statistics, full state save and restore."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from mtrl.config import Env
from mtrl.envs.goals import goals

Observation = np.ndarray[Any, np.dtype[np.float64]]
Action = np.ndarray[Any, np.dtype[np.float32]]

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION  # what decides all further simulation, warm starts included
# Made once with the env and never changed by stepping or resetting.
_FIXED = {
    "model",
    "data",
    "mujoco_renderer",
    "init_qpos",
    "init_qvel",
    "hand_low",
    "hand_high",
    "mocap_low",
    "mocap_high",
}


class TaskEnv:
    """Steps one task. `length`, `episode_return` and `episode_success` describe the episode so far."""

    def __init__(self, task: str, config: Env, *, seed: int, index: int) -> None:
        """`index` is the task's place in the vector env; it tells the generators of one seed apart."""
        self.task, self._config, self._index = task, config, index
        self._env: Any = ALL_V3_ENVIRONMENTS[task](reward_function_version=config.reward_version)
        self._env._set_task_called = True
        self._env._partially_observable = False  # the goal is in the observation
        del self._env.sawyer_observation_space  # cached while the goal was hidden
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Makes this the env that construction with `seed` gives; it needs a reset."""
        self._goals = goals(self._env, self.task, seed, self._config.goals_per_task)
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, self._index))))

    def reset(self) -> Observation:
        """The first observation [39] of an episode whose goal is drawn anew."""
        return self._reset_to(int(self._generator.integers(len(self._goals))))

    def step(self, action: Action) -> tuple[Observation, float, bool]:
        """(true successor [39], reward, success) of `action` [4] in [-1, 1]."""
        observation, reward, _, _, info = self._env.step(action)
        success = bool(info["success"])
        self.length += 1
        self.episode_return += float(reward)
        self.episode_success |= success
        return observation, float(reward), success

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what follows, as numbers, strings and arrays."""
        return {
            "generator": self._generator.bit_generator.state,
            "goal": self._goal,
            "episode": (self.length, self.episode_return, self.episode_success),
            "physics": self._physics(),
            "attributes": {
                name: _copy(value) for name, value in vars(self._env).items() if self._is_state(name, value)
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues bit for bit where `state_dict` was taken. Task, seed and configuration must match."""
        self._reset_to(state["goal"])  # the model and all that looks into the simulator follow from the goal
        vars(self._env).update({name: _copy(value) for name, value in state["attributes"].items()})
        self._set_physics(state["physics"])
        self._generator.bit_generator.state = state["generator"]
        self.length, self.episode_return, self.episode_success = state["episode"]

    def close(self) -> None:
        self._env.close()

    def _reset_to(self, goal: int) -> Observation:
        self._goal = goal
        self.length, self.episode_return, self.episode_success = 0, 0.0, False
        self._env._last_rand_vec = self._goals[goal].copy()  # a copy: some tasks keep views of it
        observation: Observation = self._env.reset()[0]
        return observation

    def _physics(self) -> Observation:
        state = np.empty(mujoco.mj_stateSize(self._env.model, _PHYSICS))
        mujoco.mj_getState(self._env.model, self._env.data, state, _PHYSICS)
        return state

    def _set_physics(self, state: Observation) -> None:
        model, data = self._env.model, self._env.data
        mujoco.mj_setState(model, data, state, _PHYSICS)
        mujoco.mj_forward(model, data)  # positions that the next step reads before it simulates
        mujoco.mj_setState(model, data, state, _PHYSICS)  # mj_forward moved the solver's warm start

    def _is_state(self, name: str, value: Any) -> bool:
        if name in _FIXED:
            return False
        if isinstance(value, np.ndarray):
            return not _is_live(value)
        return value is None or isinstance(value, bool | int | float | str | np.generic)


def _is_live(array: np.ndarray[Any, Any]) -> bool:
    """Whether the array looks into the simulator's memory (as `init_left_pad` does) and so moves with it."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is not None


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
