"""The device of a run's networks; if there is no GPU, the reason."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from mtrl.config import ConfigError, Products

TF32_FROM = (8, 0)  # compute capability


def is_gpu(device: torch.device) -> bool:
    """Whether the CUDA kernels (`mtrl.cuda`) work on tensors of `device`."""
    return device.type == "cuda"


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which `device`, if a GPU, is torch's current one.

    Streams, events and pinned memory made in it open no CUDA context on GPU 0.
    """
    return torch.cuda.device(device) if is_gpu(device) else nullcontext()


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is CUDA if torch sees a GPU. Raises ConfigError if it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"run.device = '{name}' is no device; write auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"run.device = '{name}', but {why_no_gpu()}; or use run.device=cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"run.device = '{name}', but torch sees {count} GPUs, from cuda:0 on")
    return device


def resolve_products(wanted: Literal["auto", Products], device: torch.device) -> Products:
    """How matrix products are computed on `device`: auto is TF32 on a GPU that has it, else float32.

    Raises ConfigError where the device cannot compute them as wanted.
    """
    if not is_gpu(device):
        if wanted in ("auto", "float32"):
            return "float32"
        raise ConfigError(f"agent.products = '{wanted}' is for GPUs; use auto or float32 on a CPU")
    capability = torch.cuda.get_device_capability(device)
    if wanted == "auto":
        return "tf32" if capability >= TF32_FROM else "float32"
    if wanted == "tf32" and capability < TF32_FROM:
        raise ConfigError(
            "agent.products = 'tf32' needs a GPU of compute capability 8.0 or higher, and this one has "
            f"{capability[0]}.{capability[1]}; use another GPU, or start a run with auto or float32"
        )
    return wanted


def why_no_gpu() -> str:
    """Empty if torch sees a GPU; else the CUDA versions of the driver and of torch, and a cure.

    Opens no CUDA context.
    """
    if torch.cuda.is_available():
        return ""
    driver, built = driver_version(), torch.version.cuda
    versions = f"driver: {f'CUDA {driver[0]}.{driver[1]}' if driver else 'none'}, torch {torch.__version__}: "
    versions += f"CUDA {built}" if built else "CPU only"
    return f"torch sees no GPU ({versions}); {_cure(driver, built)}"


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the installed NVIDIA driver supports, as (13, 0); None if there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return number.value // 1000, number.value % 1000 // 10


def _cure(driver: tuple[int, int] | None, built: str | None) -> str:
    if built is None:
        return "install torch's CUDA build"
    if driver is None:
        return (
            "there is no NVIDIA driver (libcuda.so.1): use a node with a GPU, or give a container its GPUs "
            "(apptainer exec --nv)"
        )
    if driver[0] < int(built.split(".")[0]):
        return f"install a torch built for CUDA {driver[0]}, or update the driver"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is '{visible}': does it name a GPU of nvidia-smi?"
    return "does nvidia-smi show one?"
