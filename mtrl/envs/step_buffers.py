"""The arrays by which a vector env passes actions to its envs and gets their results, in private or shared memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any, NamedTuple

import numpy as np

from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

Array = np.ndarray[Any, Any]


class StepBuffers(NamedTuple):
    """The actions of one vector step and its results; one row per env, T rows."""

    action: Array  # float32 [T, 4]
    observation: Array  # float64 [T, 39], after autoreset
    final_observation: Array  # float64 [T, 39], the true successor of every row
    reward: Array  # float64 [T]
    episode_return: Array  # float64 [T], of the episode so far, this step included
    episode_length: Array  # int64 [T]
    episode_success: Array  # bool [T], at any step
    success: Array  # bool [T]
    terminated: Array  # bool [T]
    truncated: Array  # bool [T]
    resting: Array  # bool [T]: all planned episodes are over, and nothing in the row changes any more


_LAYOUT: dict[str, tuple[type, tuple[int, ...]]] = {
    "action": (np.float32, (ACTION_SIZE,)),
    "observation": (np.float64, (OBSERVATION_SIZE,)),
    "final_observation": (np.float64, (OBSERVATION_SIZE,)),
    "reward": (np.float64, ()),
    "episode_return": (np.float64, ()),
    "episode_length": (np.int64, ()),
    "episode_success": (np.bool_, ()),
    "success": (np.bool_, ()),
    "terminated": (np.bool_, ()),
    "truncated": (np.bool_, ()),
    "resting": (np.bool_, ()),
}
_ALIGNMENT = 64  # bytes; a cache line


def private_buffers(num_envs: int) -> StepBuffers:
    """Buffers in this process's own memory, filled with zeros."""
    return _buffers_in(bytearray(_size(num_envs)), num_envs)


def shared_file(num_envs: int) -> int:
    """The descriptor of an unnamed file, large enough for the buffers of `num_envs` envs.

    The system removes it with the last process that holds it, however processes end.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mtrl-envs")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _size(num_envs))
    return descriptor


def shared_buffers(descriptor: int, num_envs: int) -> StepBuffers:
    """The buffers in a `shared_file`, the same memory in every process."""
    return _buffers_in(mmap.mmap(descriptor, _size(num_envs)), num_envs)


def _buffers_in(memory: bytearray | mmap.mmap, num_envs: int) -> StepBuffers:
    arrays, offset = [], 0
    for dtype, shape in _LAYOUT.values():
        arrays.append(np.ndarray((num_envs, *shape), dtype, memory, offset))
        offset += _aligned(arrays[-1].nbytes)
    return StepBuffers(*arrays)


def _size(num_envs: int) -> int:
    return sum(
        _aligned(num_envs * int(np.prod(shape)) * np.dtype(dtype).itemsize)
        for dtype, shape in _LAYOUT.values()
    )


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
