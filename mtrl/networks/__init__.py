"""Networks of the actor and the critics. A new kind is one file and one line in KINDS (and its name in the config)."""

from __future__ import annotations

from typing import Any

import torch

from mtrl.config import Config
from mtrl.networks.care import Care
from mtrl.networks.film import Film
from mtrl.networks.layers import Backend, Network
from mtrl.networks.moore import Moore
from mtrl.networks.mtmhsac import MultiHead
from mtrl.networks.mtsac import SharedHead
from mtrl.networks.paco import Paco
from mtrl.networks.soft_modularization import SoftModularization
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

KINDS: dict[str, Any] = {
    "mtmhsac": MultiHead,
    "mtsac": SharedHead,
    "sac": SharedHead,
    "soft_modularization": SoftModularization,
    "paco": Paco,
    "moore": Moore,
    "care": Care,
    "film": Film,
}


def build_actor(config: Config, generator: torch.Generator, backend: Backend) -> Network:
    """The policy network: [B, 39] -> [1, B, 8], means then log standard deviations."""
    network: Network = KINDS[config.network.actor.kind](
        members=1,
        inputs=OBSERVATION_SIZE,
        tasks=len(config.env.tasks),
        outputs=2 * ACTION_SIZE,
        shape=config.network.actor,
        head_bound=1e-3,
        generator=generator,
        backend=backend,
    )
    return network


def build_critic(config: Config, generator: torch.Generator, backend: Backend) -> Network:
    """The critic ensemble: [B, 43], action then observation, -> [E, B, O]; see agent.critic_outputs."""
    network: Network = KINDS[config.network.critic.kind](
        members=config.agent.critics,
        inputs=ACTION_SIZE + OBSERVATION_SIZE,
        tasks=len(config.env.tasks),
        outputs=config.agent.critic_outputs,
        shape=config.network.critic,
        head_bound=3e-3,
        generator=generator,
        backend=backend,
    )
    return network
