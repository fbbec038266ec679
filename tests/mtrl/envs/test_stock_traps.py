"""What stock Meta-World or gymnasium get wrong for multi-task training, one named test each; and gymnasium's view."""

import os
from pathlib import Path

import gymnasium
import metaworld
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from mtrl.config import EnvSettings
from mtrl.envs import VectorEnv
from mtrl.tasks import FRAME_SIZE

TASKS = ("reach-v3", "drawer-close-v3")
pytestmark = pytest.mark.usefixtures("compiled_models")


@pytest.fixture
def make(made):
    def make(tasks=TASKS, *, seed=0, workers=0, **fields):
        config = EnvSettings(tasks=tasks, **{"horizon": 10, "goals_per_task": 6, **fields})
        made.append(VectorEnv(config, seed=seed, workers=workers))
        return made[-1]

    return make


def goals_met(env, resets=8):
    return np.array([env.reset()[0][:, -3:] for _ in range(resets)])


def test_seed_0_is_a_seed(make):
    """Stock custom-mt-envs takes 0 for no seed."""
    np.testing.assert_array_equal(goals_met(make(seed=0)), goals_met(make(seed=0)))
    assert (goals_met(make(seed=0)) != goals_met(make(seed=1))).any()


def test_the_number_of_goals_is_each_envs_own(make):
    """Stock `num_goals` changes a module's global for every env made later."""
    before = metaworld._N_GOALS
    few, many = make(goals_per_task=2), make(goals_per_task=6)
    assert len(np.unique(goals_met(few, 30)[:, 0], axis=0)) == 2
    assert len(np.unique(goals_met(many, 30)[:, 0], axis=0)) == 6
    assert before == metaworld._N_GOALS


def test_there_is_an_env_per_task(make):
    """Stock make_vec ignores num_envs."""
    env = make()
    assert env.num_envs == len(env.tasks) == len(env.reset()[0]) == 2


def test_reset_with_a_seed_fixes_the_goals(make):
    """Stock goals are fixed when the env is made, and which of them a reset takes is not seeded by reset."""
    env = make()
    met = [np.concatenate([env.reset(seed=5)[0][None, :, -3:], goals_met(env)]) for _ in range(2)]
    np.testing.assert_array_equal(*met)


def test_envs_of_one_seed_draw_differently(make):
    """All sub-envs of stock MT10, MT25 and MT50 share one seed, so they draw the same goal numbers."""
    env = make(("reach-v3", "push-v3"))
    drawn = []
    for _ in range(12):
        env.reset()
        drawn.append([state["goal"] for state in env.state_dict()["envs"]])
    assert len({tuple(row) for row in np.transpose(drawn)}) == 2


def test_one_task_resets_in_the_same_step_to_several_goals(make):
    """Stock MT1 through make_vec resets a step later, and its copies all have the same goals."""
    env = make(("reach-v3",))
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.reset()
    starts = [env.step(np.zeros((1, 4)))[0][0, -3:] for _ in range(60)][9::10]
    assert len(np.unique(starts, axis=0)) > 1


def test_every_transition_is_a_real_one(make):
    """A reset in the next step makes one bogus transition per episode, from a last to a first observation."""
    env = make()
    observation, _ = env.reset()
    generator = np.random.default_rng(0)
    for _ in range(25):
        before = observation
        observation, _, _, _, info = env.step(generator.uniform(-1, 1, (2, 4)))
        successor = info["final_obs"]
        np.testing.assert_array_equal(successor[:, FRAME_SIZE : 2 * FRAME_SIZE], before[:, :FRAME_SIZE])
        np.testing.assert_array_equal(successor[:, -3:], before[:, -3:])
        # a hand moves centimetres, not to its start
        assert np.abs(successor[:, :3] - before[:, :3]).max() < 0.05


def test_success_is_given_in_every_step(make):
    """Stock gives it in another place, `final_info`, when all episodes end at once."""
    env = make()
    env.reset()
    for _ in range(20):
        info = env.step(np.zeros((2, 4)))[4]
        assert info["success"].shape == (2,)
        assert info["success"].dtype == bool


def test_episodes_of_500_steps_follow_each_other(make):
    """Stock raises when it is stepped past 500."""
    env = make(("reach-v3",), horizon=500)
    env.reset()
    ends = [step for step in range(1, 1002) if env.step(np.zeros((1, 4)))[3][0]]
    assert ends == [500, 1000]


def test_workers_keep_to_one_thread(make):
    """Threads of busy env workers slow the learner beside them several times."""
    env = make(workers=1)
    env.reset()
    (worker,) = env._workers
    assert len(os.listdir(f"/proc/{worker.pid}/task")) == 1  # noqa: PTH208


def test_an_unstable_simulation_warns_and_leaves_no_log_file(make, tmp_path, monkeypatch):
    """MuJoCo by itself appends to MUJOCO_LOG.TXT in the working folder, from all jobs that started there."""
    env = make()
    env.reset()
    monkeypatch.chdir(tmp_path)
    env._group._envs[0]._env.data.qpos[0] = np.nan
    with pytest.warns(RuntimeWarning, match="MuJoCo: .* simulation is unstable"):
        env.step(np.zeros((2, 4)))
    assert list(tmp_path.iterdir()) == []


def test_observations_lie_in_the_space(make):
    """Stock spaces say that every goal is zero."""
    env = make()
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])


class OneTask(gymnasium.Env):
    """One row of a vector env as an env, to be looked at by gymnasium's checker."""

    def __init__(self, vector):
        self.vector = vector
        self.observation_space, self.action_space = (
            vector.single_observation_space,
            vector.single_action_space,
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        observation, _ = self.vector.reset(seed=seed, options=options)
        return observation[0], {}

    def step(self, action):
        observation, reward, terminated, truncated, _ = self.vector.step(action[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}


@pytest.mark.filterwarnings("ignore:.*spec:UserWarning", "ignore:.*infinity:UserWarning")
def test_gymnasiums_checker_passes(make):
    check_env(OneTask(make(("reach-v3",))))


def test_gymnasiums_vector_wrappers_work(make):
    wrappers = gymnasium.wrappers.vector
    env = wrappers.ClipReward(wrappers.RecordEpisodeStatistics(make(), stats_key="theirs"), max_reward=0.0)
    env.reset()
    for _ in range(10):
        _, reward, _, _, info = env.step(np.zeros((2, 4)))
        assert (reward <= 0).all()
    np.testing.assert_allclose(info["theirs"]["r"], info["episode"]["return"])
    np.testing.assert_array_equal(info["theirs"]["l"], info["episode"]["length"])


def test_paths_of_the_cache_name_versions_task_seed_and_count(make):
    make(("reach-v3",), seed=7, goals_per_task=4)
    names = [path.name for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("reach-v3*")]
    assert "reach-v3-seed7-count4.f64" in names
