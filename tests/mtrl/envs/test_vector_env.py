"""The vector env against stock Meta-World, with itself after a restore, and at its edges."""

import os
import pickle
import signal
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from mtrl.config import EnvSettings
from mtrl.envs import VectorEnv, disk_cache
from mtrl.envs.goals import goals
from mtrl.envs.worker import Worker
from mtrl.tasks import FRAME_SIZE
from tests.mtrl.envs.reference_envs import StockEnv

TASKS = ("drawer-close-v3", "push-v3", "door-open-v3")
pytestmark = pytest.mark.usefixtures("compiled_models")


@pytest.fixture
def make(made):
    """Makes vector envs and closes them after the test."""

    def make(tasks=TASKS, *, seed=3, workers=0, **fields):
        config = EnvSettings(tasks=tasks, **{"horizon": 20, "goals_per_task": 4, **fields})
        made.append(VectorEnv(config, seed=seed, workers=workers))
        return made[-1]

    return make


def rollout(env, steps, seed=0):
    """The results of `steps` random vector steps, one list of arrays per step."""
    generator = np.random.default_rng(seed)
    return [flat(env.step(random_actions(env, generator))) for _ in range(steps)]


def random_actions(env, generator):
    return generator.uniform(-1, 1, (env.num_envs, 4)).astype(np.float32)


def flat(result):
    *arrays, info = result
    episode = info["episode"]
    return [
        *arrays,
        info["success"],
        info["final_obs"],
        info["_final_obs"],
        *episode.values(),
        info["_episode"],
    ]


def assert_same(left, right):
    assert len(left) == len(right)
    for step, (a, b) in enumerate(zip(left, right, strict=True)):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=f"step {step}")


def stock_goals(task, seed, count):
    return goals(StockEnv(task).env, task, seed, count)


def test_steps_equal_stock_meta_world(make):
    env = make()
    observation, _ = env.reset()
    stock = [StockEnv(task) for task in TASKS]
    drawn = [state["goal"] for state in env.state_dict()["envs"]]
    for row, (twin, goal) in enumerate(zip(stock, drawn, strict=True)):
        first = twin.reset(stock_goals(twin.task, 3, 4)[goal])
        np.testing.assert_allclose(observation[row], first, rtol=0, atol=1e-12)
    generator = np.random.default_rng(1)
    for _ in range(20):
        actions = random_actions(env, generator)
        _, reward, _, _, info = env.step(actions)
        for row, twin in enumerate(stock):
            successor, twin_reward, success = twin.step(actions[row])
            np.testing.assert_allclose(info["final_obs"][row], successor, rtol=0, atol=1e-12)
            assert reward[row] == pytest.approx(twin_reward, abs=1e-10)
            assert info["success"][row] == success


def test_the_number_of_workers_changes_nothing(make):
    results = []
    for workers in (0, 2):
        env = make(workers=workers)
        first, _ = env.reset()
        results.append([[first], *rollout(env, 25)])
    assert_same(*results)


def test_episodes_end_at_the_horizon_and_start_again_in_the_same_step(make):
    env = make(horizon=5)
    observation, info = env.reset()
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert observation.shape == (3, 39)
    assert observation.dtype == np.float64
    assert info == {}
    total, solved = np.zeros(3), np.zeros(3, bool)
    for step in range(1, 11):
        before = observation
        observation, reward, terminated, truncated, info = env.step(np.zeros((3, 4), np.float32))
        total += reward
        solved |= info["success"]
        ends = step % 5 == 0
        assert not terminated.any()
        assert (truncated == ends).all()
        assert (info["_final_obs"] == ends).all()
        assert (info["_episode"] == ends).all()
        previous = info["final_obs"][:, FRAME_SIZE : 2 * FRAME_SIZE]
        np.testing.assert_array_equal(previous, before[:, :FRAME_SIZE])
        assert ((observation != info["final_obs"]).any(axis=1) == ends).all()
        np.testing.assert_allclose(info["episode"]["return"], total)
        assert (info["episode"]["length"] == (step - 1) % 5 + 1).all()
        np.testing.assert_array_equal(info["episode"]["success"], solved)
        if ends:
            frames = observation[:, :FRAME_SIZE], observation[:, FRAME_SIZE : 2 * FRAME_SIZE]
            np.testing.assert_array_equal(*frames)
            total[:], solved[:] = 0, False


