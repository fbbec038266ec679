"""The check that the quicker class of a task behaves as stock Meta-World. Done once for each set of versions.

It runs both side by side for a short episode of Meta-World's scripted policy with noise, which has contacts, grasps and
successes. The tests run the same comparison for longer (tests/mtrl/envs/test_parity.py).
"""

from __future__ import annotations

import hashlib
import platform
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from mtrl.envs import disk_cache
from mtrl.envs.goals import draw_goals

STEPS = 80
OBSERVATION_TOLERANCE = (
    1e-12  # rounding of a quaternion; an error in the layer shows at 1e-8 (float32) or more
)
REWARD_TOLERANCE = 1e-10
_SAME = b"same"


def env_class(task: str, reward_version: str) -> type:
    """The quicker class of `task` if the check found it equal to stock Meta-World; else stock, with a warning."""
    name = f"parity/{_versions()}/{task}-{reward_version}.txt"
    verdict = disk_cache.cached(name, lambda: _verdict(task, reward_version))
    stock: type = ALL_V3_ENVIRONMENTS[task]
    if verdict != _SAME:
        message = f"{task} runs on stock Meta-World, slower: the quicker layer differs ({verdict.decode()})"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return stock
    return _fast(stock)


def make_env(cls: type, reward_version: str) -> Any:
    """An env of class `cls` whose observations show the goal. Set its `_last_rand_vec` (the goal) before a reset."""
    env: Any = cls(reward_function_version=reward_version)
    env._set_task_called = True
    env._partially_observable = False
    vars(env).pop("sawyer_observation_space", None)  # cached while the goal was hidden
    return env


def difference(task: str, reward_version: str, *, steps: int = STEPS, seed: int = 0) -> str:
    """How the quicker class differs from stock in an episode of `steps` steps; empty if it does not."""
    from metaworld.policies import ENV_POLICY_MAP

    cls = ALL_V3_ENVIRONMENTS[task]
    stock, fast = make_env(cls, reward_version), make_env(_fast(cls), reward_version)
    policy, generator = ENV_POLICY_MAP[task](), np.random.default_rng(seed)
    (goal,) = draw_goals(stock, seed, 1)
    for env in (stock, fast):
        env._last_rand_vec = goal.copy()
    observation, other = stock.reset()[0], fast.reset()[0]
    for step in range(steps):
        if not np.allclose(observation, other, rtol=0, atol=OBSERVATION_TOLERANCE):
            return f"observation {step}: {np.abs(observation - other).max():.1e} apart"
        action = _noisy(policy, observation, generator)
        observation, reward, _, _, info = stock.step(action)
        other, other_reward, _, _, other_info = fast.step(action)
        if not abs(float(reward) - float(other_reward)) <= REWARD_TOLERANCE:
            return f"reward {step}: {float(reward)!r} and {float(other_reward)!r}"
        if bool(info["success"]) != bool(other_info["success"]):
            return f"success {step}: {info['success']} and {other_info['success']}"
    return ""


def _fast(stock: type) -> type:
    from mtrl.envs.fast_env import fast_class

    return fast_class(stock)


def _verdict(task: str, reward_version: str) -> bytes:
    try:
        return difference(task, reward_version).encode() or _SAME
    except Exception as error:  # another version of Meta-World may lack what the layer builds on
        return f"{type(error).__name__}: {error}".encode()


def _noisy(policy: Any, observation: Any, generator: np.random.Generator) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the policies say that their actions will be clipped
        action = policy.get_action(observation)
    return np.clip(action + generator.normal(0, 0.3, 4), -1, 1).astype(np.float32)


@cache
def _versions() -> str:
    """A short hash of everything that the comparison depends on."""
    packages = [f"{name} {version(name)}" for name in ("metaworld", "mujoco", "gymnasium", "numpy", "scipy")]
    layer = Path(__file__).with_name("fast_env.py").read_text()
    parts = [platform.machine(), platform.python_version(), *packages, layer]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
