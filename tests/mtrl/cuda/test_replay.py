"""The replay on a GPU gives the CPU's batches bit for bit, and its files are the CPU's.

On a machine without a GPU the kernels' own source runs on the host (tests/mtrl/cuda/cuda_on_host.py).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl import config, devices
from mtrl.config import ConfigError
from mtrl.cuda import ops as cuda_ops
from mtrl.cuda.replay import ReplayCuda
from mtrl.replay import Replay
from mtrl.replay_place import ShippedReplay, build_replay

TASKS, OBSERVATION, ACTION = 3, 5, 2
SIZES: dict[str, Any] = {
    "tasks": TASKS,
    "seed": 1,
    "discount": 0.9,
    "observation_size": OBSERVATION,
    "action_size": ACTION,
}
PER_TASK = [9, 0, 4]


class Twins:
    """Both replays, given the same transitions: episodes that go on, end, and sometimes jump."""

    def __init__(self, device: torch.device, settings: config.ReplaySettings) -> None:
        self.cpu = Replay(settings, **SIZES)
        self.gpu = ReplayCuda(settings, device=device, **SIZES)
        self.rng = np.random.default_rng(0)
        self.next = self.rng.standard_normal((TASKS, OBSERVATION))

    def add(self, steps: int) -> None:
        for _ in range(steps):
            observation, ends = self.next.copy(), self.rng.random((2, TASKS)) < 0.1
            if self.rng.random() < 0.1:
                observation[self.rng.integers(TASKS), 0] += 1
            self.next = self.rng.standard_normal((TASKS, OBSERVATION))
            numbers = self.rng.standard_normal((TASKS, ACTION)), self.rng.standard_normal(TASKS)
            for replay in (self.cpu, self.gpu):
                replay.add(observation, *numbers, *ends, self.next)

    def compare(self) -> torch.Tensor:
        expected, got = self.cpu.sample(PER_TASK), self.gpu.sample(PER_TASK)
        for name, wanted, column in zip(expected._fields, expected, got, strict=True):
            assert torch.equal(column.cpu(), wanted), name
        return expected.id.clone()

    def update(self, id: torch.Tensor) -> None:
        priority = torch.from_numpy(self.rng.random(len(id)).astype(np.float32))
        stale = self.cpu.update_priorities(id, priority)
        self.gpu.update_priorities(id, priority)
        assert self.gpu.check_priorities() == stale


SETTINGS = [
    config.ReplaySettings(capacity=20, mode="uniform"),
    config.ReplaySettings(capacity=20, mode="uniform_shared"),
    config.ReplaySettings(capacity=300, mode="prioritized"),
    config.ReplaySettings(capacity=20, mode="prioritized", weights="task"),
    config.ReplaySettings(capacity=20, mode="prioritized_independent", weights="buffer"),
    config.ReplaySettings(capacity=20, mode="prioritized_independent", weights="none", beta=1, lag=1),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.mode}-{s.weights}-{s.capacity}")
@pytest.mark.parametrize("n_step", [1, 3])
def test_batches_are_the_cpus(device: torch.device, settings: config.ReplaySettings, n_step: int) -> None:
    twins = Twins(device, settings.model_copy(update={"n_step": n_step}))
    seen = torch.empty(0, dtype=torch.int64)
    for steps in (1, 7, 9, 11, 13, 300 if settings.capacity == 300 else 5):
        twins.add(steps)
        id = twins.compare()
        if settings.mode.startswith("prioritized"):
            seen = torch.cat((seen[-10:], id))  # old ones, some overwritten, some twice
            twins.update(seen)
        assert (twins.gpu.size == twins.cpu.size).all()
    twins.gpu.check_valid()


@pytest.mark.parametrize("mode", ["uniform", "prioritized"])
@pytest.mark.parametrize("lag", [0, 1])
def test_files_are_the_cpus(device: torch.device, tmp_path: Path, mode: Any, lag: Any) -> None:
    settings = config.ReplaySettings(capacity=20, mode=mode, lag=lag)
    twins = Twins(device, settings)
    for steps in (0, 3, 19, 5, 30):
        twins.add(steps)
        if steps > 3:
            twins.compare()
        twins.gpu.save(tmp_path / "gpu", tmp_path)
        twins.cpu.save(tmp_path / "cpu", tmp_path)
        other = Twins(device, settings)
        other.rng, other.next = np.random.default_rng(steps), twins.next
        other.cpu.load(tmp_path / "gpu", tmp_path)
        other.gpu.load(tmp_path / "cpu", tmp_path)
        other.cpu.check_valid()
        other.gpu.check_valid()
        other.add(5)
        id = other.compare()
        if mode == "prioritized":
            other.update(id)
            other.compare()


@pytest.mark.parametrize("capacity", [2, 50])
def test_saves_write_each_row_once(device: torch.device, tmp_path: Path, capacity: int) -> None:
    """Saves after random numbers of adds, the ring running round; each is loaded here and on the CPU, some are gone on
    from."""
    settings = config.ReplaySettings(capacity=capacity, mode="prioritized")
    twins, most, rng = Twins(device, settings), 0, np.random.default_rng(1)
    for _ in range(30):
        twins.add(int(rng.integers(0, 20)))
        used = twins.gpu.save(tmp_path / "gpu", tmp_path)
        most = max(most, len(used))
        assert all(one.last == other.first for one, other in itertools.pairwise(used))
        cpu, gpu = Replay(settings, **SIZES), ReplayCuda(settings, device=device, **SIZES)
        for other in (cpu, gpu):
            other.load(tmp_path / "gpu", tmp_path)
            other.check_valid()
            assert np.array_equal(other.state_dict()["replay"], twins.gpu.state_dict()["replay"])
        if twins.cpu.size.all():
            twins.compare()
        if rng.random() < 0.3:
            twins.gpu.load(tmp_path / "gpu", tmp_path)
            twins.cpu.load(tmp_path / "gpu", tmp_path)
    assert most > (capacity == 50), "more than one file of rows"


def test_damaged_segments_are_refused(device: torch.device, tmp_path: Path) -> None:
    twins = Twins(device, config.ReplaySettings(capacity=20))
    twins.add(10)
    (segment,) = twins.cpu.save(tmp_path / "replay.bin", tmp_path)
    state = np.fromfile(tmp_path / "replay.bin", np.uint8)
    with pytest.raises(ValueError, match="names files of rows; load it from where they are"):
        twins.gpu.load_state_dict({"replay": state})
    content = bytearray((tmp_path / segment.name).read_bytes())
    content[-1] ^= 1
    (tmp_path / segment.name).write_bytes(content)
    with pytest.raises(ValueError, match="segment 0 does not match its checksum"):
        twins.gpu.load(tmp_path / "replay.bin", tmp_path)
    twins.compare()


def test_counts_are_fixed_where_batches_are_prefetched(device: torch.device) -> None:
    twins = Twins(device, config.ReplaySettings(capacity=20, mode="uniform", lag=1))
    twins.add(5)
    twins.compare()
    with pytest.raises(ValueError, match=r"with \[9, 0, 4\]; use lag 0"):
        twins.gpu.sample(4)
    twins.compare()


def test_exponents_change_as_on_the_cpu(device: torch.device) -> None:
    twins = Twins(device, config.ReplaySettings(capacity=20, mode="prioritized"))
    twins.add(15)
    twins.update(twins.compare())
    for replay in (twins.cpu, twins.gpu):
        replay.set_alpha(0.9)
        replay.set_beta(0.7)
    twins.update(twins.compare())
    twins.compare()
    twins.gpu.check_valid()


def test_damage_is_refused_and_changes_nothing(device: torch.device) -> None:
    twins = Twins(device, config.ReplaySettings(capacity=20, mode="prioritized"))
    twins.add(30)
    state = twins.gpu.state_dict()["replay"]
    for at in range(8, len(state), len(state) // 50):
        broken = state.copy()
        broken[at] ^= 1
        with pytest.raises(ValueError, match=r"damaged|checkpoint has"):
            twins.gpu.load_state_dict({"replay": broken})
    for length in (9, len(state) - 3):
        with pytest.raises(ValueError, match="it ends inside"):
            twins.gpu.load_state_dict({"replay": state[:length]})
    twins.compare()
    other = ReplayCuda(config.ReplaySettings(capacity=21, mode="prioritized"), device=device, **SIZES)
    with pytest.raises(ValueError, match="capacity = 20, this replay has 21"):
        other.load_state_dict({"replay": state})


def test_bad_input_names_the_column(device: torch.device) -> None:
    twins = Twins(device, config.ReplaySettings(capacity=20, mode="prioritized"))
    with pytest.raises(ValueError, match="task 0 has no transitions to sample; add some first"):
        twins.gpu.sample(2)
    with pytest.raises(ValueError, match="give one count, or 3, at least 1 in all"):
        twins.gpu.sample([1, 1])
    twins.add(3)
    columns = [
        np.zeros((3, 5)),
        np.zeros((3, 2)),
        np.zeros(3),
        np.zeros(3, bool),
        np.zeros(3, bool),
        np.zeros((3, 5)),
    ]
    with pytest.raises(ValueError, match=r"action has shape \[3, 4\]; expected \[3, 2\]"):
        twins.gpu.add(columns[0], np.zeros((3, 4)), *columns[2:])
    with pytest.raises(ValueError, match="truncated is a bool with a byte that is neither 0 nor 1"):
        twins.gpu.add(*columns[:4], np.full(3, 2, np.uint8).view(bool), columns[5])
    with pytest.raises(TypeError, match=r"terminated has dtype torch\.float64; expected torch\.bool"):
        twins.gpu.add(*columns[:3], np.zeros(3), *columns[4:])
    id = twins.compare()
    bad = torch.ones(len(id))
    bad[5] = torch.nan
    twins.gpu.update_priorities(id, bad)
    with pytest.raises(ValueError, match="row 5 of the last update of priorities"):
        twins.gpu.check_priorities()
    twins.compare()


def test_where_the_rows_lie(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    full, stacked = config.ReplaySettings(capacity=20), config.ReplaySettings(capacity=20, rows="frame_stack")
    more = {"device": device, "tasks": 2, "seed": 0, "discount": 0.9}
    assert isinstance(build_replay(full, **more), ReplayCuda)
    assert isinstance(build_replay(full, place="host", **more), ShippedReplay)
    assert isinstance(build_replay(stacked, **more), ShippedReplay)
    with pytest.raises(
        ConfigError, match=r"run\.replay = 'device': replay\.rows = 'frame_stack' is for rows on the host"
    ):
        build_replay(stacked, place="device", **more)
    with pytest.raises(ConfigError, match=r"use full"):
        ReplayCuda(stacked, **more)
    monkeypatch.setattr(cuda_ops, "kernels", None)
    assert isinstance(build_replay(full, **more), ShippedReplay)
    monkeypatch.setattr(devices, "is_gpu", lambda device: False)
    more["device"] = torch.device("cpu")
    assert type(build_replay(full, **more)) is Replay
    with pytest.raises(ConfigError, match="needs a GPU, this run's is 'cpu'"):
        build_replay(full, place="device", **more)


@pytest.mark.parametrize("rows", ["full", "frame_stack"])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("lag", [0, 1])
def test_shipped_batches_are_the_cpus(device: torch.device, rows: Any, n_step: int, lag: Any) -> None:
    settings = config.ReplaySettings(capacity=20, mode="prioritized", rows=rows, n_step=n_step, lag=lag)
    sizes = SIZES | {"frame_size": 2}  # and a goal of one number
    cpu, shipped = Replay(settings, **sizes), ShippedReplay(settings, device=device, **sizes)
    rng = np.random.default_rng(0)
    following = rng.standard_normal((TASKS, OBSERVATION))
    for time in range(40):
        ends = rng.random((2, TASKS)) < 0.1
        observation = np.where(ends.any(0)[:, None], rng.standard_normal((TASKS, OBSERVATION)), following)
        following = np.concatenate(
            [rng.standard_normal((TASKS, 2)), observation[:, :2], observation[:, 4:]], 1
        )
        action = rng.standard_normal((TASKS, ACTION))
        for replay in (cpu, shipped):
            replay.add(observation, action, observation[:, 0].copy(), *ends, following)
        if time == 20:
            state = shipped.state_dict()
            shipped = ShippedReplay(settings, device=device, **sizes)
            shipped.load_state_dict(state)
        held = [(cpu.sample(4), shipped.sample(4)) for _ in range(3)]
        for expected, got in held:
            for wanted, column in zip(expected, got, strict=True):
                assert torch.equal(column.cpu(), wanted)
        priority = torch.from_numpy(rng.random(len(got.id)))
        assert shipped.update_priorities(got.id, priority.to(device)) == cpu.update_priorities(
            expected.id, priority
        )