def test_an_episode_may_end_when_the_task_is_solved(make):
    env = make(("reach-v3",), horizon=100, terminate_on_success=True)
    observation, _ = env.reset()
    for _ in range(100):
        towards = 10 * (observation[:, -3:] - observation[:, :3])
        observation, _, terminated, truncated, info = env.step(np.append(towards, [[0.0]], axis=1))
        if terminated[0]:
            break
    assert terminated[0]
    assert not truncated[0]
    assert info["success"][0]
    assert info["episode"]["success"][0]
    assert (observation != info["final_obs"]).any()


@pytest.mark.parametrize("workers", [(0, 0), (2, 0), (0, 2)])
def test_a_restored_env_continues_bit_for_bit_in_mid_episode(make, workers):
    env = make(workers=workers[0])
    env.reset()
    rollout(env, 27)
    state = pickle.loads(pickle.dumps(env.state_dict()))
    expected = rollout(env, 30, seed=1)
    other = make(workers=workers[1])
    other.reset(seed=8)
    rollout(other, 3)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.state_dict()["observation"], state["observation"])
    assert_same(expected, rollout(other, 30, seed=1))
    env.load_state_dict(state)
    assert_same(expected, rollout(env, 30, seed=1))


def test_an_env_plays_the_goals_it_is_given_and_then_rests(make):
    env = make(horizon=3)
    goals = [[2, 0], [1, 1], [3, 2]]
    observation, _ = env.reset(options={"goals": goals})
    seen = [observation[:, -3:]]
    for step in range(1, 9):
        observation, reward, _, truncated, info = env.step(np.ones((3, 4)))
        assert (info["_episode"] == (step in (3, 6))).all()
        assert (truncated == info["_episode"]).all()
        if step == 3:
            seen.append(observation[:, -3:])
        assert (reward == 0).all() == (step > 6)
    for row, task in enumerate(TASKS):
        expected = [tuple(make(TASKS).reset(options={"goals": [[g]] * 3})[0][row, -3:]) for g in goals[row]]
        assert [tuple(each[row]) for each in seen] == expected, task
    env.reset()  # goals are drawn again
    assert [ended for *_, ended in rollout(env, 7)][-2].all()


def test_an_env_restored_while_it_rests_goes_on_resting(make):
    goals = [[0, 1], [2, 3], [1, 0]]
    env, other = make(horizon=3), make(horizon=3, workers=2)
    env.reset(options={"goals": goals})
    other.reset()
    for steps in (2, 2, 3):
        rollout(env, steps)
        other.load_state_dict(env.state_dict())
        assert_same(rollout(env, 1), rollout(other, 1))


@pytest.fixture
def ending_apart(make):
    """Makes envs whose rows 0 and 2 play one episode of three steps each, and whose row 1 plays three."""
    state = make(horizon=3)
    state.reset(options={"goals": [[0], [1], [2]]})
    state = state.state_dict()
    state["envs"][1]["planned"] = [2, 3]

    def begin(**options):
        config = EnvSettings(tasks=TASKS, horizon=3, goals_per_task=4)
        env = VectorEnv(config, seed=3, **options)
        env.reset()
        env.load_state_dict(state)
        return env

    return begin


def count_steps(monkeypatch):
    """How many steps each worker was asked for, by its rows."""
    asked, begin_step = {}, Worker.begin_step

    def counting(self):
        asked[tuple(self.rows)] = asked.get(tuple(self.rows), 0) + 1
        begin_step(self)

    monkeypatch.setattr(Worker, "begin_step", counting)
    return asked


