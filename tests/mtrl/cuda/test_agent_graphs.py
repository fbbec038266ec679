"""Updates through autograd as CUDA graphs: the same bits as launch by launch, for every system and kind of critic."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from mtrl.agent import Agent
from mtrl.networks.kinds import KINDS
from tests.mtrl.cuda import cuda_on_host
from tests.mtrl.cuda.graph_on_host import CudaOnHost, count_launches
from tests.mtrl.cuda.updates import batch, config

CLIPPED = {"q_clip": 50.0}  # keeps a plain multi-head MLP from its update in one call
WIDE = {"value_min": -1000.0, "value_max": 1000.0, "bins": 21}
SETTINGS: dict[str, dict[str, Any]] = {
    **{kind: {"network__actor__kind": kind, "network__critic__kind": kind} for kind in KINDS},
    "mtmhsac": CLIPPED,
    **{value: {"value": value, **WIDE} for value in ("two_hot", "hl_gauss", "c51")},
    "return scaling": {"value": "hl_gauss", "scaling": "return", "value_min": -5.0, "value_max": 5.0},
    "one temperature": {"shared_temperature": True},
    "weights by temperature": {"loss_weights": "temperature"},
    "mean of the critics": {"critic_reduction": "mean", "weight_decay": 0.1, "critic_clip": 0.1},
}


def compare(device: torch.device, settings: dict[str, Any]) -> None:
    resets = {"reset": "critic", "reset_every": 100}
    eager, graphed = (
        Agent(config(cuda_graph=mode, **resets, **settings), device=device) for mode in ("off", "on")
    )
    assert eager.graphs is None
    observation = batch(9, 1, torch.device("cpu")).observation[:3].numpy()
    for step in range(6):
        if step == 4:  # from now on actor and critics count different steps
            eager.reset(4)
            graphed.reset(4)
        if step == 5:
            graphed.load_state_dict(eager.state_dict())
        one, other = eager.update(batch(step, 3, device)), graphed.update(batch(step, 3, device))
        assert one.metrics == other.metrics
        assert torch.equal(one.priority, other.priority)
        for name in ("actor_adam", "critic_adam", "temperature_adam"):
            assert torch.equal(getattr(eager, name).value, getattr(graphed, name).value)
            assert getattr(eager, name).steps == getattr(graphed, name).steps
        assert torch.equal(eager.target_value, graphed.target_value)
        assert (eager.act(observation) == graphed.act(observation)).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_graphs_give_the_same_bits(host: CudaOnHost, settings: dict[str, Any]) -> None:
    compare(torch.device("cpu"), settings)
    update, acting = host.graphs  # captured by the third call, then played back
    assert len(update.work) > len(acting.work) > 10


@cuda_on_host.on_gpu
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_cuda_graphs_give_the_same_bits(settings: dict[str, Any]) -> None:
    compare(torch.device("cuda"), settings)


def test_a_captured_update_starts_little_outside_its_graph(host: CudaOnHost) -> None:
    agent, rows = Agent(config(**SETTINGS["moore"])), batch(0, 3, torch.device("cpu"))
    launches = [count_launches(host, lambda: agent.update(rows)) for _ in range(5)]
    assert launches[0] > 500
    assert launches[3:] == [2, 2], "the copies of its inputs, by their two dtypes"


def test_other_numbers_of_rows_get_a_graph_of_their_own(host: CudaOnHost) -> None:
    agent = Agent(config(**CLIPPED))
    for _ in range(3):
        for tasks in (3, 2):
            agent.update(batch(0, tasks, torch.device("cpu")))
    assert len(host.graphs) == 2


@pytest.mark.parametrize("surgery", ["pcgrad", "gradnorm"])
def test_what_decides_on_the_host_is_not_captured(host: CudaOnHost, surgery: str) -> None:
    assert Agent(config(gradient_surgery=surgery, cuda_graph="on")).graphs is None


def test_a_network_of_ones_own_is_captured_on_demand(
    host: CudaOnHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ModuleType("own_network")
    vars(own)["KIND"] = KINDS["film"]
    monkeypatch.setitem(sys.modules, "own_network", own)
    name = "own_network:KIND"
    kinds = {"network__actor__kind": name, "network__critic__kind": name}
    assert Agent(config(**kinds)).graphs is None, "its Python would not run again"
    assert Agent(config(cuda_graph="on", **kinds)).graphs is not None
