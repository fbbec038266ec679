"""Short real runs, and what two of them are compared by."""

from pathlib import Path
from typing import Any

import h5py

from mtrl.config import Config
from mtrl.overrides import build_config
from mtrl.results import COORDINATES
from mtrl.train import Progress

SHORT: dict[str, Any] = {
    "env.tasks": "drawer-close-v3+reach-v3",
    "env.horizon": 20,
    "env.goals_per_task": 2,
    "agent.batch_per_task": 8,
    "network.actor.width": 8,
    "network.critic.width": 8,
    "train.vector_steps": 90,
    "train.random_steps": 30,
    "evaluate.every": 40,
    "evaluate.episodes": 1,
    "run.device": "cpu",
}


def short_config(**changes: Any) -> Config:
    return build_config("debug", SHORT | {key.replace("__", "."): value for key, value in changes.items()})


def contents(path: Path) -> dict[str, Any]:
    """Everything in a run file but the wall clocks (`timing`) and the configuration, which says where it ran."""
    with h5py.File(path) as file:
        attributes = {f"attribute {name}": value for name, value in file.attrs.items() if name != "config"}
        return attributes | {name: file[name][()].tobytes() for name in file if name not in ("timing", *DIMS)}


DIMS = ("eval", *COORDINATES)


def stop_after(seen: list[Progress], step: int) -> bool:
    return seen[-1].vector_step == step
