"""Whole short runs on the GPU's way: replay on the device, captured updates, checkpoints that move.

On a machine without a GPU the kernels' own source runs on the host (tests/mtrl/cuda/cuda_on_host.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl import devices
from mtrl.config import ConfigError
from mtrl.cuda import ops as cuda_ops
from mtrl.cuda.replay import ReplayCuda
from mtrl.overrides import build_config
from mtrl.results import RunData, read_run
from mtrl.train import train
from tests.mtrl.cuda.graph_on_host import OWN, CudaOnHost

SHORT: dict[str, Any] = {
    "env.tasks": "drawer-close-v3+reach-v3",
    "env.horizon": 10,
    "env.goals_per_task": 1,
    "replay.mode": "prioritized",
    "agent.batch_per_task": 8,
    "network.actor.width": 8,
    "network.critic.width": 8,
    "train.vector_steps": 18,
    "train.random_steps": 12,
    "evaluate.every": 15,
    "evaluate.episodes": 1,
}


def run(directory: Path, device: str) -> RunData:
    assert train(build_config("debug", SHORT | {"run.device": device}), directory) == "done"
    return read_run(directory / "run.h5")


def run_for(directory: Path, device: str, steps: int) -> None:
    left = iter(range(steps - 1, -1, -1))
    config = build_config("debug", SHORT | {"run.device": device})
    assert train(config, directory, stop=lambda: next(left) == 0) == "stopped"


def test_a_run_is_the_cpus_and_may_move(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = run(tmp_path / "gpu", str(device))
    run_for(tmp_path / "moved", str(device), 14)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "is_gpu", lambda device: device.type == "cuda")
        on_cpu = run(tmp_path / "cpu", "cpu")
        if device.type == "cpu":  # a GPU's generators are of another kind than the CPU's
            run_for(tmp_path / "moved", "cpu", 2)
    moved = run(tmp_path / "moved", str(device))
    place = on_gpu.run_metrics.index("critic_loss")
    for other in (on_gpu, moved):
        assert np.isfinite(other.per_run[1:]).all()
        if device.type == "cpu":
            np.testing.assert_allclose(other.per_run[1:, place], on_cpu.per_run[1:, place], rtol=1e-3)


def test_a_run_makes_its_gpu_the_current_one(
    host: CudaOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU 0 is current when it starts, and the run is on GPU 1."""
    seen = set()
    add = ReplayCuda.add

    def add_and_look(*given: Any) -> None:
        seen.add(host.current)
        add(*given)

    monkeypatch.setattr(ReplayCuda, "add", add_and_look)
    run_for(tmp_path, "cpu", 14)
    assert (seen, host.current) == ({OWN}, 0)


@pytest.mark.parametrize(
    ("capability", "wanted", "computed"),
    [
        ((8, 0), "auto", "tf32"),
        ((9, 0), "auto", "tf32"),
        ((7, 5), "auto", "float32"),
        ((9, 0), "float32", "float32"),
        ((7, 0), "bfloat16", "bfloat16"),
    ],
)
def test_products_are_tf32_where_the_gpu_has_it(
    host: CudaOnHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    wanted: str,
    computed: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    config = build_config("debug", SHORT | {"run.device": "cpu", "agent.products": wanted})
    assert train(config, tmp_path, stop=lambda: True) == "stopped"
    assert cuda_ops.products() == computed
    assert torch.get_float32_matmul_precision() == ("high" if computed == "tf32" else "highest")
    data = read_run(tmp_path / "run.h5")
    assert data.attributes["products"] == computed
    assert data.config.agent.products == wanted


def test_a_run_goes_on_with_the_products_that_it_began_with(
    host: CudaOnHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_on(capability: tuple[int, int], place: Path) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        run_for(place, "cpu", 3)

    run_on((7, 0), tmp_path / "old")
    run_on((9, 0), tmp_path / "old")
    assert cuda_ops.products() == "float32"
    run_on((9, 0), tmp_path / "new")
    with pytest.raises(
        ConfigError, match=r"compute capability 8\.0 or higher, and this one has 7\.0; use another"
    ):
        run_on((7, 0), tmp_path / "new")


@pytest.mark.parametrize("stop_at", [13, 18])
def test_metrics_that_are_read_later_end_a_run_at_their_own_step(
    host: CudaOnHost, tmp_path: Path, stop_at: int
) -> None:
    """Also if the run is to stop right after the update: then no checkpoint is written."""
    limit = {"run.device": "cpu", "divergence.q_limit": 1e-9}
    ends = []
    for graph in ("auto", "off"):
        place, left = tmp_path / graph, iter(range(stop_at - 1, -1, -1))
        config = build_config("debug", SHORT | limit | {"agent.cuda_graph": graph})
        assert train(config, place, stop=lambda left=left: next(left) == 0) == "diverged"
        ends.append(read_run(place / "run.h5").divergence)
        assert not (place / "checkpoint").exists()
    assert ends[0] == ends[1]
    assert ends[0] is not None
    assert ends[0].vector_step == 13


def test_a_cpus_products_are_float32(tmp_path: Path) -> None:
    config = build_config("debug", SHORT | {"run.device": "cpu"})
    assert train(config, tmp_path, stop=lambda: True) == "stopped"
    assert read_run(tmp_path / "run.h5").attributes["products"] == "float32"


def test_products_are_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"agent\.products = 'tf32' is for GPUs; use auto or float32 on a CPU"
    ):
        train(build_config("debug", SHORT | {"run.device": "cpu", "agent.products": "tf32"}), tmp_path)
