"""The vector env: one env per task, stepped together, in this process or in a few worker processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from mtrl.config import EnvSettings
from mtrl.cpus import usable_cpus
from mtrl.envs.recovery import Recovery
from mtrl.envs.step_buffers import Array, private_buffers, shared_buffers, shared_file
from mtrl.envs.worker import Worker, WorkerDied
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

__all__ = ["VectorEnv", "WorkerDied"]

STATE_VERSION = 2  # of `state_dict`; version 1 has no planned goals, and is read


class VectorEnv(gymnasium.vector.VectorEnv):  # type: ignore[misc]
    """Meta-World tasks as a gymnasium vector env; row i is `tasks[i]`, T rows in all.

    An env whose episode ends is reset in the same step. A task's goals depend only on (task, seed, goals_per_task); the
    n-th repetition of a task has those of seed + n. Each env has a generator of its own, made from the seed and the
    row, which draws the goal of each reset. Results do not depend on `workers`.

    With `copies`, each task of `env.tasks` has so many rows, one after another, which are the same env.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(
        self, env: EnvSettings, *, seed: int, workers: int | None = None, restarts: int = 0, copies: int = 1
    ) -> None:
        """`workers` processes step the envs. 0 steps them in this process; None: the usable CPUs minus one, at least 1.

        At most `restarts` workers that die while they step are replaced; results are as if they had not died. The next
        death raises WorkerDied and closes the env.
        """
        self.tasks = tuple(task for task in env.tasks for _ in range(copies))
        self.num_envs = len(self.tasks)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, self.num_envs)
        self.action_space = batch(self.single_action_space, self.num_envs)
        self._config, self._seed, self._copies, self._needs_reset = env, seed, copies, True
        self._stepping = False
        self._workers: list[Worker] = []
        self._busy: list[Worker] = []  # those that take part in the step under way
        self._recovery = Recovery(restarts)
        if workers is None:
            workers = max(1, usable_cpus() - 1)
        if workers == 0:
            from mtrl.envs.env_group import EnvGroup  # imports Meta-World

            self._buffers = private_buffers(self.num_envs)
            rows = list(range(self.num_envs))
            self._group = EnvGroup(env, seed=seed, rows=rows, buffers=self._buffers, copies=copies)
        else:
            self._start_workers(min(workers, self.num_envs))

    def _start_workers(self, count: int) -> None:
        self._memory = memory = shared_file(self.num_envs)
        try:
            self._buffers = shared_buffers(memory, self.num_envs)
            for first in range(count):
                self._workers.append(self._new_worker(range(first, self.num_envs, count)))
            self._collect(self._workers)
        except BaseException:
            self.close()
            raise

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts an episode in every env. Returns (observations [T, 39], {}).

        With a seed, goals and generators become those of a vector env made with that seed. With options={"goals": [T,
        n]}, row i plays one episode to each of these goals (their numbers) in turn and draws none; -1 after its goals
        is no goal. Then it rests: it is not stepped, keeps its observation, and info["_episode"] is false.
        """
        goals = self._planned_goals(options or {})
        if seed is not None:
            self._seed = seed
        self._call("reset", seed, goals)
        self._needs_reset = False
        self._begin_recovery()
        return self._buffers.observation.copy(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Steps with `actions` [T, 4], clipped to [-1, 1]: (observations, rewards, terminated, truncated, info).

        `info["success"]`, of shape [T]: whether the task is solved in this step. `info["final_obs"]`, [T, 39]: the true
        next observation; if the row's episode ended, `info["_final_obs"]` is true and the returned observation starts
        the next episode instead. `info["episode"]`: return, length and success (at any step) of each episode so far,
        complete if `info["_episode"]`. Raises ValueError for an action that is not finite; nothing is stepped then.
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Array) -> None:
        """Begins a step and returns at once; `step_wait` ends it. Workers step in the meantime."""
        self._check_idle()
        self._take_actions(actions)
        self._stepping = True
        if not self._workers:
            return
        resting = self._buffers.resting.tolist()
        self._busy = [worker for worker in self._workers if _has_to_step(worker, resting)]
        for worker in self._busy:
            worker.begin_step()

    def step_wait(self) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """The result of the step begun last, as `step` gives it."""
        if not self._stepping:
            raise RuntimeError("no step is under way; call step_async first")
        self._stepping = False
        if self._workers:
            self._collect(self._busy, stepping=True)
        else:
            self._group.step()
        if self._recovery.remember(self._buffers.action):
            self._begin_recovery()
        return self._results()

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on: simulators, goals, generators, episodes, observation [T, 39]."""
        states = self._states()
        return {
            "version": STATE_VERSION,
            "config": self._config.model_dump_json(),
            "seed": self._seed,
            "observation": self._buffers.observation.copy(),
            "envs": [states[row] for row in range(self.num_envs)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues bit for bit where `state_dict` was taken, with any number of workers.

        Raises ValueError when the state is of another version or another env configuration.
        """
        if state["version"] not in (1, STATE_VERSION):
            raise ValueError(
                f"env state of version {state['version']}; this code reads 1 and {STATE_VERSION}"
            )
        if EnvSettings.model_validate_json(state["config"]) != self._config:
            raise ValueError(f"env state of another configuration: {state['config']}; start a new run")
        if state["seed"] != self._seed:
            self.reset(seed=state["seed"])
        self._call("load_state_dicts", dict(enumerate(state["envs"])))
        self._needs_reset = False
        self._begin_recovery()

    def render(self, rows: Sequence[int] | None = None) -> tuple[Array, ...]:
        """Pictures, uint8 [size, size, 3], of `rows`, or of all. Drawing does not change later steps.

        Raises RuntimeError, with the cure, if this machine cannot draw (docs/envs.md).
        """
        wanted = list(range(self.num_envs) if rows is None else rows)
        pictures: dict[int, Array] = {}
        for part in self._call("pictures", wanted):
            pictures |= part
        return tuple(pictures[row] for row in wanted)

    def close_extras(self, **kwargs: Any) -> None:
        for worker in self._workers:
            worker.close()
        if self._workers:
            os.close(self._memory)
        elif hasattr(self, "_group"):
            self._group.close()

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """The result of `method` of each group of envs."""
        self._check_idle()
        if not self._workers:
            return [getattr(self._group, method)(*arguments)]
        for worker in self._workers:
            worker.begin(method, *arguments)
        return self._collect(self._workers)

    def _collect(self, workers: list[Worker], *, stepping: bool = False) -> list[Any]:
        """The results of `workers`. Replaces a worker that died, if it may; any other failure closes the env."""
        results = []
        try:
            for worker in list(workers):
                try:
                    results.append(worker.result())
                except WorkerDied as death:
                    if not (stepping and self._recovery.possible()):
                        raise WorkerDied(f"{death}; {self._progress(worker)}") from None
                    self._replace(worker, death)
        except BaseException:
            self.close()
            raise
        return results

    def _progress(self, worker: Worker) -> str:
        """How far the episodes of a worker were when it answered last."""
        steps = (f"{self.tasks[row]} {self._buffers.episode_length[row]}" for row in worker.rows)
        return f"steps of their episodes done: {', '.join(steps)}"

    def _replace(self, old: Worker, death: WorkerDied) -> None:
        """Starts a new worker in place of a dead one and repeats its steps, the current one included."""
        warnings.warn(f"{death}; a new worker takes over", RuntimeWarning, stacklevel=5)
        old.close()
        new = self._new_worker(old.rows)
        self._workers[self._workers.index(old)] = new
        new.result()
        states, actions = self._recovery.take(self._buffers.action)
        for call in (("load_state_dicts", states), ("replay", actions)):
            new.begin(*call)
            new.result()

    def _new_worker(self, rows: Sequence[int]) -> Worker:
        return Worker(self._config, seed=self._seed, rows=rows, copies=self._copies, memory=self._memory)

    def _begin_recovery(self) -> None:
        if self._workers and self._recovery.possible():
            self._recovery.begin(self._states())

    def _states(self) -> dict[int, dict[str, Any]]:
        states: dict[int, dict[str, Any]] = {}
        for part in self._call("state_dicts"):
            states |= part
        return states

    def _check_idle(self) -> None:
        if self.closed:
            raise RuntimeError("the env is closed; make a new one")
        if self._stepping:
            raise RuntimeError("a step is under way; call step_wait first")

    def _planned_goals(self, options: dict[str, Any]) -> Array | None:
        if unknown := set(options) - {"goals"}:
            raise ValueError(f"no reset option '{min(unknown)}'; there is: goals")
        if "goals" not in options:
            return None
        goals, count = np.asarray(options["goals"]), self._config.goals_per_task
        if goals.ndim != 2 or len(goals) != self.num_envs or goals.shape[1] == 0:
            raise ValueError(
                f"goals have shape {goals.shape}; ({self.num_envs}, n) with n of at least 1 is needed"
            )
        known = np.issubdtype(goals.dtype, np.integer) and goals.min() >= -1 and goals.max() < count
        if not known or goals[:, 0].min() < 0:
            raise ValueError(
                f"goals must be whole numbers from 0 to {count - 1}, or -1 after the first: there are {count} of each "
                "task"
            )
        return goals

    def _take_actions(self, actions: Array) -> None:
        if self._needs_reset:
            raise RuntimeError("reset the env before its first step")
        actions = np.asarray(actions)
        if actions.shape != self._buffers.action.shape:
            raise ValueError(f"actions have shape {actions.shape}; {self._buffers.action.shape} is needed")
        if not np.isfinite(actions).all():
            row = int(np.argmin(np.isfinite(actions).all(axis=1)))
            raise ValueError(f"the action of row {row} ({self.tasks[row]}) is not finite: {actions[row]}")
        np.maximum(actions, -1.0, out=self._buffers.action, casting="same_kind")
        np.minimum(self._buffers.action, 1.0, out=self._buffers.action)

    def _results(self) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        b = self._buffers
        ended = b.terminated | b.truncated
        episode = {
            "return": b.episode_return.copy(),
            "length": b.episode_length.copy(),
            "success": b.episode_success.copy(),
        }
        info = {
            "success": b.success.copy(),
            "final_obs": b.final_observation.copy(),
            "_final_obs": ended,
            "episode": episode,
            "_episode": ended.copy(),
        }
        return b.observation.copy(), b.reward.copy(), b.terminated.copy(), b.truncated.copy(), info


def _has_to_step(worker: Worker, resting: list[bool]) -> bool:
    """Whether an env of the worker plays, or the worker died and has to be replaced."""
    return not all(resting[row] for row in worker.rows) or not worker.lives()
