"""The device a run's networks are on."""

from __future__ import annotations

import torch

from mtrl.config import ConfigError


def is_gpu(device: torch.device) -> bool:
    """Whether tensors on `device` take the CUDA kernels (`mtrl.cuda`)."""
    return device.type == "cuda"


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; `auto` is CUDA where there is one. Raises ConfigError where it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"run.device = '{name}' is no device; write auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"run.device = '{name}', but torch sees no CUDA device here; use run.device=cpu")
    return device
