"""Pictures and videos of episodes; skipped where neither EGL nor OSMesa can draw."""

import numpy as np
import pytest
from PIL import Image

from mtrl.config import EnvSettings
from mtrl.envs import VectorEnv, record_video
from mtrl.envs.picture import SIZE

TASKS = ("reach-v3", "push-v3")


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    env = VectorEnv(EnvSettings(tasks=TASKS, horizon=8, goals_per_task=2, fast=False), seed=0, workers=0)
    env.reset()
    yield env
    env.close()


@pytest.fixture
def drawing(env):
    """The env, where it can be drawn."""
    try:
        env.render([0])
    except RuntimeError as error:
        pytest.skip(str(error))
    return env


def test_pictures_are_of_the_rows_asked_for_and_change_nothing(drawing):
    state = drawing.state_dict()
    expected = drawing.step(np.ones((2, 4)))[0]
    drawing.load_state_dict(state)
    push, reach = drawing.render([1, 0])
    assert push.shape == reach.shape == (SIZE, SIZE, 3)
    assert push.dtype == np.uint8
    assert (push != reach).any()
    np.testing.assert_array_equal(drawing.step(np.ones((2, 4)))[0], expected)
    assert (drawing.render([1])[0] != push).any()  # the hand moved


def test_a_video_shows_one_episode(drawing, tmp_path):
    def policy(observation):
        return np.ones((len(observation), 4))

    count = record_video(drawing, policy, tmp_path / "push.gif", row=1, every=4)
    assert count == 2  # steps 0 and 4 of 8; the last step is already the next episode
    with Image.open(tmp_path / "push.gif") as video:
        assert video.n_frames == 2
        assert video.info["duration"] == 50


@pytest.mark.parametrize(("backend", "message"), [("glfw", "needs a screen"), ("osmesa", "MUJOCO_GL=osmesa")])
def test_what_cannot_draw_says_how_to_mend_it(env, monkeypatch, backend, message):
    monkeypatch.setenv("MUJOCO_GL", backend)
    monkeypatch.setattr("mtrl.envs.picture.importlib.import_module", lambda name: 1 / 0)
    with pytest.raises(RuntimeError, match=message):
        env.render([0])
