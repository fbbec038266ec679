"""Pictures and videos of episodes; skipped where neither EGL nor OSMesa can draw."""

import importlib.util
import os
import signal
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("backend", "message"),
    [("glfw", "needs a screen"), ("osmesa", "nothing here can draw .* MUJOCO_GL=osmesa")],
)
def test_what_cannot_draw_says_how_to_mend_it(env, monkeypatch, tmp_path, backend, message):
    monkeypatch.setenv("MUJOCO_GL", backend)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # an OpenGL that is broken
    (tmp_path / "OpenGL").mkdir()
    (tmp_path / "OpenGL/__init__.py").write_text("1 / 0")
    with pytest.raises(RuntimeError, match=message):
        env.render([0])


def test_a_process_that_died_drawing_is_named(drawing):
    os.kill(drawing._group._envs[0]._camera._studio.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the process that draws was killed by SIGKILL; try MUJOCO_GL"):
        drawing.render([0])


def test_the_process_that_draws_ends_with_the_last_camera(drawing):
    drawing.render()
    drawer = drawing._group._envs[0]._camera._studio._process
    assert drawer is drawing._group._envs[1]._camera._studio._process
    assert drawer.poll() is None
    drawing.close()
    assert drawer.poll() == 0


# A notebook that films a policy and exports it: a renderer's LLVM beside Triton's is a segmentation fault.
DRAW = """
import torch
from mtrl.config import EnvSettings
from mtrl.envs.task_env import TaskEnv

env = TaskEnv(EnvSettings(tasks=("reach-v3",), fast=False, goals_per_task=1), seed=0, index=0)
env.reset()
assert env.picture().any()
"""
LIBRARIES = """
import os
from pathlib import Path

def libraries(process, *words):
    lines = Path(f"/proc/{process}/maps").read_text().lower().splitlines()
    names = {line.rpartition("/")[2] for line in lines if ".so" in line}
    return {name for name in names if any(word in name for word in words)}

RENDERERS = "llvm", "mesa", "gallium", "libegl", "nvidia-gl"
[drawer] = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
assert libraries(drawer, *RENDERERS)
assert not libraries(drawer, "torch")
assert libraries("self", "torch")
assert not libraries("self", *RENDERERS), libraries("self", *RENDERERS)
"""


def run_here(script: str) -> None:
    """The script, in a process of its own, ends well."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"


@pytest.fixture(params=["", "osmesa"])
def renderer(env, monkeypatch, request):
    """Each way to draw, where it can."""
    if request.param:
        monkeypatch.setenv("MUJOCO_GL", request.param)
    try:
        env.render([0])
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("renderer")
def test_drawing_loads_no_renderer_into_this_process():
    run_here(DRAW + LIBRARIES)


@pytest.mark.usefixtures("renderer")
def test_triton_is_imported_after_a_picture_was_drawn():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (torch's CPU build has none)")
    run_here(DRAW + "import triton")
