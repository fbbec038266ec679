"""The comparison that judges EnvPool, played with this project's env in EnvPool's place."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtrl.config import EnvSettings
from mtrl.envs.task_env import TaskEnv

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from exactness import Difference, Player, Stock, Vector, compare, random, scripted

STEPS = 12


class Planted:
    """A player whose reward, observation or success is wrong by `wrong` in one step."""

    def __init__(self, player: Player, what: str, wrong: float, at: int) -> None:
        self._player, self._what, self._wrong, self._left = player, what, wrong, at

    def reset(self) -> Vector:
        return self._player.reset()

    def step(self, action: Vector) -> tuple[Vector, float, bool]:
        observation, reward, success = self._player.step(action)
        self._left -= 1
        if self._left:
            return observation, reward, success
        if self._what == "success":
            return observation, reward, not success
        if self._what == "reward":
            return observation, reward + self._wrong, success
        return observation + self._wrong * np.eye(39)[4], reward, success


@pytest.fixture(scope="module")
def ours() -> TaskEnv:
    return TaskEnv(EnvSettings(tasks=("drawer-open-v3",), goals_per_task=3), seed=5, index=0)


@pytest.fixture(scope="module")
def stock() -> Stock:
    return Stock("drawer-open-v3")


def played(stock: Stock, peer: Player) -> Difference:
    return compare("case", "peer", stock, peer, scripted("drawer-open-v3"), STEPS)


def test_our_env_does_not_differ_from_stock(stock: Stock, ours: TaskEnv) -> None:
    difference = played(stock, ours)
    assert (
        max(difference.start, difference.observation, difference.reward) < 1e-9
    )  # the goal found is rounded
    assert difference.observation_beyond_small is None
    assert difference.reward_beyond_small is None
    assert difference.success == 0
    assert difference.steps == STEPS


def test_the_goal_behind_a_first_observation_is_found(stock: Stock, ours: TaskEnv) -> None:
    for goal in range(3):
        observation = ours._reset_to(goal)
        np.testing.assert_allclose(stock.reset_to(observation), observation, rtol=0, atol=1e-12)
        np.testing.assert_allclose(stock._env._last_rand_vec, ours._goals[goal], rtol=0, atol=1e-12)


def test_a_wrong_reward_is_found_at_its_step(stock: Stock, ours: TaskEnv) -> None:
    difference = played(stock, Planted(ours, "reward", 1e-4, at=7))
    assert difference.reward == pytest.approx(1e-4, abs=1e-9)
    assert difference.reward_before == difference.reward  # the observations agree: the formula is to blame
    assert difference.reward_beyond_small == 7
    assert difference.reward_beyond_large is None
    assert difference.observation_beyond_small is None


def test_a_wrong_observation_is_found_at_its_step(stock: Stock, ours: TaskEnv) -> None:
    difference = played(stock, Planted(ours, "observation", 0.01, at=4))
    assert difference.observation == pytest.approx(0.01, abs=1e-9)
    assert difference.observation_beyond_small == difference.observation_beyond_large == 4
    assert difference.reward_beyond_small is None


def test_a_wrong_success_is_counted(stock: Stock, ours: TaskEnv) -> None:
    assert played(stock, Planted(ours, "success", 0, at=2)).success == 1


def test_a_line_says_where_the_rewards_part(stock: Stock, ours: TaskEnv) -> None:
    difference = played(stock, ours)
    line = replace(difference, reward=0.25, reward_beyond_large=31).line()
    assert "reward 2e-01 (step 31)" in line


def test_random_actions_are_the_same_each_time() -> None:
    nothing = np.zeros(39)
    first, second = random(), random()
    assert [first(nothing).tolist() for _ in range(3)] == [second(nothing).tolist() for _ in range(3)]
