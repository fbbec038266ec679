"""The update on the GPU is the CPU's, step by step, as launches and as a CUDA graph, which is played back here.

On a machine without a GPU the kernels' own source runs on the host (tests/mtrl/cuda/cuda_on_host.py).
"""

from __future__ import annotations

import itertools
import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl import devices
from mtrl.agent import Agent
from mtrl.cuda import ops as cuda_ops
from mtrl.cuda.graph import GraphedCall
from mtrl.networks import tanh_gaussian
from tests.mtrl.cuda import cuda_on_host
from tests.mtrl.cuda.graph_on_host import CudaOnHost, StartedKernels, forbid_waiting
from tests.mtrl.cuda.updates import (
    PER_TASK,
    assert_same_networks,
    assert_same_update,
    batch,
    config,
    cpu_agent,
    noise_of,
)


@pytest.mark.parametrize(
    "settings", [{}, {"critics": 3, "weight_decay": 0.1, "critic_clip": 0.1, "cuda_graph": "off"}]
)
def test_updates_are_the_cpus(
    device: torch.device, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(**settings)
    expected, got = cpu_agent(chosen, monkeypatch), Agent(chosen, device=device)
    noise_of(expected, monkeypatch)
    noise_of(got, monkeypatch)
    for step in range(3):
        rows = batch(step, 3, device)
        one = got.update(rows)
        with monkeypatch.context() as patch:
            patch.setattr(devices, "is_gpu", lambda device: False)
            other = expected.update(batch(step, 3, torch.device("cpu")))
        # Sums in another order; the first steps of Adam divide by almost nothing, which makes them larger.
        assert_same_update(one, other, 1e-4)
        assert_same_networks(got, expected, 3e-5)


def test_actions_are_the_cpus(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, got = cpu_agent(config(), monkeypatch), Agent(config(), device=device)
    observation = batch(1, 3, torch.device("cpu")).observation[::PER_TASK].numpy()
    noise_of(expected, monkeypatch)
    noise_of(got, monkeypatch)
    for deterministic in (False, True):
        action = got.act(observation, deterministic=deterministic)
        wanted = expected.act(observation, deterministic=deterministic)
        torch.testing.assert_close(torch.from_numpy(action), torch.from_numpy(wanted), rtol=0, atol=1e-6)


def test_a_state_moves_to_another_kind_of_device(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu, cpu = Agent(config(), device=device), cpu_agent(config(), monkeypatch)
    gpu.update(batch(0, 3, device))
    state = gpu.state_dict()
    state["act_noise"]["start"] = torch.zeros(16, dtype=torch.uint8)  # what a GPU's generator has
    with caplog.at_level(logging.WARNING):
        cpu.load_state_dict(state)
    assert "random numbers start anew" in caplog.text
    assert torch.equal(cpu.critic_adam.value, gpu.critic_adam.value.cpu())
    new = cpu_agent(config(), monkeypatch)
    assert torch.equal(cpu.act_noise.draw(3, 4), new.act_noise.draw(3, 4))


def compare_graphed(device: torch.device, critics: int) -> None:
    settings = {"reset": "critic", "reset_every": 100, "critics": critics}
    eager, graphed = (Agent(config(cuda_graph=mode, **settings), device=device) for mode in ("off", "on"))
    for step in range(5):
        if step == 4:
            eager.reset(4)  # from now on actor and critics count different steps
            graphed.reset(4)
        one, other = eager.update(batch(step, 3, device)), graphed.update(batch(step, 3, device))
        assert one.metrics == other.metrics
        assert torch.equal(one.priority, other.priority)
        assert torch.equal(eager.critic_adam.value, graphed.critic_adam.value)
    graphed.update(batch(8, 3, device))
    graphed.load_state_dict(eager.state_dict())
    one, other = eager.update(batch(9, 3, device)), graphed.update(batch(9, 3, device))
    assert torch.equal(one.priority, other.priority), "a loaded state reaches the graph"
    assert torch.equal(eager.actor_adam.value, graphed.actor_adam.value)


CRITICS = (2, cuda_ops.ROUTED_FROM)  # the minimum's gradient masked, and by routed rows


@pytest.mark.parametrize("critics", CRITICS)
def test_a_graph_gives_the_same_bits(host: CudaOnHost, critics: int) -> None:
    compare_graphed(torch.device("cpu"), critics)
    (graph,) = host.graphs  # the third update is captured, the later ones are played back
    assert len(graph.work) > 40
    assert host.current == 0, "the current device is as it was"


@cuda_on_host.on_gpu
@pytest.mark.parametrize("critics", CRITICS)
def test_a_cuda_graph_gives_the_same_bits(critics: int) -> None:
    compare_graphed(torch.device("cuda"), critics)


def test_routed_rows_give_the_masked_gradient(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    updates, started = [], []
    for first in (1, 9):
        monkeypatch.setattr(cuda_ops, "ROUTED_FROM", first)
        agent = Agent(config(critics=4, cuda_graph="off"), device=device)
        with monkeypatch.context() as patch:
            patch.setattr(cuda_ops, "kernels", kernels := StartedKernels(cuda_ops.kernels))
            updates.append(agent.update(batch(0, 3, device)))
        started.append(kernels.names)
    assert ("routed_layer" in started[0], "least_gradient" in started[0]) == (True, False)
    assert ("routed_layer" in started[1], "least_gradient" in started[1]) == (False, True)
    assert_same_update(*updates, 1e-5)


def refuse(host: CudaOnHost, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets the next capture go wrong; gives the reason that must be named."""
    if how == "ends badly":
        host.fault = "operation failed due to a previous error during capture"
        return host.fault
    if how != "asks the host":  # the work is done and not captured, as where another device is captured
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream=None: host.graph(graph, host.first))
    if how == "wrong device":
        return "it ran while it was captured"
    if how == "does nothing":
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream=None: nullcontext())
        monkeypatch.setattr(GraphedCall, "_record", lambda call: (host.make_graph(), ()))
        return "the graph is empty"

    def asking(function: Any) -> Any:
        def asks(tensor: Tensor, *more: Any) -> Any:
            assert int(tensor.numel() * tensor.view(-1)[0]) < 1e9
            return function(tensor, *more)

        return asks

    if how == "asks the host":
        # One of these is in the update in one call, the other in that through autograd.
        monkeypatch.setattr(cuda_ops, "rows_by_task", asking(cuda_ops.rows_by_task))
        monkeypatch.setattr(tanh_gaussian, "sample", asking(tanh_gaussian.sample))
        return "operation not permitted when stream is capturing: aten::_local_scalar_dense"
    step, steps = cuda_ops.kernels.adam_polyak, itertools.count(1)

    def no_memory_for_the_second(*arguments: Any) -> None:
        if host.in_capture and next(steps) % 3 == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(*arguments)

    monkeypatch.setattr(cuda_ops.kernels, "adam_polyak", no_memory_for_the_second, raising=False)
    return "CUDA out of memory"


REFUSALS = ("asks the host", "ends badly", "wrong device", "does nothing", "breaks half-way")


@pytest.mark.filterwarnings(
    "ignore:The CUDA Graph is empty:UserWarning"
)  # torch's, of some of these captures
@pytest.mark.parametrize("settings", [{}, {"q_clip": 50.0}], ids=["one call", "autograd"])
@pytest.mark.parametrize("how", REFUSALS)
def test_a_refused_capture_updates_exactly_once(
    host: CudaOnHost,
    how: str,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    eager, graphed = (Agent(config(cuda_graph=mode, **settings)) for mode in ("off", "auto"))
    before = host.current_stream(graphed.device)
    reason = refuse(host, how, monkeypatch)
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            one, other = (agent.update(batch(step, 3, agent.device)) for agent in (eager, graphed))
            assert torch.equal(one.priority, other.priority)
            assert torch.equal(eager.critic_adam.value, graphed.critic_adam.value)
            assert torch.equal(eager.actor_adam.square, graphed.actor_adam.square)
    assert caplog.messages == [f"the update runs without a CUDA graph, which CUDA refused: {reason}"]
    assert (host.current, host.current_stream(graphed.device)) == (0, before), (
        "device and stream are as they were"
    )
    strict = Agent(config(cuda_graph="on", **settings))
    for step in range(2):
        strict.update(batch(step, 3, strict.device))
    with pytest.raises(RuntimeError, match=f"{reason}; use agent.cuda_graph=auto"):
        strict.update(batch(2, 3, strict.device))


@pytest.mark.parametrize("surgery", ["none", "pcgrad", "gradnorm"])
def test_an_update_by_autograd_waits_for_nothing(
    host: CudaOnHost, surgery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, twin = (Agent(config(gradient_surgery=surgery, q_clip=50.0)) for _ in range(2))
    assert agent.fused is None
    rows = batch(0, 3, agent.device)
    counts = [PER_TASK] * 3
    monkeypatch.setattr(
        torch, "randperm", lambda *_, **__: SimpleNamespace(tolist=lambda: [2, 0, 1])
    )  # the host's
    for _ in range(2):
        with monkeypatch.context() as patch:
            forbid_waiting(patch)
            got = agent.update(rows, counts)
        expected = twin.update(rows)  # asks how many rows each task has
        assert torch.equal(torch.as_tensor(got.values), torch.as_tensor(expected.values))
    assert torch.equal(agent.actor_adam.value, twin.actor_adam.value)


def test_bfloat16_products_stay_near(device: torch.device) -> None:
    """A product of bfloat16 numbers is off by 2^-8 of its terms; the loss by less, for errors cancel."""
    exact, rounded = Agent(config(), device=device), Agent(config(products="bfloat16"), device=device)
    rows = batch(1, 3, device)
    cuda_ops.set_products("float32")
    expected = exact.update(rows)
    cuda_ops.set_products("bfloat16")
    got = rounded.update(rows)
    for name in ("critic_loss", "actor_loss", "critic_gradient_norm", "actor_gradient_norm"):
        assert got.metrics[name] != expected.metrics[name]
        assert got.metrics[name] == pytest.approx(expected.metrics[name], rel=0.02, abs=0.01)


def test_the_layers_path_is_the_plain_one(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network takes that has no update in one call: operators, autograd, and the optimiser's kernel."""
    settings = config(critics=3, weight_decay=0.1)
    one, other = (
        Agent(settings, device=device),
        Agent(config(critics=3, weight_decay=0.1, backend="torch"), device=device),
    )
    one.fused = one.graphs = None
    for step in range(2):
        got, expected = one.update(batch(step, 3, device)), other.update(batch(step, 3, device))
        assert_same_update(got, expected, 1e-4)
        torch.testing.assert_close(one.critic_adam.value, other.critic_adam.value, rtol=0, atol=3e-5)


def test_a_build_without_kernels_falls_back(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_ops, "kernels", None)
    with caplog.at_level(logging.WARNING):
        agent = Agent(config(), device=device)
    assert agent.backend == "torch"
    assert "built without CUDA kernels" in caplog.text
