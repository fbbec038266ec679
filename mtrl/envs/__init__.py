"""Meta-World as one vector env. Importing this does not import Meta-World; making a VectorEnv does."""

from mtrl.envs.reward_scale import PerTaskRewardScale
from mtrl.envs.vector_env import VectorEnv
from mtrl.envs.video import record_video
from mtrl.envs.worker import WorkerDied

__all__ = ["PerTaskRewardScale", "VectorEnv", "WorkerDied", "record_video"]
