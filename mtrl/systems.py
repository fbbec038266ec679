"""The systems that the paper compares, each as the settings in which it differs from the multi-head MLP (PAPER §1).

`system=moore` on a command line, or `"system" = ["moore", "paco"]` in a grid, sets these; a setting written beside it
wins. The paper has sizes for 10 and for 50 tasks: up to 25 tasks take those of 10, more those of 50.
"""

from __future__ import annotations

from typing import Any

from mtrl.networks.kinds import KINDS

FEW_TASKS = 25

SYSTEMS = tuple(KINDS)


def system_settings(name: str, tasks: int) -> dict[str, Any]:
    """The settings of a system for so many tasks, as {"network.actor.kind": "moore"}; actor and critic are alike.

    Raises KeyError for a name that is not one of SYSTEMS.
    """
    few = tasks <= FEW_TASKS
    sizes = KINDS[name].sizes[0 if few else 1]
    settings: dict[str, Any] = {
        f"network.{part}.{key}": value
        for part in ("actor", "critic")
        for key, value in {"kind": name, **sizes}.items()
    }
    if name == "sac":
        settings |= {"agent.shared_temperature": True, "replay.balanced": False, "replay.mode": "uniform"}
    if name == "moore":
        settings |= {"agent.temperature_lr": 1e-4} | ({"agent.log_std_min": -10.0} if few else {})
    return settings
