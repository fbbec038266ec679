"""The CUDA kernels on the host, for tests of what stands above them in Python.

`kernels()` is a module like `mtrl._core.cuda`: the same binding and the kernels' own source, run as fibers on CPU
tensors (tests/csrc/cuda_on_host.h). `take` puts it where the GPU's kernels would be, and cublaslt_on_host.cpp where
NVIDIA's library would be, so that replay, update and agent take the GPU's way on this machine.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from mtrl import devices
from mtrl.cuda import cublaslt, preflight
from mtrl.cuda import ops as cuda_ops
from tests.mtrl.cuda import graph_on_host

TREE = Path(__file__).resolve().parents[3] / "build" / str(sysconfig.get_config_var("SOABI"))
MODULE = TREE / f"cuda_on_host{sysconfig.get_config_var('EXT_SUFFIX')}"
CUBLASLT = TREE / "cublaslt_on_host.so"  # in the place of NVIDIA's library; built with the module


@functools.cache
def kernels() -> Any:
    """The module, built where its sources changed."""
    if not (TREE / "CMakeCache.txt").exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the extension was not built in {TREE}; run `make build`")
        pytest.skip(f"the extension was not built in {TREE} (`make build` does); no kernels on the host")
    with (TREE / "cuda_on_host.lock").open("w") as lock:  # the tests' processes share one tree
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["cmake", "--build", str(TREE), "--target", "cuda_on_host"]
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    spec = importlib.util.spec_from_file_location("cuda_on_host", MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cuda


GPU = (
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available() or cuda_ops.kernels is None,
        reason="needs a GPU and a build with CUDA kernels",
    ),
)
WAYS = ["host", pytest.param("cuda", marks=GPU)]


def on_gpu(test: Any) -> Any:
    """Marks a test that nothing on the host can stand for."""
    for mark in GPU:
        test = mark(test)
    return test


def take_cublaslt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes that file the only cuBLASLt to be found until the test ends."""
    monkeypatch.setattr(cublaslt, "sonames", lambda cuda: [str(path)])
    monkeypatch.setattr(cublaslt, "library", functools.cache(cublaslt.library.__wrapped__))


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device of one of WAYS: a GPU, or the CPU, whose tensors take the GPU's way until the test ends."""
    if way == "cuda":
        return torch.device("cuda")
    take_host(monkeypatch)
    return torch.device("cpu")


def take_host(monkeypatch: pytest.MonkeyPatch) -> graph_on_host.CudaOnHost:
    """Lets the CPU's tensors take the GPU's way until the test ends."""
    cuda = graph_on_host.take(monkeypatch)
    monkeypatch.setattr(cuda_ops, "kernels", graph_on_host.RecordedKernels(kernels(), cuda))
    monkeypatch.setattr(devices, "is_gpu", lambda device: True)
    monkeypatch.setattr(preflight, "_fault", lambda *_: "")  # test_preflight checks them, once for all agents
    take_cublaslt(CUBLASLT, monkeypatch)
    return cuda
