"""The operations of an update in closed form against those that torch counts while it trains."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mtrl.agent import Agent
from mtrl.networks import plain
from mtrl.networks.kinds import KINDS
from mtrl.overrides import build_config
from mtrl.sizing import count_parameters, flops_by_parameters, training_flops, update_flops, updates
from mtrl.systems import SYSTEMS
from tests.mtrl.agents import make_batch

TASKS = "reach-v3+push-v3+pick-place-v3"
SIZES = {"encoder_width": 10, "experts": 3}


def head_of_each_row(x: Tensor, kernel: Tensor, bias: Tensor, task: Tensor) -> Tensor:
    """`head_gather` without the heads of the other tasks, which the plain one computes and drops."""
    return torch.einsum("ebw,ebwo->ebo", x, kernel[:, task]) + bias[:, task]


def counts(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(closed form, what torch counts) of one update."""
    fixed = {
        "agent.backend": "torch",
        "agent.batch_per_task": 5,
        "env.tasks": TASKS,
        "replay.mode": "uniform",
    }
    config = build_config("paper", {**fixed, **settings})
    monkeypatch.setattr(plain, "head_gather", head_of_each_row)
    agent = Agent(config)
    with FlopCounterMode(display=False) as counter:
        agent.update(make_batch(3, 5))
    return update_flops(config), counter.get_total_flops()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("depth", [1, 3])
def test_every_system_counts_as_torch_does(system: str, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"system": system, "replay.balanced": True}
    for part, width in (("actor", 24), ("critic", 17)):
        sizes = {"width": width, "depth": depth}
        sizes |= {option: SIZES[option] for option in KINDS[system].options if option in SIZES}
        settings |= {f"network.{part}.{key}": value for key, value in sizes.items()}
    ours, torchs = counts(settings, monkeypatch)
    assert ours == torchs


@pytest.mark.parametrize(
    "settings",
    [
        {"network.critic.block": "layer_norm"},
        {"network.actor.block": "brc", "network.critic.block": "simba"},
        {"network.critic.task_embedding": 6, "network.actor.task_embedding": 4},
        {"agent.critics": 5, "agent.value": "c51", "agent.scaling": "reward", "agent.value_max": 1000.0},
    ],
)
def test_every_option_counts_as_torch_does(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"network.actor.width": 12, "network.critic.width": 9, "network.critic.depth": 2}
    ours, torchs = counts(small | settings, monkeypatch)
    assert ours == torchs


def test_of_a_wide_mlp_each_parameter_counts_20_operations_a_transition() -> None:
    """8 of the actor and 12 of the critics, up to what layers at the ends save: no gradient reaches observations."""
    config = build_config("paper", {"network.actor.width": 4096, "network.critic.width": 4096})
    rows, hidden = 1280, 2 * 4096 * 4096
    assert update_flops(config) == pytest.approx(rows * hidden * (8 + 2 * 12), rel=0.02)
    count = count_parameters(config)
    assert rows * flops_by_parameters(count.actor, count.critic) == pytest.approx(
        update_flops(config), rel=0.02
    )


def test_a_run_counts_its_updates() -> None:
    config = build_config("debug", {"train.updates_per_step": 3})
    assert updates(config) == 3 * (2_000 - 500)
    assert training_flops(config) == updates(config) * update_flops(config)
    assert updates(build_config("debug", {"train.random_steps": 5_000})) == 0
