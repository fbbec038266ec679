"""Whether the updates of a configuration can run as one fused step (csrc/critic/sac_update.h), or need autograd."""

from __future__ import annotations

from mtrl.config import Config

# The only values of these agent settings that the fused step supports.
PLAIN = {
    "value": "scalar",
    "q_clip": 0.0,
    "critic_reduction": "min",
    "loss_weights": "equal",
    "gradient_surgery": "none",
    "shared_temperature": False,
}


def why_not_fused(config: Config) -> str:
    """The settings of this configuration that the fused step does not support; empty if it supports all."""
    if config.agent.backend != "core":
        return f"the backend is {config.agent.backend}"
    for name in ("actor", "critic"):
        network = getattr(config.network, name)
        if network.kind != "mtmhsac" or network.block != "plain" or network.task_embedding:
            return f"the {name} is not a plain multi-head MLP"
    for name, value in PLAIN.items():
        if (given := getattr(config.agent, name)) != value:
            return f"agent.{name} is {given}"
    return ""
