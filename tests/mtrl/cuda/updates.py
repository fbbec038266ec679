"""Updates on a GPU's way and on the CPU's, and what compares them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl import devices
from mtrl.agent import Agent
from mtrl.config import Config
from mtrl.overrides import build_config

PER_TASK = 16


BATCH_FIELDS = (
    "observation",
    "action",
    "reward",
    "terminated",
    "next_observation",
    "task",
    "weight",
    "discount",
)


def config(**settings: Any) -> Config:
    """section__field=value; a field without a section is the agent's."""
    overrides = {
        name.replace("__", ".") if "__" in name else f"agent.{name}": v for name, v in settings.items()
    }
    tasks = ["reach-v3", "push-v3", "drawer-open-v3"]
    widths = {"network.actor.width": 20, "network.critic.width": 24}
    exact = {"agent.products": "float32"}
    return build_config(
        "debug", {"env.tasks": tasks, "agent.batch_per_task": PER_TASK, **widths, **exact, **overrides}
    )


def batch(seed: int, tasks: int, device: torch.device) -> Any:
    generator = torch.Generator().manual_seed(seed)
    rows = tasks * PER_TASK

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    columns = (
        normal(rows, 39),
        normal(rows, 4).tanh(),
        normal(rows),
        (normal(rows) > 1).float(),
        normal(rows, 39),
        torch.arange(tasks).repeat_interleave(PER_TASK),
        normal(rows).exp(),
        normal(rows).sigmoid(),
    )
    return SimpleNamespace(**dict(zip(BATCH_FIELDS, (c.to(device) for c in columns), strict=True)))


def cpu_agent(settings: Config, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The CPU's own, while `device` may have put the GPU's way in its place."""
    with monkeypatch.context() as patch:
        patch.setattr(devices, "is_gpu", lambda device: False)
        return Agent(settings)


def noise_of(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives an agent the CPU's random numbers, which those of a GPU are not."""
    generator = torch.Generator().manual_seed(5)
    device = agent.device

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    for stream in (agent.act_noise, agent.update_noise):
        monkeypatch.setattr(stream, "draw", noise)


def assert_same_update(got: Any, expected: Any, tolerance: float) -> None:
    for name, value in expected.metrics.items():
        assert got.metrics[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    torch.testing.assert_close(got.priority.cpu(), expected.priority, rtol=tolerance, atol=tolerance)


def assert_same_networks(got: Agent, expected: Agent, tolerance: float) -> None:
    for name in ("actor_adam", "critic_adam"):
        value = getattr(expected, name).value
        torch.testing.assert_close(getattr(got, name).value.cpu(), value, rtol=0, atol=tolerance)
    torch.testing.assert_close(got.target_value.cpu(), expected.target_value, rtol=0, atol=tolerance)
    torch.testing.assert_close(got.log_temperature.cpu(), expected.log_temperature, rtol=0, atol=tolerance)
