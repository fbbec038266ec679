"""What this machine offers, one line for each part, with a cure for each missing part."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report. In state `missing` only some uses need the part, in state `broken` every use does."""

    subject: str
    state: Literal["good", "missing", "broken"]
    found: str
    cure: str = ""


def examine() -> list[Finding]:
    """Every finding about this machine; none of the checks raises."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _torch,
        _extension,
        _products,
        _cuda,
        _mujoco,
        _metaworld,
        _slurm,
        _disk,
    ]
    return [check() for check in checks]


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if (3, 11) <= sys.version_info < (3, 14):
        return Finding("Python", "good", found)
    return Finding("Python", "broken", found, "use Python 3.11, 3.12 or 3.13")


def _torch() -> Finding:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return Finding("torch", "broken", str(error), "pip install 'torch>=2.6'")
    return Finding("torch", "good", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _extension() -> Finding:
    try:
        core = importlib.import_module("mtrl._core")
    except ImportError as error:
        return Finding(
            "extension", "broken", str(error), "pip install -e . (or `make build`) and read its first error"
        )
    return Finding("extension", "good", f"mtrl._core, kernels for {core.instruction_set()}")


def _products() -> Finding:
    try:
        matmul = importlib.import_module("mtrl.matmul")
    except ImportError as error:
        return Finding("matrix products", "missing", f"unknown: {error}", "mend torch or the extension first")
    own, blas = matmul.choose_matmul("own"), matmul.choose_matmul("blas")
    return Finding(
        "matrix products", "good", f"on {matmul.choose_matmul('auto')}; run.matmul takes {own} or {blas}"
    )


def _cuda() -> Finding:
    try:
        torch, devices = map(importlib.import_module, ("torch", "mtrl.devices"))
    except ImportError:
        return Finding("CUDA", "missing", "unknown without torch", "mend torch first")
    if reason := devices.why_no_gpu():
        return Finding("CUDA", "missing", reason, "not needed on a CPU")
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    found = f"{names}, CUDA {torch.version.cuda}"
    try:
        build = importlib.import_module("mtrl._core").cuda_build()
    except ImportError:
        build = None
    if build is None:
        cure = "make build CUDA=1 (docs/gpu.md); until then agents are plain torch"
        return Finding("CUDA", "missing", f"{found}; mtrl was built without CUDA kernels", cure)
    preflight = importlib.import_module("mtrl.cuda.preflight")
    for index in range(torch.cuda.device_count()):
        if faults := preflight.faults(torch.device("cuda", index)):
            cure = "until then agents are plain torch, many times slower"
            return Finding("CUDA", "missing", f"{found}; on cuda:{index}: {'; '.join(faults)}", cure)
    try:
        cublaslt = importlib.import_module("mtrl.cuda.cublaslt")
        products = cublaslt.name_of(cublaslt.library(torch.cuda.current_device()))
    except RuntimeError as error:
        products = f"torch alone: {error}"
    return Finding("CUDA", "good", f"{found}; kernels for {build['architectures']}; products on {products}")


def _mujoco() -> Finding:
    try:
        mujoco = importlib.import_module("mujoco")
        model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
        mujoco.mj_step(model, mujoco.MjData(model))
    except Exception as error:  # whatever a broken installation raises
        return Finding(
            "MuJoCo", "broken", f"{type(error).__name__}: {error}", "pip install --force-reinstall mujoco"
        )
    return Finding("MuJoCo", "good", str(mujoco.__version__))


def _metaworld() -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Finding("Meta-World", "good", version("metaworld"))
    except PackageNotFoundError:
        return Finding("Meta-World", "broken", "not installed", "pip install metaworld==3.1.1")


def _slurm() -> Finding:
    if shutil.which("sbatch") is None:
        return Finding(
            "Slurm",
            "missing",
            "no sbatch on PATH",
            "not needed on one machine; on a cluster run from a login node",
        )
    try:
        ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(
            "Slurm", "missing", str(error), "ask the cluster's staff: its controller does not answer"
        )
    answer = (ping.stdout.strip() or ping.stderr.strip()).splitlines()[0]
    if ping.returncode:
        return Finding(
            "Slurm", "missing", answer, "on a cluster: run from a login node; is SLURM_CONF right?"
        )
    return Finding("Slurm", "good", answer)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    found = f"{free:.1f} GiB free in {Path.cwd()}"
    if free < 1:
        return Finding("disk", "broken", found, "free some space, or give another folder with --runs")
    return Finding("disk", "good", found)
