"""Synthetic sweeps, and the slow and obvious twins of the analysis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtrl.config import Config
from mtrl.overrides import build_config
from mtrl.results import PLASTICITY, Divergence
from mtrl.run_writer import RunFileWriter

DIVERGED = Divergence(1_200, "q_mean", -12_000.0, 10_000.0)
RUN_METRICS = ("critic_loss", "dormant_critic", "dormant_actor", "srank_critic_1")


def config_of(
    tasks: str = "drawer-close-v3+reach-v3", width: int = 16, seed: int = 0, **overrides: Any
) -> Config:
    """A small configuration; `network__actor__width=8` overrides `network.actor.width`."""
    known = {
        "env.tasks": tasks,
        "network.actor.width": width,
        "network.critic.width": width,
        "train.seed": seed,
        "train.vector_steps": 2_000,
        "evaluate.every": 500,
        "evaluate.episodes": 20,
    }
    return build_config(
        "debug", known | {name.replace("__", "."): value for name, value in overrides.items()}
    )


def write_run(
    path: Path,
    config: Config,
    *,
    success: Iterable[float] = (0.1, 0.4, 0.7, 0.9),
    random_success: float = 0.2,
    run_metrics: tuple[str, ...] = RUN_METRICS,
    parameters: Mapping[str, int] | None = None,
    metrics: Mapping[str, float] | None = None,
    layers: int = 0,
    products: str = "float32",
) -> Path:
    """A run file whose evaluation e has `success[e]` on every task, plus 0.001 times the task's number.

    `metrics` has the values of run metrics at every evaluation; the others only tell the files apart. With `layers`
    there are arrays of plasticity, whose numbers tell their places apart.
    """
    tasks = len(config.env.tasks)
    width = config.network.critic.width
    sizes = {"actor": 3 * width**2, "critic": 6 * width**2, "target": 6 * width**2, "total": 9 * width**2}
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = RunFileWriter.create(
        path,
        config,
        run_metrics=run_metrics,
        parameters=parameters or sizes,
        code_version="test",
        products=products,
        layers=layers,
    )
    lengths = {
        "batch": 2,
        "network": 2,
        "layer": layers,
        "layer_metric": 2,
        "task": tasks,
        "gradient_metric": 3,
    }
    shapes = {name: [lengths[axis] for axis in axes] for name, axes in PLASTICITY.items() if layers}
    writer.write_random_policy({"success": np.full(tasks, random_success), "return": np.full(tasks, 1.0)})
    for number, value in enumerate(success):
        writer.write_evaluation(
            (number + 1) * config.evaluate.every * tasks,
            {"success": value + 0.001 * np.arange(tasks), "return": np.full(tasks, 100 * value)},
            dict.fromkeys(run_metrics, 0.01 * number + width) | dict(metrics or {}),
            {"wall_seconds": float(number)},
            {name: number + width + np.arange(np.prod(s)).reshape(s) for name, s in shapes.items()},
        )
    writer.close()
    return path


def write_sweep(root: Path, configs: Iterable[Config], **options: Any) -> list[Path]:
    return [write_run(root / "cells" / config.run_id / "run.h5", config, **options) for config in configs]
