"""Meta-World as one vector env. Importing this does not import Meta-World; making a VectorEnv does."""

import os

# With MUJOCO_GL=osmesa MuJoCo loads a renderer when it is imported; picture.py says why this process must not.
if os.environ.get("MUJOCO_GL") == "osmesa":
    os.environ["MUJOCO_GL"] = "disable"
    import mujoco  # noqa: F401

    os.environ["MUJOCO_GL"] = "osmesa"

from mtrl.envs.reward_scale import PerTaskRewardScale
from mtrl.envs.vector_env import VectorEnv
from mtrl.envs.video import record_video
from mtrl.envs.worker import WorkerDied

__all__ = ["PerTaskRewardScale", "VectorEnv", "WorkerDied", "record_video"]
