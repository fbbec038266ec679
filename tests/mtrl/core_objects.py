"""Objects of the core for tests that call it without `mtrl.replay`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mtrl import _core

SHAPE: dict[str, Any] = {
    "tasks": 2,
    "capacity": 8,
    "observation": 3,
    "action": 2,
    "frame": 0,
    "mode": "prioritized",
    "alpha": 0.6,
    "beta": 0.4,
    "normalization": "batch",
    "n_step": 1,
    "discount": 0.99,
    "seed": 0,
    "instruction_set": "auto",
    "folder": "",
    "next": 0,
}


def outputs(rows: int, observation: int = 3, action: int = 2, next: int = 0) -> Any:
    """A `ReplayOutputs` and what it writes to."""
    widths = (observation, action, 1, 1, next or observation, 2, 1, 2, 1)
    memory = np.zeros(4 * rows * sum(widths) + 8 * len(widths), np.uint8)
    block, at, tensors = torch.from_numpy(memory), 0, []
    for place, width in enumerate(widths):
        column = block[at : at + 4 * rows * width]
        at += -(-4 * rows * width // 8) * 8
        column = column.view(torch.int64) if place in (5, 7) else column.view(torch.float32)
        tensors.append(column.view(rows, -1) if place in (0, 1, 4) else column)
    return _core.ReplayOutputs(memory, rows, observation, action, next, tuple(tensors))


def in_child(act: Callable[[], object]) -> None:
    """Runs `act` in a forked child, which is killed where it hangs."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler in Python would wait for what hangs
        signal.alarm(60)
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
