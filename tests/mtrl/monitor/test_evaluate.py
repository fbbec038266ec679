"""Evaluations: which goals they play, when an episode ends, which envs are stepped."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mtrl.config import Config
from mtrl.envs.task_env import TaskEnv
from mtrl.monitor.evaluate import Evaluator
from mtrl.overrides import build_config

TASKS = ("reach-v3", "push-v3", "drawer-close-v3")
SOLVED = 0  # by `reach`, in some 30 steps; the others never
HORIZON = 80


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Evaluator] = []

    def make(**changes: Any) -> Evaluator:
        made.append(Evaluator(config(**changes)))
        return made[-1]

    yield make
    for evaluator in made:
        evaluator.close()


def config(**changes: Any) -> Config:
    small = {"env.tasks": "+".join(TASKS), "env.horizon": HORIZON, "env.goals_per_task": 4}
    small |= {"evaluate.episodes": 3, "run.env_workers": 0}
    return build_config("debug", small | {key.replace("__", "."): value for key, value in changes.items()})


class Reach:
    """Moves towards the goal in reach-v3 and stands still elsewhere; notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.goals: dict[int, list[tuple[float, ...]]] = {row: [] for row in range(len(TASKS))}

    def __call__(self, observation: NDArray[np.float64], tasks: NDArray[np.int64]) -> NDArray[np.float64]:
        self.asked.append(tuple(tasks.tolist()))
        for row, goal in zip(tasks.tolist(), observation[:, -3:].tolist(), strict=True):
            if tuple(goal) not in self.goals[row][-1:]:
                self.goals[row].append(tuple(goal))
        towards = 10 * (observation[:, -3:] - observation[:, :3]) * (tasks == SOLVED)[:, None]
        return np.column_stack((towards, np.zeros(len(tasks))))


def test_an_episode_ends_at_success_and_the_score_is_that_of_whole_episodes(make: Any) -> None:
    short, whole = make().evaluate(Reach()), make(evaluate__whole_episodes=True).evaluate(Reach())
    np.testing.assert_array_equal(short["success"], [1, 0, 0])
    np.testing.assert_array_equal(whole["success"], short["success"])
    np.testing.assert_array_equal(whole["length"], HORIZON)
    np.testing.assert_array_equal(short["length"][1:], HORIZON)
    assert 5 < short["length"][SOLVED] < HORIZON - 20
    np.testing.assert_array_equal(short["return"][1:], whole["return"][1:])
    assert short["return"][SOLVED] < whole["return"][SOLVED]


def test_each_goal_is_played_once_before_any_comes_again(make: Any) -> None:
    """4 goals, 3 episodes: evaluations 0 to 3 play each goal three times, 0 and 4 the same ones."""
    evaluator, played = make(), []
    for number in (0, 1, 2, 3, 4):
        policy = Reach()
        evaluator.evaluate(policy, number)
        played.append([policy.goals[row] for row in range(len(TASKS))])
    for row in range(len(TASKS)):
        goals = [goal for evaluation in played[:4] for goal in evaluation[row]]
        assert len(set(goals[:4])) == 4
        assert goals == goals[:4] * 3
    assert played[4] == played[0]


def test_an_evaluation_does_not_depend_on_the_ones_before_it(make: Any) -> None:
    evaluator = make()
    for number in (0, 1):
        evaluator.evaluate(Reach(), number)
    expected = evaluator.evaluate(Reach(), 2)
    assert_same(make().evaluate(Reach(), 2), expected)


def test_only_envs_that_still_play_are_stepped(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: dict[str, int] = dict.fromkeys(TASKS, 0)
    step = TaskEnv.step

    def counting(self: TaskEnv, action: Any) -> Any:
        stepped[self.task] += 1
        return step(self, action)

    monkeypatch.setattr(TaskEnv, "step", counting)
    policy = Reach()
    scores = make().evaluate(policy)
    assert list(stepped.values()) == (3 * scores["length"]).round().tolist()
    assert {(0, 1, 2), (1, 2)} == set(policy.asked)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(make: Any, workers: int) -> None:
    alone, shared = make(), make(run__env_workers=workers)
    for number in (0, 1):
        assert_same(shared.evaluate(Reach(), number), alone.evaluate(Reach(), number))
    assert_same(shared.evaluate_random(), alone.evaluate_random())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("envs", [2, 3, 7])
def test_several_envs_of_a_task_share_its_episodes(make: Any, envs: int, workers: int) -> None:
    """The same scores of the same goals, in so many vector steps as the env with the most episodes takes."""
    alone, shared = make(), make(evaluate__envs_per_task=envs, run__env_workers=workers)
    for number in (0, 1):
        policy = Reach()
        assert_same(shared.evaluate(policy, number), alone.evaluate(Reach(), number))
        assert len(policy.asked) == HORIZON * -(-3 // envs)


def test_the_envs_of_a_task_play_at_once(make: Any) -> None:
    """All nine at first; at the end the six of the two tasks that are not solved, for several workers to share."""
    policy = Reach()
    make(evaluate__envs_per_task=3).evaluate(policy)
    assert policy.asked[0] == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert policy.asked[-1] == (1, 1, 1, 2, 2, 2)


@pytest.mark.parametrize("envs", [1, 2])
def test_a_dead_worker_is_replaced_in_the_middle_of_an_evaluation(make: Any, envs: int) -> None:
    expected = make().evaluate(Reach(), 1)
    evaluator = make(run__env_workers=1, run__env_restarts=1, evaluate__envs_per_task=envs)
    policy, asked = Reach(), 0

    def deadly(observation: NDArray[np.float64], tasks: NDArray[np.int64]) -> NDArray[np.float64]:
        nonlocal asked
        asked += 1
        if asked == 100:  # reach-v3 rests already
            assert SOLVED not in tasks
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            workers = [
                pid for pid in children if "worker_process" in Path(f"/proc/{pid}/cmdline").read_text()
            ]
            os.kill(int(workers[-1]), signal.SIGKILL)  # there may be another test's
        return policy(observation, tasks)

    with pytest.warns(RuntimeWarning, match="takes over"):
        assert_same(evaluator.evaluate(deadly, 1), expected)


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)
