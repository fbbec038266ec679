"""Several task envs stepped one after the other in one process, with automatic resets in the same step."""

from __future__ import annotations

import ctypes
import warnings
from contextlib import suppress
from typing import Any

import mujoco

from mtrl.config import EnvSettings
from mtrl.envs.step_buffers import Array, StepBuffers
from mtrl.envs.task_env import TaskEnv


class EnvGroup:
    """The envs of some rows of a vector env; actions and results are in those rows of the buffers."""

    def __init__(
        self, config: EnvSettings, *, seed: int, rows: list[int], buffers: StepBuffers, copies: int = 1
    ) -> None:
        """`rows` are rows of `buffers`; each task of `config.tasks` has `copies` of them."""
        self._config, self._buffers = config, buffers
        self._envs = {row: TaskEnv(config, seed=seed, index=row // copies) for row in rows}
        _return_free_memory()
        if mujoco.get_mju_user_warning() is None:
            mujoco.set_mju_user_warning(_warn)

    def reset(self, seed: int | None, goals: Array | None = None) -> None:
        """Starts an episode in every env; with a seed, as if the envs had just been made with it.

        With goals [T, n], row i plays an episode to each of `goals[i]` in turn, and then rests; -1 is no goal.
        """
        for row, env in self._envs.items():
            if seed is not None:
                env.reseed(seed)
            env.plan(None if goals is None else [goal for goal in goals[row].tolist() if goal >= 0])
            self._buffers.observation[row] = env.reset()
            self._buffers.resting[row] = False

    def step(self) -> None:
        """Steps every env that does not rest. An env whose episode ends is reset in the same step, or rests."""
        for row, env in self._envs.items():
            if env.resting:
                self._rest(row)
                continue
            try:
                self._step(row, env)
            except Exception as error:
                error.add_note(f"while stepping task '{env.task}', step {env.length} of its episode")
                raise

    def _step(self, row: int, env: TaskEnv) -> None:
        b = self._buffers
        observation, reward, success = env.step(b.action[row])
        terminated = success and self._config.terminate_on_success
        truncated = env.length >= self._config.horizon
        b.reward[row] = reward
        b.success[row] = success
        b.terminated[row] = terminated
        b.truncated[row] = truncated
        b.episode_return[row] = env.episode_return
        b.episode_length[row] = env.length
        b.episode_success[row] = env.episode_success
        b.final_observation[row] = observation
        following = env.end_episode() if terminated or truncated else None
        b.observation[row] = observation if following is None else following

    def _rest(self, row: int) -> None:
        b = self._buffers
        b.reward[row] = 0.0
        b.success[row] = b.terminated[row] = b.truncated[row] = False
        b.resting[row] = True

    def replay(self, actions: Array) -> None:
        """Steps n times, with `actions` [n, T, 4]. The buffers hold the results of the last step."""
        rows = list(self._envs)
        for action in actions:
            self._buffers.action[rows] = action[rows]
            self.step()

    def state_dicts(self) -> dict[int, dict[str, Any]]:
        """{row: state} of each env, with its latest observation."""
        return {
            row: {**env.state_dict(), "observation": self._buffers.observation[row].copy()}
            for row, env in self._envs.items()
        }

    def load_state_dicts(self, states: dict[int, dict[str, Any]]) -> None:
        """Loads the states that `state_dicts` gave; rows of other groups are ignored."""
        for row, env in self._envs.items():
            env.load_state_dict(states[row])
            self._buffers.observation[row] = states[row]["observation"]
            self._buffers.resting[row] = False  # the next step says whether it rests

    def pictures(self, rows: list[int]) -> dict[int, Array]:
        """{row: picture, uint8 [size, size, 3]} for those of `rows` that belong to this group."""
        return {row: env.picture() for row, env in self._envs.items() if row in rows}

    def close(self) -> None:
        """Closes the envs."""
        for env in self._envs.values():
            env.close()


def _return_free_memory() -> None:
    """Returns the memory that compiling models left on the heap, 8 MiB per model, to the system (glibc only)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _warn(text: str) -> None:
    """MuJoCo's warnings as Python's; by itself it appends them to MUJOCO_LOG.TXT in the working folder."""
    with suppress(Warning):  # no exception may cross MuJoCo's C code
        warnings.warn(f"MuJoCo: {text}", RuntimeWarning, stacklevel=2)
