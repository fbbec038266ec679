"""The goals a task's resets draw from: a function of (task, seed, count) alone.

They are the first `count` goals of `metaworld.MT1(task, seed)`: a prefix of one stream per task, whatever
other tasks are in the list. Meta-World draws them from the global generator while it simulates 100 resets;
here they come from a generator of their own and no time is simulated, because no draw depends on physics.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import mujoco
import numpy as np

from mtrl.envs import disk_cache

Goals = np.ndarray[Any, np.dtype[np.float64]]


def goals(env: Any, task: str, seed: int, count: int) -> Goals:
    """[count, n] reset vectors of `task` (n is 3 or 6), from the disk cache or drawn with `env`.

    `env` is Meta-World's env of the task; it needs a reset afterwards.
    """
    name = f"goals/metaworld-{_version()}/{task}-seed{seed}-count{count}.f64"
    content = disk_cache.cached(name, lambda: draw_goals(env, seed, count).tobytes())
    return np.frombuffer(content, np.float64).reshape(count, -1).copy()


@cache
def _version() -> str:
    return version("metaworld")


def draw_goals(env: Any, seed: int, count: int) -> Goals:
    """As `goals`, drawn with `env` without the cache."""
    env.np_random = np.random.RandomState(seed)  # MT1 draws from the global generator in this state
    env.seeded_rand_vec, env._freeze_rand_vec = True, False
    env.do_simulation = lambda *_: mujoco.mj_kinematics(env.model, env.data)  # resets look at positions
    try:
        return np.array([_draw_one(env) for _ in range(count)])
    finally:
        del env.do_simulation
        env.seeded_rand_vec, env._freeze_rand_vec = False, True


def _draw_one(env: Any) -> Goals:
    env.reset()
    vector: Goals = env._last_rand_vec.copy()
    return vector
