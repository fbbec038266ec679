"""Checkpoints: whole or absent, the newest sound one loaded, two kept, nothing in them executed."""

import itertools
import os
import pickle
import resource
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import mtrl.replay
from mtrl import checkpoint
from mtrl.checkpoint import CheckpointError, load_tensors, save_tensors
from mtrl.overrides import build_config
from mtrl.replay import Replay

CONFIG = build_config("debug")
CPU = torch.device("cpu")


def make_replay(rows: int = 0) -> Replay:
    settings = CONFIG.replay.model_copy(update={"capacity": 20})
    return grow(Replay(settings, tasks=2, seed=0, discount=0.99), rows)


def grow(replay: Replay, rows: int) -> Replay:
    random = np.random.default_rng(int(replay.size[0]))
    for _ in range(rows):
        observation, following = random.normal(size=(2, 2, 39))
        ends = np.zeros(2, bool)
        replay.add(observation, random.uniform(-1, 1, (2, 4)), random.normal(size=2), ends, ends, following)
    return replay


def save(folder: Path, step: int, replay: Replay | None = None) -> None:
    checkpoint.save_checkpoint(folder, step, {"step": step}, replay or make_replay(3), CONFIG, CPU)


def same(one: Replay, other: Replay) -> bool:
    return np.array_equal(one.state_dict()["replay"], other.state_dict()["replay"])


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name != "rows")


def load(folder: Path, replay: Replay | None = None) -> dict[str, Any] | None:
    return checkpoint.load_checkpoint(folder, replay or make_replay(), CONFIG, CPU)


def test_round_trip_keeps_two(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    for step in (1, 2, 10):
        save(tmp_path, step, make_replay(7))
    assert steps(tmp_path) == [2, 10]
    restored = make_replay()
    assert load(tmp_path, restored) == {"step": 10}
    assert restored.size.tolist() == [7, 7]


def test_rows_are_written_once_and_each_checkpoint_stands_alone(tmp_path: Path) -> None:
    replay = make_replay()
    for step in range(1, 15):
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("*")}
        save(tmp_path, step, grow(replay, 3))
        after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
        (new,) = after.keys() - before.keys()
        first, last = map(int, new.split("-")[:2])
        assert (first, last) == (max(3 * step - 4, 0), 3 * step - 1)  # the new ones, but the newest
        assert all(before[name] == after[name] for name in after.keys() & before.keys())
        assert len(after) <= 9  # those of twenty rows, and of the checkpoint before
        restored = make_replay()
        assert load(tmp_path, restored) == {"step": step}
        assert same(replay, restored)
        if step % 4 == 0:  # a run that is resumed goes on from the files there are
            replay = restored
        if step % 5 == 0:
            shutil.rmtree(tmp_path / str(step - 1))
            assert load(tmp_path, make_replay()) == {"step": step}


def test_a_lost_file_of_rows_is_written_again(tmp_path: Path) -> None:
    replay = make_replay(8)
    save(tmp_path, 1, replay)
    for path in (tmp_path / "rows").iterdir():
        path.unlink()
    save(tmp_path, 2, grow(replay, 3))
    restored = make_replay()
    assert load(tmp_path, restored) == {"step": 2}
    assert same(replay, restored)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_rows_damage_the_checkpoints_that_name_them(tmp_path: Path, damage: str) -> None:
    replay = make_replay(5)
    save(tmp_path, 1, replay)
    older = {path.name for path in (tmp_path / "rows").iterdir()}
    save(tmp_path, 2, grow(replay, 5))
    spoil(next(path for path in (tmp_path / "rows").iterdir() if path.name not in older), damage)
    with pytest.warns(RuntimeWarning, match=r"2 is damaged .*rows/"):
        assert load(tmp_path) == {"step": 1}


def test_an_agent_is_read_without_the_replay(tmp_path: Path) -> None:
    checkpoint.save_checkpoint(tmp_path, 1, {"agent": {"step": 1}}, make_replay(3), CONFIG, CPU)
    shutil.rmtree(tmp_path / "rows")
    (tmp_path / "1/replay.bin").unlink()
    assert checkpoint.read_agent(tmp_path / "1") == (CONFIG, {"step": 1})
    spoil(tmp_path / "1/state.pt", "flip")
    with pytest.raises(CheckpointError, match=r"1 is damaged \(checksum of state.pt\)"):
        checkpoint.read_agent(tmp_path / "1")


