"""Configurations with a name: `preset=brc` on a command line. Each holds only what differs from the defaults."""

from __future__ import annotations

from typing import Any

PAPER: dict[str, Any] = {}  # the defaults of mtrl/config.py are the paper's
DEBUG: dict[str, Any] = {
    "env": {"tasks": ("drawer-close-v3",), "horizon": 200, "goals_per_task": 10},
    "replay": {"capacity": 10_000, "mode": "uniform"},
    "network": {"actor": {"width": 32}, "critic": {"width": 32}},
    "train": {"vector_steps": 2_000, "random_steps": 500},
    "evaluate": {"every": 1_000, "episodes": 5},
}
# After Nauman et al. 2025; docs/guide.md lists the differences. Gradients are not clipped.
BRC: dict[str, Any] = {
    "env": {"tasks": "MT50", "horizon": 200},
    "replay": {"mode": "uniform"},
    "agent": {
        "batch": 1024,
        "value": "c51",
        "critic_reduction": "mean",
        "scaling": "return",
        "weight_decay": 1e-4,
        "actor_clip": 1e9,
        "critic_clip": 1e9,
    },
    "network": {
        "actor": {"kind": "mtsac", "width": 256, "task_embedding": 32},
        "critic": {"kind": "mtsac", "width": 4096, "depth": 2, "block": "brc", "task_embedding": 32},
    },
    "train": {"vector_steps": 1_000_000, "updates_per_step": 2},
}
SIMBA: dict[str, Any] = {  # the sizes and the weight decay of Lee et al. 2024, everything else the paper's
    "agent": {"weight_decay": 1e-2},
    "network": {
        "actor": {"width": 128, "depth": 1, "block": "simba"},
        "critic": {"width": 512, "depth": 2, "block": "simba"},
    },
}
PRESETS: dict[str, dict[str, Any]] = {"paper": PAPER, "debug": DEBUG, "brc": BRC, "simba": SIMBA}
