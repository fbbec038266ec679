"""Slow: an agent learns drawer-close, whatever its updates are made with."""

from pathlib import Path

import numpy as np
import pytest

from mtrl.overrides import build_config
from mtrl.results import read_run
from mtrl.train import train


@pytest.mark.slow  # about a minute each
@pytest.mark.parametrize("backend", ["core", "torch"])
def test_drawer_close_is_learnt(backend: str, tmp_path: Path) -> None:
    settings = {
        "env.tasks": "drawer-close-v3",
        "env.horizon": 200,
        "replay.capacity": 10_000,
        "agent.backend": backend,
        "agent.batch_per_task": 128,
        "agent.initial_temperature": 0.1,
        "network.actor.width": 64,
        "network.critic.width": 64,
        "train.vector_steps": 10_000,
        "train.random_steps": 1_000,
        "evaluate.every": 5_000,
        "evaluate.episodes": 20,
        "run.device": "cpu",
    }
    assert train(build_config("debug", settings), tmp_path) == "done"
    run = read_run(tmp_path / "run.h5")
    success = run.per_task[:, list(run.metrics).index("success"), 0]
    before = run.random_policy[run.metrics.index("success")]
    assert np.all(before <= 0.6), "the random policy rarely closes a drawer"
    assert success[-1] >= 0.9, success
