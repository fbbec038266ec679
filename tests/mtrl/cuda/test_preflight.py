"""The kernels are tried before a run trusts them; what fails is named with its cure, and torch's twin goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from mtrl import _core, devices, doctor
from mtrl.agent import Agent
from mtrl.config import ReplaySettings
from mtrl.cuda import ops as cuda_ops
from mtrl.cuda import preflight
from mtrl.replay_place import ShippedReplay, build_replay
from tests.mtrl.cuda import cuda_on_host
from tests.mtrl.cuda.updates import batch, config

KERNELS = {  # of the binding -> the check that must name it
    "td_target": "td_target",
    "rows_by_task": "rows_by_task",
    "ensemble_linear_bias_relu": "ensemble_linear",
    "ensemble_linear_mask": "ensemble_linear",
    "ensemble_linear_bias_gradient": "ensemble_linear",
    "head_gather_forward": "head_gather",
    "head_gather_input_gradient": "head_gather",
    "head_gather_weight_gradient": "head_gather",
    "least_gradient": "least_gradient",
    "route_rows": "min_routing",
    "routed_head": "min_routing",
    "routed_layer": "min_routing",
    "tanh_gaussian_sample": "tanh_gaussian",
    "tanh_gaussian_backward": "tanh_gaussian",
    "adam_polyak": "adam_polyak",
    "ReplayBuffer": "replay_buffer",
}
CPU = torch.device("cpu")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels on the host, which other tests take for tried."""
    untried = preflight._fault
    cuda_on_host.take_host(monkeypatch)
    monkeypatch.setattr(preflight, "_fault", untried)


def refusing(*_: Any, **__: Any) -> None:
    raise RuntimeError("a kernel: no kernel image is available for execution on the device\nmore")


def test_sound_kernels_pass(device: torch.device) -> None:
    assert preflight.faults(device) == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_that_does_not_run_or_writes_nothing_is_named(
    tried: None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = {KERNELS[kernel]: preflight.CHECKS[KERNELS[kernel]]}
    monkeypatch.setattr(preflight, "CHECKS", check)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(_core, "cuda_build", lambda: {"version": "13.0", "architectures": "80-real 90-real"})
    monkeypatch.setattr(cuda_ops.kernels, kernel, refusing, raising=False)
    (refused,) = preflight.faults(CPU)
    assert refused == (
        f"{KERNELS[kernel]} cannot run: a kernel: no kernel image is available for execution on the device; "
        "the kernels were built for 80-real 90-real and this GPU is 75: `CUDAARCHS=75 make build CUDA=1`"
    )
    if kernel == "ReplayBuffer":
        return
    monkeypatch.setattr(cuda_ops.kernels, kernel, lambda *_: None, raising=False)
    (wrong,) = preflight.faults(CPU)
    assert wrong.startswith(f"{KERNELS[kernel]} is off by ")


def test_an_old_driver_is_named(tried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("target: CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(cuda_ops.kernels, "td_target", refuse, raising=False)
    monkeypatch.setattr(devices, "driver_version", lambda: (12, 2))
    monkeypatch.setattr(_core, "cuda_build", lambda: {"version": "13.0", "architectures": "90"})
    assert preflight.fault(CPU).endswith(
        "the driver knows CUDA 12.2 and the kernels were built by 13.0: update it, or use an older nvcc"
    )


def test_a_run_goes_on_with_torchs_twin_loudly(
    tried: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(cuda_ops.kernels, "adam_polyak", refusing, raising=False)
    agent, twin = Agent(config()), Agent(config(backend="torch"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert (
        "the agent is plain torch, many times slower than the CUDA kernels: adam_polyak cannot run"
        in record.message
    )
    one, other = agent.update(batch(0, 3, CPU)), twin.update(batch(0, 3, CPU))
    assert torch.equal(one.priority, other.priority)
    replay = build_replay(ReplaySettings(capacity=8), device=CPU, tasks=2, seed=0, discount=0.9)
    assert isinstance(replay, ShippedReplay)


def test_doctor_launches_every_kernel(tried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_available", True), ("device_count", 1), ("current_device", -1)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(_core, "cuda_build", lambda: {"version": "13.0", "architectures": "90"})
    monkeypatch.setattr(torch, "device", lambda *_: CPU)
    assert doctor._cuda().state == "good"
    monkeypatch.setattr(cuda_ops.kernels, "td_target", refusing, raising=False)
    finding = doctor._cuda()
    assert finding.state == "missing"
    assert "on cuda:0: td_target cannot run: a kernel: no kernel image" in finding.found
    assert "`CUDAARCHS=75 make build CUDA=1`" in finding.found