STATE: dict[str, Any] = {
    "generator": np.random.default_rng(3).bit_generator.state,  # holds integers of 128 bits
    "legacy": np.random.RandomState(1).get_state(legacy=False),  # uint32
    "torch": torch.Generator().get_state(),
    "tensor": torch.tensor([1.5, float("nan")]),
    "nested": [{"flag": True, "none": None, "text": "x", "float": 0.1, "scalar": np.float32(0.1)}],
    "arrays": [np.zeros((0, 3)), np.arange(6.0).reshape(2, 3).T, np.array([True, False])],
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    return type(one) is type(other) and one == other


def test_every_kind_of_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_tensors(tmp_path / "state.pt", STATE)
    assert equal(STATE, load_tensors(tmp_path / "state.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


class Trap:
    """Creates a file where it is unpickled the unsafe way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_loading_executes_nothing(tmp_path: Path, write: Any) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "state.pt"
    write({"step": Trap(sprung)}, path)
    with pytest.raises(CheckpointError, match="nothing was executed"):
        load_tensors(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert sprung.exists()  # the trap works


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    save(tmp_path, 1)
    other = build_config("debug", {"train.seed": 1, "network.actor.width": 64, "run.threads": 2})
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load_checkpoint(tmp_path, make_replay(), other, torch.device("cuda"))
    for part in ("network.actor.width is 64, was 32; train.seed is 1, was 0", "device is cuda, was cpu"):
        assert part in str(refused.value)
    assert "run.threads" not in str(refused.value)


def test_another_machine_may_go_on(tmp_path: Path) -> None:
    save(tmp_path, 1)
    config = build_config("debug", {"run.threads": 2, "run.env_workers": 3})
    assert checkpoint.load_checkpoint(tmp_path, make_replay(), config, CPU) == {"step": 1}


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()


@pytest.mark.parametrize("file", [*checkpoint.FILES, "checksums.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, file: str, damage: str) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    spoil(tmp_path / "2" / file, damage)
    with pytest.warns(RuntimeWarning, match="2 is damaged"):
        assert load(tmp_path) == {"step": 1}
    save(tmp_path, 2)  # once more at the step of the damaged one
    assert load(tmp_path) == {"step": 2}


def test_what_a_damaged_checkpoint_made_a_run_give_up_counts_no_more(tmp_path: Path) -> None:
    for step in (10, 30):
        save(tmp_path, step)
    (tmp_path / "30/state.pt").unlink()
    save(tmp_path, 20)
    assert steps(tmp_path) == [10, 20]


WRITER = (checkpoint.__file__, mtrl.replay.__file__)


def die_at(event: int) -> None:
    """From here on ends the process, as kill -9 does, before the given line that the writer runs."""
    lines = 0

    def trace(frame: FrameType, kind: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in WRITER:
            return None
        if kind == "line":
            if lines == event:
                os.kill(os.getpid(), signal.SIGKILL)
            lines += 1
        return trace

    sys.settrace(trace)


def save_in_child(folder: Path, step: int, prepare: Any, replay: Replay | None = None) -> int:
    """Saves in a child process after `prepare()` in it; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            save(folder, step, replay)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_a_kill_before_any_line_of_the_writer_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    replay, states = make_replay(3), {}
    for step in itertools.count():
        states[step] = grow(replay, 2).state_dict()["replay"]
        if step > 1:
            if save_in_child(tmp_path, step, partial(die_at, step - 2), replay) != signal.SIGKILL:
                break
            restored = make_replay()
            state = load(tmp_path, restored)
            assert state is not None
            assert state["step"] in (step - 1, step)
            assert np.array_equal(restored.state_dict()["replay"], states[state["step"]])
        save(tmp_path, step, replay)  # the next one is written all the same
        assert steps(tmp_path) == [max(step - 1, 0), step][-len(states) :]
    assert step > 100  # each line that the writer runs was one trial
    assert load(tmp_path) == {"step": step}


def test_a_kill_within_any_write_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    """The kernel ends a process whose file grows beyond its limit: that is a kill in the middle of a write."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("*/*"))
    limits = sorted({limit for size in sizes for limit in (0, size // 2, size - 1)})
    for limit in limits:

        def prepare(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        assert save_in_child(tmp_path, 3, prepare) == signal.SIGXFSZ
        assert load(tmp_path) == {"step": 2}


def test_a_full_disk_leaves_the_earlier_checkpoints_and_no_rest(tmp_path: Path) -> None:
    save(tmp_path, 1)
    largest = max(path.stat().st_size for path in tmp_path.glob("*/*"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, largest // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(OSError, match="checkpoint of vector step 2 cannot be written"):
                save(tmp_path, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert steps(tmp_path) == [1]
        assert len(list((tmp_path / "rows").iterdir())) == 1
    assert load(tmp_path) == {"step": 1}