def test_a_worker_is_left_alone_once_its_envs_rest(ending_apart, monkeypatch):
    asked = count_steps(monkeypatch)
    with closing(ending_apart(workers=3)) as env, closing(ending_apart(workers=0)) as alone:
        assert_same(rollout(alone, 12), rollout(env, 12))
        # the step after its last episode clears what its rows say
        assert asked == {(0,): 4, (1,): 10, (2,): 4}
        env.reset()
        rollout(env, 1)
        assert asked == {(0,): 5, (1,): 11, (2,): 5}


def test_a_worker_that_dies_while_its_envs_rest_is_replaced(ending_apart):
    with closing(ending_apart(workers=3, restarts=1)) as env, closing(ending_apart(workers=0)) as alone:
        assert_same(rollout(alone, 5), rollout(env, 5))
        os.kill(env._workers[0].pid, signal.SIGKILL)
        os.waitid(os.P_PID, env._workers[0].pid, os.WEXITED | os.WNOWAIT)
        with pytest.warns(RuntimeWarning, match="takes over"):
            assert_same(rollout(alone, 5, seed=1), rollout(env, 5, seed=1))
        env.reset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goals": [[0], [1]]}, r"shape \(2, 1\)"),
        ({"goals": [[], [], []]}, r"shape \(3, 0\)"),
        ({"goals": [[0], [1], [4]]}, "from 0 to 3"),
        ({"goals": [[0], [1], [-1]]}, "from 0 to 3"),
        ({"goals": [[0], [1], [0.5]]}, "whole numbers"),
        ({"goal": [[0], [1], [2]]}, "no reset option 'goal'; there is: goals"),
    ],
)
def test_reset_options_that_cannot_be_played_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make().reset(options=options)


def test_a_state_of_another_configuration_is_refused(make):
    env, other = make(), make(horizon=21)
    env.reset()
    with pytest.raises(ValueError, match="another configuration"):
        other.load_state_dict(env.state_dict())
    with pytest.raises(ValueError, match="version 0"):
        env.load_state_dict({**env.state_dict(), "version": 0})


def test_goals_are_meta_worlds_and_a_prefix_whatever_the_count():
    import metaworld

    task = "lever-pull-v3"
    theirs = [pickle.loads(goal.data)["rand_vec"] for goal in metaworld.MT1(task, seed=3).train_tasks]
    np.testing.assert_array_equal(stock_goals(task, 3, 50), theirs)
    np.testing.assert_array_equal(stock_goals(task, 3, 4), theirs[:4])


def test_goals_do_not_depend_on_the_other_tasks(make):
    among_others = {tuple(goal) for goal in goals_seen(make(), row=1)}
    alone = {tuple(goal) for goal in goals_seen(make(("push-v3",)), row=0)}
    assert among_others == alone
    assert len(alone) == 4


def goals_seen(env, row):
    return [env.reset()[0][row, -3:] for _ in range(40)]


def test_a_task_named_again_has_goals_of_its_own(make):
    twice = make(("push-v3", "reach-v3", "push-v3"))
    goals = [[tuple(goal) for goal in env._goals] for env in twice._group._envs.values()]
    assert goals[0] == [tuple(goal) for goal in stock_goals("push-v3", 3, 4)]
    assert goals[2] == [tuple(goal) for goal in stock_goals("push-v3", 4, 4)]
    same = make(twice.tasks, workers=2)
    np.testing.assert_array_equal(twice.reset()[0], same.reset()[0])
    assert_same(rollout(twice, 30), rollout(same, 30))


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (3, 2), (64, 3)])
def test_without_a_number_there_is_a_worker_per_cpu_but_one(monkeypatch, cpus, workers):
    monkeypatch.setattr("mtrl.envs.vector_env.usable_cpus", lambda: cpus)
    env = VectorEnv(EnvSettings(tasks=TASKS, horizon=20, goals_per_task=1), seed=0)
    assert len(env._workers) == workers
    env.close()


def test_held_out_goals_are_others_of_the_same_stream(make):
    env = make()
    held_out = VectorEnv(env._config.held_out(), seed=3, workers=0)
    drawn = [tuple(goal) for goal in stock_goals("push-v3", 3, 8)]
    for each, expected in ((env, drawn[:4]), (held_out, drawn[4:])):
        assert [tuple(goal) for goal in each._group._envs[1]._goals] == expected
    held_out.close()


