"""Networks of the actor and the critics. A new kind is one file and one line in KINDS."""

from __future__ import annotations

from typing import Literal

import torch

from mtrl.config import Config
from mtrl.networks.multi_head import MultiHead
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

KINDS = {"multi_head": MultiHead}


def build_actor(config: Config, generator: torch.Generator, backend: Literal["core", "torch"]) -> MultiHead:
    """The policy network: [B, 39] -> [1, B, 8], means then log standard deviations."""
    shape = config.network.actor
    return KINDS[shape.kind](
        members=1,
        inputs=OBSERVATION_SIZE,
        tasks=len(config.env.tasks),
        outputs=2 * ACTION_SIZE,
        width=shape.width,
        depth=shape.depth,
        head_bound=1e-3,
        generator=generator,
        backend=backend,
    )


def build_critic(config: Config, generator: torch.Generator, backend: Literal["core", "torch"]) -> MultiHead:
    """The critic ensemble: [B, 43], action then observation, -> [E, B, O]; see agent.critic_outputs."""
    shape = config.network.critic
    return KINDS[shape.kind](
        members=config.agent.critics,
        inputs=ACTION_SIZE + OBSERVATION_SIZE,
        tasks=len(config.env.tasks),
        outputs=config.agent.critic_outputs,
        width=shape.width,
        depth=shape.depth,
        head_bound=3e-3,
        generator=generator,
        backend=backend,
    )
