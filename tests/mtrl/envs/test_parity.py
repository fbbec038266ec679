"""The quicker layer against stock Meta-World: same physics, observations to 1e-12, rewards to 1e-10."""

import types
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from mtrl.config import EnvSettings
from mtrl.envs import VectorEnv, fast_env, parity
from mtrl.envs.goals import draw_goals
from mtrl.envs.task_env import TaskEnv
from mtrl.tasks import ALL_TASKS
from tests.mtrl.envs.reference_envs import StockEnv

STEPS = 25  # per episode; longer comparisons were run when the layer was written (docs/envs.md)
RUNS = pytest.mark.parametrize("task", ALL_TASKS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def unchecked(monkeypatch):
    """Without the check at start, which would only repeat the comparison."""
    monkeypatch.setattr(parity, "_verdict", lambda *_: b"same")


@RUNS
@pytest.mark.usefixtures("unchecked")
def test_fast_tasks_with_fresh_and_cached_resets_equal_stock(task):
    config = EnvSettings(tasks=(task,), goals_per_task=2)
    stock = StockEnv(task)
    stock.env._placed = fast_env._Placed(stock.env.model.body_pos.copy(), stock.env.model.site_pos.copy())
    fast_env._living[stock.env.fullpath] = stock.env  # compiling a model is the longest part of this test
    env = TaskEnv(config, seed=5, index=0)
    goals = draw_goals(stock.env, 5, 2)
    generator = np.random.default_rng(0)
    # the last two are cached
    for goal, act in (
        (0, expert(task)),
        (1, random),
        (0, expert(task)),
        (1, random),
    ):
        observation = stock.reset(goals[goal])
        np.testing.assert_allclose(env._reset_to(goal), observation, rtol=0, atol=1e-12)
        for _ in range(STEPS):
            action = act(observation, generator)
            observation, reward, success = stock.step(action)
            ours, our_reward, our_success = env.step(action)
            np.testing.assert_allclose(ours, observation, rtol=0, atol=1e-12)
            assert our_reward == pytest.approx(reward, rel=0, abs=1e-10)
            assert our_success == success
        np.testing.assert_array_equal(env._physics(), physics(stock.env))  # bit for bit


def expert(task):
    policy = ENV_POLICY_MAP[task]()

    def act(observation, generator):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action = policy.get_action(observation) + generator.normal(0, 0.2, 4)
        return np.clip(action, -1, 1).astype(np.float32)

    return act


def random(observation, generator):
    return generator.uniform(-1, 1, 4).astype(np.float32)


def physics(env):
    return TaskEnv._physics(types.SimpleNamespace(_env=env))


@pytest.mark.parametrize("task", ["pick-place-v3", "pick-place-wall-v3", "peg-insert-side-v3", "hammer-v3"])
def test_rewards_of_version_1_equal_stock(task):
    assert parity.difference(task, "v1", steps=STEPS) == ""


@pytest.mark.usefixtures("unchecked")
def test_an_env_that_is_dropped_frees_its_simulator():
    env = TaskEnv(EnvSettings(tasks=("push-v3",), goals_per_task=1), seed=0, index=0)
    env.reset()
    env.step(np.zeros(4, np.float32))
    simulator = weakref.ref(env._env.data)
    del env
    assert simulator() is None


def test_stock_is_stepped_where_fast_is_off():
    env = TaskEnv(EnvSettings(tasks=("push-v3",), fast=False), seed=0, index=0)
    assert type(env._env) is ALL_V3_ENVIRONMENTS["push-v3"]


def test_a_difference_is_found_and_falls_back_to_stock_with_a_warning(monkeypatch):
    monkeypatch.setattr(fast_env, "_GAUSSIAN_SCALE", 2.0)
    assert parity.difference("drawer-close-v3", "v2").startswith("reward 0")
    with pytest.warns(RuntimeWarning, match=r"drawer-close-v3 runs on stock.*reward 0"):
        assert parity.env_class("drawer-close-v3", "v2") is ALL_V3_ENVIRONMENTS["drawer-close-v3"]
    with pytest.warns(RuntimeWarning, match="runs on stock"):  # from the cache
        parity.env_class("drawer-close-v3", "v2")


def test_a_layer_that_fails_falls_back_to_stock(monkeypatch):
    monkeypatch.setattr(fast_env._FastSawyer, "_get_obs", lambda self: 1 / 0)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        VectorEnv(EnvSettings(tasks=("reach-v3",)), seed=0, workers=0).close()


@given(
    x=st.floats(-2, 2),
    lower=st.floats(-1, 1),
    width=st.floats(0, 1),
    margin=st.floats(0, 2),
    sigmoid=st.sampled_from(["long_tail", "gaussian", "hyperbolic", "linear"]),
)
def test_tolerance_equals_stock(x, lower, width, margin, sigmoid):
    arguments = (np.float64(x), (lower, lower + width), margin, sigmoid)
    assert fast_env._tolerance(*arguments) == pytest.approx(
        reward_utils.tolerance(*arguments), rel=0, abs=1e-15
    )


@pytest.mark.parametrize(("bounds", "margin"), [((1, 0), 0.1), ((0, 1), -0.1)])
def test_tolerance_refuses_what_stock_refuses(bounds, margin):
    with pytest.raises(ValueError, match=r"Lower bound|non-negative"):
        fast_env._tolerance(0.5, bounds, margin, "long_tail")


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 1e-3))
def test_quaternions_equal_scipys(quaternion):
    matrix = Rotation.from_quat(quaternion).as_matrix()
    ours = fast_env._QuickRotation.from_matrix(matrix).as_quat()
    np.testing.assert_allclose(ours, Rotation.from_matrix(matrix).as_quat(), rtol=0, atol=1e-14)


def test_what_is_no_rotation_goes_to_scipy():
    skewed = np.array([[1.0, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.1]])
    ours = fast_env._QuickRotation.from_matrix(skewed).as_quat()
    np.testing.assert_array_equal(ours, Rotation.from_matrix(skewed).as_quat())
    nothing = np.zeros((3, 3))
    try:
        expected = Rotation.from_matrix(nothing).as_quat()
    except ValueError:  # of later versions
        with pytest.raises(ValueError, match="determinant"):
            fast_env._QuickRotation.from_matrix(nothing).as_quat()
    else:
        np.testing.assert_array_equal(fast_env._QuickRotation.from_matrix(nothing).as_quat(), expected)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5))
def test_norms_equal_numpys(values):
    x = np.array(values)
    assert fast_env._norm(x) == np.linalg.norm(x)
    assert type(fast_env._norm(x)) is np.float64  # a Python float would make float32 of what it multiplies
    assert fast_env._norm(x, 1) == np.linalg.norm(x, 1)
