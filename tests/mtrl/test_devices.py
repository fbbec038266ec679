"""Why torch sees no GPU is said with both versions of CUDA and a cure."""

from __future__ import annotations

import re

import pytest
import torch

from mtrl import devices
from mtrl.config import ConfigError


@pytest.mark.parametrize(
    ("newest", "built", "visible", "said"),
    [
        ((13, 0), None, None, r"driver: CUDA 13\.0, torch .*: CPU only\); install torch's CUDA build"),
        (None, "13.0", None, r"driver: none, torch .*: CUDA 13\.0\); there is no NVIDIA driver"),
        (
            (12, 4),
            "13.0",
            None,
            r"driver: CUDA 12\.4, torch .*: CUDA 13\.0\); install a torch built for CUDA 12",
        ),
        ((13, 0), "12.8", "", r"CUDA_VISIBLE_DEVICES is '': does it name a GPU"),
        ((13, 0), "12.8", None, r"does nvidia-smi show one\?"),
    ],
)
def test_each_cause_has_its_cure(
    monkeypatch: pytest.MonkeyPatch,
    newest: tuple[int, int] | None,
    built: str | None,
    visible: str | None,
    said: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "driver_version", lambda: newest)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert re.search(said, devices.why_no_gpu())
    with pytest.raises(ConfigError, match=said):
        devices.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.why_no_gpu() == ""


def test_a_machine_without_a_driver_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(devices.ctypes, "CDLL", missing)
    assert devices.driver_version() is None


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"run\.device = 'cuda:2', but torch sees 2 GPUs"):
        devices.resolve_device("cuda:2")
