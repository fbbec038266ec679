"""Meta-World as one vector env. Importing this does not import Meta-World; making a VectorEnv does."""

from mtrl.envs.vector_env import VectorEnv, WorkerDied

__all__ = ["VectorEnv", "WorkerDied"]