def test_a_reset_to_the_same_seed_keeps_what_was_learned_about_resets(make):
    env = make()
    env.reset()
    starts = env._group._envs[0]._starts
    env.reset(seed=3)
    assert env._group._envs[0]._starts is starts
    env.reset(seed=4)
    assert env._group._envs[0]._starts is not starts


def test_starts_are_remembered_up_to_a_number(make, monkeypatch):
    monkeypatch.setattr("mtrl.envs.task_env._REMEMBERED", 1)
    env, other = make(horizon=3), make(horizon=3)
    other.reset()
    env.reset()
    results = rollout(env, 30)
    assert len(env._group._envs[0]._starts) == 1
    monkeypatch.undo()
    assert_same(results, rollout(other, 30))


def test_a_damaged_goal_cache_is_made_again(make, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = make(("reach-v3",)).reset()[0]
    (entry,) = (tmp_path / "mtrl/goals").rglob("reach-v3*")
    whole = entry.read_bytes()
    for damaged in (b"", whole[:-1], whole[:8] + bytes([whole[8] ^ 1]) + whole[9:]):
        entry.write_bytes(damaged)
        np.testing.assert_array_equal(make(("reach-v3",)).reset()[0], first)
        assert entry.read_bytes() == whole


def test_an_unwritable_cache_is_no_error(make, tmp_path, monkeypatch):
    (tmp_path / "mtrl").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert disk_cache.cached("x/y", lambda: b"made") == b"made"
    make(("reach-v3",)).reset()


def test_reset_with_a_seed_gives_the_env_of_that_seed(make):
    env, other = make(seed=3), make(seed=4)
    env.reset()
    rollout(env, 7)
    np.testing.assert_array_equal(env.reset(seed=4)[0], other.reset()[0])
    assert_same(rollout(env, 25), rollout(other, 25))


def test_seeds_and_rows_differ(make):
    env = make(seed=3)
    assert (env.reset()[0] != env.reset(seed=4)[0]).any(axis=1).all()
    generators = [str(state["generator"]) for state in env.state_dict()["envs"]]
    assert len(set(generators)) == len(TASKS)


def test_numpys_global_generator_is_neither_read_nor_moved(make, tmp_path, monkeypatch):
    results = []
    for seed in (0, 1):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(seed)))  # so that goals are drawn each time
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        env = make()
        env.reset()
        results.append(rollout(env, 22))
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert_same(*results)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_refused_and_steps_nothing(make, bad):
    env = make()
    env.reset()
    state = env.state_dict()
    actions = np.zeros((3, 4))
    actions[1, 2] = bad
    with pytest.raises(ValueError, match=r"row 1 \(push-v3\) is not finite"):
        env.step(actions)
    expected = rollout(env, 3)
    env.load_state_dict(state)
    assert_same(expected, rollout(env, 3))


def test_actions_out_of_bounds_are_clipped(make):
    env = make()
    env.reset()
    state = env.state_dict()
    wild = flat(env.step(np.full((3, 4), 7.0)))
    env.load_state_dict(state)
    assert_same([wild], [flat(env.step(np.ones((3, 4))))])


@pytest.mark.parametrize("shape", [(3,), (2, 4), (3, 5)])
def test_actions_of_a_wrong_shape_are_refused(make, shape):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match="is needed"):
        env.step(np.zeros(shape))


def test_a_step_before_the_first_reset_is_refused(make):
    with pytest.raises(RuntimeError, match="reset the env"):
        make().step(np.zeros((3, 4)))


def test_results_are_the_callers_to_keep(make):
    env = make()
    first = env.reset()[0]
    kept = first.copy()
    second = flat(env.step(np.ones((3, 4))))
    copies = [array.copy() for array in second]
    rollout(env, 25)
    np.testing.assert_array_equal(first, kept)
    assert_same([second], [copies])


def test_importing_mtrl_envs_does_not_import_meta_world():
    code = "import sys, mtrl.envs; sys.exit(bool({'metaworld', 'mujoco', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
