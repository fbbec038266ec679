"""Rewards are divided by the deviation of each task's own discounted return."""

import numpy as np
import pytest

from mtrl.config import EnvSettings
from mtrl.envs import PerTaskRewardScale, VectorEnv

TASKS = ("reach-v3", "drawer-close-v3")
DISCOUNT = 0.9


@pytest.fixture
def make(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make():
        env = VectorEnv(EnvSettings(tasks=TASKS, horizon=10, goals_per_task=2, fast=False), seed=0, workers=0)
        made.append(PerTaskRewardScale(env, discount=DISCOUNT))
        return made[-1]

    return make


def run(env, steps, seed=0):
    generator = np.random.default_rng(seed)
    return [env.step(generator.uniform(-1, 1, (2, 4))) for _ in range(steps)]


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return(make):
    env, plain = make(), make().env
    env.reset()
    plain.reset()
    raw = np.array([result[1] for result in run(plain, 25)])
    scaled = run(env, 25)
    returns = np.zeros((25, 2))
    for step in range(25):
        before = returns[step - 1] if step % 10 else 0  # an episode has 10 steps
        returns[step] = DISCOUNT * before + raw[step]
        expected = returns[: step + 1].std(axis=0) if step else np.ones(2)
        np.testing.assert_allclose(
            scaled[step][1], raw[step] / np.sqrt(expected**2 + 1e-8 * bool(step)), rtol=1e-9
        )
    np.testing.assert_allclose(scaled[19][4]["episode"]["return"], raw[10:20].sum(axis=0))
    assert env.scale[0] != env.scale[1]


def test_a_restored_scale_continues_bit_for_bit(make):
    env, other = make(), make()
    env.reset()
    run(env, 13)
    state = env.state_dict()
    expected = run(env, 12, seed=1)
    other.load_state_dict(state)
    for ours, theirs in zip(run(other, 12, seed=1), expected, strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
