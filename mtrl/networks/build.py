"""The actor and the critics of a configuration."""

from __future__ import annotations

import torch

from mtrl.config import Config
from mtrl.extensions import load
from mtrl.networks.kinds import kind_of
from mtrl.networks.layers import Backend, Blueprint, Network
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE


def build_actor(config: Config, generator: torch.Generator, backend: Backend) -> Network:
    """The policy network: [B, 39] -> [1, B, 8], means then log standard deviations."""
    return _build(
        Blueprint(
            critics=1,
            inputs=OBSERVATION_SIZE,
            tasks=len(config.env.tasks),
            outputs=2 * ACTION_SIZE,
            settings=config.network.actor,
            head_bound=1e-3,
            generator=generator,
            backend=backend,
        )
    )


def build_critic(config: Config, generator: torch.Generator, backend: Backend) -> Network:
    """The critic ensemble: [B, 43], action then observation, -> [E, B, O]; see agent.critic_outputs."""
    return _build(
        Blueprint(
            critics=config.agent.critics,
            inputs=ACTION_SIZE + OBSERVATION_SIZE,
            tasks=len(config.env.tasks),
            outputs=config.agent.critic_outputs,
            settings=config.network.critic,
            head_bound=3e-3,
            generator=generator,
            backend=backend,
        )
    )


def _build(plan: Blueprint) -> Network:
    kind = plan.settings.kind
    network: Network = load(kind_of(kind).network, f"the network of kind {kind}")(plan)
    return network
