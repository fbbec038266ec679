"""cuBLASLt's layers in the update: torch's numbers, and torch's products wherever something is wrong with the library.

On a machine without a GPU the library is tests/csrc/cublaslt_on_host.cpp. The real one, where it is installed, is asked
there what it makes of our descriptors.
"""

from __future__ import annotations

import ctypes.util
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from mtrl import _core, doctor
from mtrl.agent import Agent
from mtrl.cuda import ops as cuda_ops
from mtrl.cuda import preflight
from tests.mtrl.cuda import cuda_on_host
from tests.mtrl.cuda.graph_on_host import StartedKernels
from tests.mtrl.cuda.updates import (
    assert_same_networks,
    assert_same_update,
    batch,
    config,
)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    return cuda_on_host.take("host", monkeypatch)


def agents(device: torch.device, **settings: Any) -> tuple[Agent, Agent]:
    """One with cuBLASLt and one without."""
    one, other = (
        Agent(config(cuda_graph="off", run__cublaslt=way, **settings), device=device)
        for way in ("auto", "off")
    )
    return one, other


@pytest.mark.parametrize(
    ("critics", "depth"), [(2, 1), (2, 4), (cuda_ops.ROUTED_FROM, 2), (cuda_ops.ROUTED_FROM, 4)]
)
def test_updates_are_those_of_torchs_products(
    device: torch.device,
    critics: int,
    depth: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    layers = {"network__actor__depth": depth, "network__critic__depth": depth}
    with caplog.at_level(logging.INFO):
        with_lt, without = agents(device, critics=critics, **layers)
    assert "products on cuBLASLt" in caplog.messages[-2]
    assert caplog.messages[-1].endswith("products on torch")
    started = StartedKernels(cuda_ops.kernels)
    for step in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(cuda_ops, "kernels", started)
            one = with_lt.update(batch(step, 3, device))
        other = without.update(batch(step, 3, device))
        # Sums in another order; the first steps of Adam divide by almost nothing, which makes them larger.
        assert_same_update(one, other, 1e-4)
        assert_same_networks(with_lt, without, 3e-5)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ("cublaslt_run" in started.names) == (depth > 1)


def test_tf32_passes_its_check(host: torch.device, caplog: pytest.LogCaptureFixture) -> None:
    with_lt, without = agents(host, products="tf32")
    one, other = with_lt.update(batch(0, 3, host)), without.update(batch(0, 3, host))
    assert not caplog.records
    assert_same_update(one, other, 5e-3)  # torch's products on the CPU are float32 all the same
    with pytest.raises(AssertionError):
        assert_same_update(one, other, 1e-6)


FAULTS = {  # planted in the library -> what the log says
    "no device": "cuBLASLt does not open: CUBLAS_STATUS_NOT_INITIALIZED",
    "no algorithm": "cuBLASLt has no way to make the product: CUBLAS_STATUS_NOT_SUPPORTED",
    "none found": "cuBLASLt has no way to make the product: CUBLAS_STATUS_NOT_SUPPORTED",
    "forgets": "cuBLASLt's descriptors: attribute 5 reads back as another value",
    "one bias": "RELU_AUX_BIAS is off by",
    "other mask": "DRELU_BGRAD is off by",
    "no sums": "DRELU_BGRAD's sums is off by nan",
    "rounds": "RELU_AUX_BIAS is off by",
    "refuses": "cuBLASLt's product: CUBLAS_STATUS_INVALID_VALUE",
}


def assert_torchs_products(with_lt: Agent, without: Agent) -> None:
    for step in range(2):
        one, other = (
            with_lt.update(batch(step, 3, with_lt.device)),
            without.update(batch(step, 3, with_lt.device)),
        )
        assert torch.equal(one.priority, other.priority)
    assert torch.equal(with_lt.critic_adam.value, without.critic_adam.value)
    assert torch.equal(with_lt.actor_adam.value, without.actor_adam.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_library_is_not_used(
    host: torch.device, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MTRL_CUBLASLT_FAULT", fault)
    assert_torchs_products(*agents(host))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("products run on torch alone, not on cuBLASLt: " + FAULTS[fault])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (Path("/nowhere/libcublasLt.so.0"), "/nowhere/libcublasLt.so.0: cannot open shared object file"),
        (cuda_on_host.MODULE, "undefined symbol: cublasLtGetVersion"),
    ],
)
def test_no_library(
    host: torch.device,
    path: Path,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda_on_host.take_cublaslt(path, monkeypatch)
    with caplog.at_level(logging.INFO):
        assert_torchs_products(*agents(host))
    first, second = caplog.messages
    assert "products on torch; cuBLASLt was not found: " in first
    assert reason in first
    assert second.endswith("products on torch")


def test_what_is_loaded_already_comes_first(host: torch.device, tmp_path: Path) -> None:
    another = str(shutil.copy(cuda_on_host.MODULE, tmp_path / "another.so"))  # has none of the functions
    loaded = cuda_ops.kernels.CublasLt([str(cuda_on_host.CUBLASLT)])
    assert cuda_ops.kernels.CublasLt([another, str(cuda_on_host.CUBLASLT)]).version == loaded.version
    with pytest.raises(RuntimeError, match="undefined symbol"):
        cuda_ops.kernels.CublasLt([another])


def test_a_width_that_does_not_fit_takes_torch(host: torch.device, caplog: pytest.LogCaptureFixture) -> None:
    assert_torchs_products(*agents(host, network__critic__width=22))
    assert caplog.messages == ["products run on torch alone, not on cuBLASLt: width 22 is no multiple of 4"]


@pytest.mark.parametrize("column", ["observation", "action", "next_observation"])
def test_nan_shows_though_the_librarys_relu_hides_it(host: torch.device, column: str) -> None:
    with_lt, _ = agents(host)
    rows = batch(0, 3, host)
    getattr(rows, column).view(-1)[-1] = math.nan
    metrics = with_lt.update(rows).metrics
    assert not math.isfinite(metrics["critic_gradient_norm"])


def test_doctor_names_what_products_run_on(host: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_available", True), ("device_count", 1), ("current_device", -1)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(preflight, "faults", lambda device: [])
    monkeypatch.setattr(_core, "cuda_build", lambda: {"architectures": "90"})
    assert doctor._cuda().found.endswith("kernels for 90; products on cuBLASLt 123456")
    cuda_on_host.take_cublaslt(Path("/nowhere/libcublasLt.so.0"), monkeypatch)
    assert "products on torch alone: /nowhere/libcublasLt.so.0" in doctor._cuda().found


def test_what_the_library_would_trip_over_is_refused(host: torch.device) -> None:
    kernels = cuda_ops.kernels
    lt = kernels.CublasLt([str(cuda_on_host.CUBLASLT)])
    plan = kernels.cublaslt_choose(lt, False, True, 2, 3, 8, False, -1)
    x, kernel, bias, y = torch.zeros(2, 3, 8), torch.zeros(2, 8, 8), torch.zeros(2, 8), torch.zeros(2, 3, 8)
    space = torch.zeros(plan.workspace, dtype=torch.uint8)
    mask = torch.zeros(kernels.cublaslt_mask_bytes(2, 3, 8), dtype=torch.uint8)
    kernels.cublaslt_run(lt, plan, x, kernel, bias, mask, y, space, 0)
    off = torch.zeros(17)[1:].view(2, 8)
    for wrong, message in (
        ((x, kernel, off, mask, y, space), "must start at multiples of 16 bytes"),
        ((x, kernel, bias, None, y, space), "mask is None"),
        ((x, kernel, bias, mask[1:], y, space), r"mask has shape \[95\]"),
        ((x[:, :2].clone(), kernel, bias, mask, y, space), r"left has shape \[2, 2, 8\]"),
        ((x, kernel, bias, mask, y, space[1:]), "workspace has"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.cublaslt_run(lt, plan, *wrong, 0)


def installed() -> str | None:
    """NVIDIA's library, wherever it may be installed."""
    folders = [Path(sysconfig.get_path("purelib")) / "nvidia"]
    folders += [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    found = [path for folder in folders for path in sorted(folder.rglob("libcublasLt.so*"))]
    return str(found[0]) if found else ctypes.util.find_library("cublasLt")


ASK = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("cuda_on_host", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
lt = module.cuda.CublasLt([sys.argv[2]])
if lt.version < 130000:
    sys.exit()  # follows a null handle (seen of 12.4)
for product in ((False, False), (False, True), (True, True)):
    try:
        module.cuda.cublaslt_choose(lt, *product, 2, 30, 20, True, 0)
    except RuntimeError as error:
        print(error)
"""


# Without a GPU the real library does not open; with a null handle it reads a question, though it refuses it.
OPEN = 'extern "C" int cublasLtCreate(void** handle) { *handle = nullptr; return 0; }'


@pytest.mark.skipif(installed() is None, reason="cuBLASLt is not installed; pip's nvidia-cublas has it")
def test_the_real_library_reads_our_descriptors(tmp_path: Path) -> None:
    cuda_on_host.kernels()
    library, opened, log = Path(str(installed())), tmp_path / "opened.so", tmp_path / "log"
    source = ["-x", "c++", "-", "-x", "none", "-shared", "-fPIC", "-o", str(opened)]
    real = ["-Wl,--no-as-needed", str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["c++", *source, *real], input=OPEN, text=True, check=True)
    ask = subprocess.run(
        [sys.executable, "-c", ASK, str(cuda_on_host.MODULE), str(opened)],
        env=os.environ | {"CUBLASLT_LOG_LEVEL": "5", "CUBLASLT_LOG_FILE": str(log)},
        capture_output=True,
        text=True,
        check=True,
    )
    if not ask.stdout:
        pytest.skip(f"{library} is older than CUDA 13")
    refused = "cuBLASLt has no way to make the product: CUBLAS_STATUS_NOT_INITIALIZED"
    assert ask.stdout.splitlines() == [refused] * 3
    questions = re.findall(r"cublasLtMatmulAlgoGetHeuristic\] (.*)", log.read_text())
    assert len(questions) == 3
    layout = "type=R_32F rows=20 cols={} ld=20 batchCount=2 stridedBatchOffset={}"
    aux = " epilogueAuxPointer=0x10 epilogueAuxLd=128 epilogueAuxBatchStride=3840"
    for question, epilogue in zip(
        questions,
        (
            "epilogue=EPILOGUE_RELU_BIAS biasPointer=0x10 biasBatchStride=20]",
            f"epilogue=EPILOGUE_RELU_AUX_BIAS biasPointer=0x10 biasBatchStride=20{aux}]",
            f"transa=OP_T epilogue=EPILOGUE_DRELU_BGRAD biasPointer=0x10 biasBatchStride=20{aux}]",
        ),
        strict=True,
    ):
        assert f"Adesc=[{layout.format(20, 400)}]" in question
        for matrix in "BCD":
            assert f"{matrix}desc=[{layout.format(30, 600)}]" in question
        assert "maxWorkspaceSizeinBytes=33554432" in question
        assert all(f"minBytesAlignment{matrix}=16" in question for matrix in "ABCD")
        assert f"computeType=COMPUTE_32F_FAST_TF32 scaleType=R_32F {epilogue}" in question
