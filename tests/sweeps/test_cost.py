"""Estimates: their order, their parts, and how near they come to the runs that were measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtrl.overrides import build_config
from mtrl.sizing import update_flops, updates
from mtrl.systems import SYSTEMS
from sweeps.cost import FUSED, estimate_cost

MEASURED = json.loads((Path(__file__).parents[2] / "benchmarks/results/costs.json").read_text())


def test_wider_more_tasks_and_more_steps_cost_more() -> None:
    base = estimate_cost(build_config("paper", {}), gpu=False)
    for change in ({"network.critic.width": 1024}, {"env.tasks": "MT50"}, {"train.vector_steps": 4_000_000}):
        assert estimate_cost(build_config("paper", change), gpu=False).seconds > 1.3 * base.seconds
    assert estimate_cost(build_config("paper", {}), gpu=True).seconds < base.seconds


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row["case"])
def test_each_run_that_was_measured_took_what_is_estimated(row: dict[str, Any]) -> None:
    """The script compared with the estimates of its time, this compares with those of today."""
    estimated = estimate_cost(build_config("paper", row["settings"]), gpu=False).seconds
    assert 1 / 1.5 < row["measured_s"] / estimated < 1.5


def test_every_system_was_measured() -> None:
    assert all(any(row["case"].startswith(system) for row in MEASURED) for system in SYSTEMS)


def test_a_long_run_costs_its_products_and_its_env_steps() -> None:
    """In two million steps at MT10 the start is nothing: what remains are updates, envs and evaluations."""
    config = build_config("paper", {"network.actor.width": 1024, "network.critic.width": 1024})
    products = updates(config) * update_flops(config) / FUSED.flops
    env_steps = 10 * (2_000_000 + 101 * 50 * 500) * 1.6e-4
    assert estimate_cost(config, gpu=False).seconds == pytest.approx(products + env_steps, rel=0.05)
    by_autograd = build_config("paper", {"system": "mtsac"})
    fused = build_config("paper")
    assert estimate_cost(by_autograd, gpu=False).seconds > 1.1 * estimate_cost(fused, gpu=False).seconds


def test_further_envs_of_a_task_take_memory() -> None:
    one, five, all_ten = (
        estimate_cost(
            build_config("paper", {"evaluate.episodes": 10, "evaluate.envs_per_task": envs}), gpu=False
        )
        for envs in (1, 5, 100)
    )
    assert five.memory_mb - one.memory_mb == 40 * 22
    assert all_ten.memory_mb - one.memory_mb == 90 * 22  # no more than there are episodes


def test_whole_episodes_cost_more() -> None:
    whole = build_config("paper", {"evaluate.whole_episodes": True})
    assert estimate_cost(whole, gpu=False).seconds > estimate_cost(build_config("paper"), gpu=False).seconds
