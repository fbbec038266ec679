"""One Meta-World task: goals drawn by its own generator or planned, episode statistics, full state save and restore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from mtrl.config import EnvSettings
from mtrl.envs.goals import goals
from mtrl.envs.parity import env_class, make_env
from mtrl.envs.picture import Camera, Picture

Observation = np.ndarray[Any, np.dtype[np.float64]]
Action = np.ndarray[Any, np.dtype[np.float32]]

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the simulation depends on, warm starts included
_REMEMBERED = 200  # at most so many goals' starts are kept per env, 6 KB each
# Made once with the env and never changed by stepping or resetting.
_FIXED = {"init_qpos", "init_qvel", "hand_low", "hand_high", "mocap_low", "mocap_high"}


class _Start(NamedTuple):
    """The state after a reset to one goal. It does not depend on what came before the reset."""

    observation: Observation
    physics: Observation
    body_pos: Observation
    site_pos: Observation
    attributes: dict[str, Any]
    live: dict[str, Observation]


class TaskEnv:
    """Steps one task. `length`, `episode_return` and `episode_success` describe the episode so far.

    `resting` is true once all planned episodes are over; the env must not be stepped then.
    """

    def __init__(self, config: EnvSettings, *, seed: int, index: int) -> None:
        """The task `config.tasks[index]`. The generator follows from `seed` and `index`."""
        self.task, self._config, self._index = config.tasks[index], config, index
        # a task that comes again has the goals of the next seed
        self._copy = config.tasks[:index].count(self.task)
        fast, stock = config.fast, ALL_V3_ENVIRONMENTS[self.task]
        cls = env_class(self.task, config.reward_version) if fast else stock
        self._env = make_env(cls, config.reward_version)
        self._seed: int | None = None
        self._camera: Camera | None = None
        self._planned: list[int] | None = None  # goals of the episodes to come; None: each is drawn
        self.resting = False
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Makes this env equal to a new one with `seed`; it needs a reset."""
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, self._index))))
        if seed != self._seed:
            first, count = self._config.first_goal, self._config.goals_per_task
            self._goals = goals(self._env, self.task, seed + self._copy, first + count)[first:]
            self._starts: dict[int, _Start] = {}
            self._seed = seed

    def plan(self, goals: Sequence[int] | None) -> None:
        """The coming episodes play these goals (their numbers) in turn, then the env rests. None: goals are drawn."""
        self._planned = None if goals is None else list(goals)
        self.resting = False

    def reset(self) -> Observation:
        """The first observation [39] of the next episode."""
        if self._planned is None:
            return self._reset_to(int(self._generator.integers(len(self._goals))))
        return self._reset_to(self._planned.pop(0))

    def end_episode(self) -> Observation | None:
        """The first observation [39] of the next episode; None if no episode is planned any more: the env rests."""
        self.resting = self._planned == []
        return None if self.resting else self.reset()

    def step(self, action: Action) -> tuple[Observation, float, bool]:
        """The next observation [39], the reward and the success after `action` [4] in [-1, 1]."""
        observation, reward, _, _, info = self._env.step(action)
        success = bool(info["success"])
        self.length += 1
        self.episode_return += float(reward)
        self.episode_success |= success
        return observation, float(reward), success

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, as numbers, strings and arrays."""
        return {
            "generator": self._generator.bit_generator.state,
            "goal": self._goal,
            "planned": None if self._planned is None else list(self._planned),
            "resting": self.resting,
            "episode": (self.length, self.episode_return, self.episode_success),
            "physics": self._physics(),
            "attributes": self._attributes(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues bit for bit where `state_dict` was taken. Task, seed and configuration must match."""
        self._reset_to(state["goal"])  # the model and all that looks into the simulator follow from the goal
        vars(self._env).update(_copies(state["attributes"]))
        self._set_physics(state["physics"])
        self._generator.bit_generator.state = state["generator"]
        self.length, self.episode_return, self.episode_success = state["episode"]
        self.plan(state.get("planned"))
        self.resting = state.get("resting", False)

    def picture(self) -> Picture:
        """A picture, uint8 [size, size, 3] (mtrl/envs/picture.py). Raises RuntimeError if this machine cannot draw."""
        if self._camera is None:
            self._camera = Camera(self._env.model)
        model = self._env.model
        return self._camera.picture(model.body_pos, model.site_pos, self._physics())

    def close(self) -> None:
        """Closes the env and its camera."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self._env.close()

    def _reset_to(self, goal: int) -> Observation:
        """Resets to a goal. Meta-World's reset simulates 500 steps, so the state after it is kept for the next time."""
        self._goal = goal
        self.length, self.episode_return, self.episode_success = 0, 0.0, False
        start = self._starts.get(goal)
        if start is None:
            return self._reset_afresh(goal)
        self._restore(start)
        return start.observation

    def _reset_afresh(self, goal: int) -> Observation:
        self._env._last_rand_vec = self._goals[goal].copy()  # a copy: some tasks keep views of it
        observation: Observation = self._env.reset()[0]
        if len(self._starts) < _REMEMBERED:
            self._starts[goal] = self._start(observation)
        return observation

    def _start(self, observation: Observation) -> _Start:
        model = self._env.model
        live = {name: value for name, value in vars(self._env).items() if _is_live(value)}
        positions = model.body_pos.copy(), model.site_pos.copy()
        return _Start(observation.copy(), self._physics(), *positions, self._attributes(), live)

    def _restore(self, start: _Start) -> None:
        model = self._env.model
        model.body_pos[:], model.site_pos[:] = start.body_pos, start.site_pos
        vars(self._env).update(**_copies(start.attributes), **start.live)
        self._set_physics(start.physics)

    def _physics(self) -> Observation:
        state = np.empty(mujoco.mj_stateSize(self._env.model, _PHYSICS))
        mujoco.mj_getState(self._env.model, self._env.data, state, _PHYSICS)
        return state

    def _set_physics(self, state: Observation) -> None:
        model, data = self._env.model, self._env.data
        mujoco.mj_setState(model, data, state, _PHYSICS)
        mujoco.mj_forward(model, data)  # positions that may be read before the next step
        mujoco.mj_setState(model, data, state, _PHYSICS)  # mj_forward moved the solver's warm start

    def _attributes(self) -> dict[str, Any]:
        """The env's own variables that are plain values: previous frame, targets, reward margins, flags."""
        return _copies({name: value for name, value in vars(self._env).items() if _is_state(name, value)})


def _is_state(name: str, value: Any) -> bool:
    if name in _FIXED or _is_live(value):
        return False
    return value is None or isinstance(value, bool | int | float | str | np.generic | np.ndarray)


def _is_live(value: Any) -> bool:
    """Whether an array looks into the simulator's memory (as `init_left_pad` does) and so moves with it."""
    if not isinstance(value, np.ndarray):
        return False
    while isinstance(value.base, np.ndarray):
        value = value.base
    return value.base is not None


def _copies(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in values.items()}
