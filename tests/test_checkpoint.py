"""Checkpoints: whole or absent, the newest sound one loaded, two kept."""

from pathlib import Path

import numpy as np
import pytest

from mtrl import checkpoint
from mtrl.checkpoint import load_checkpoint, save_checkpoint
from mtrl.config import build_config
from mtrl.replay import Replay


def make_replay(rows: int = 0) -> Replay:
    replay = Replay(build_config("debug").replay, tasks=2, seed=0, discount=0.99)
    random = np.random.default_rng(0)
    for _ in range(rows):
        observation, following = random.normal(size=(2, 2, 39))
        ends = np.zeros(2, bool)
        replay.add(observation, random.uniform(-1, 1, (2, 4)), random.normal(size=2), ends, ends, following)
    return replay


def test_round_trip_keeps_two(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, make_replay()) is None
    replay = make_replay(rows=7)
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {"step": step}, replay)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "2"]
    restored = make_replay()
    assert load_checkpoint(tmp_path, restored) == {"step": 10}
    assert restored.size.tolist() == [7, 7]


@pytest.mark.parametrize("file", ["state.pt", "replay.bin", "checksums.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, file: str, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step}, make_replay(rows=3))
    damaged = tmp_path / "2" / file
    content = bytearray(damaged.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
    elif damage == "cut":
        damaged.write_bytes(content[: len(content) // 2])
    else:
        damaged.unlink()
    assert load_checkpoint(tmp_path, make_replay()) == {"step": 1}


@pytest.mark.parametrize("crash_at", range(8))
def test_a_crash_at_any_point_of_the_writer_leaves_a_loadable_checkpoint(
    tmp_path: Path, crash_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1}, make_replay(rows=3))
    save_checkpoint(tmp_path, 2, {"step": 2}, make_replay(rows=3))
    reached = 0

    def crash_then(function):  # type: ignore[no-untyped-def]
        def call(*arguments, **named):  # type: ignore[no-untyped-def]
            nonlocal reached
            if reached == crash_at:
                raise KeyboardInterrupt
            reached += 1
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(checkpoint.torch, "save", crash_then(checkpoint.torch.save))
    monkeypatch.setattr(Path, "rename", crash_then(Path.rename))
    monkeypatch.setattr(checkpoint, "_sync", crash_then(checkpoint._sync))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", crash_then(checkpoint.shutil.rmtree))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 3, {"step": 3}, make_replay(rows=3))
    monkeypatch.undo()
    state = load_checkpoint(tmp_path, make_replay())
    assert state is not None
    assert state["step"] in (2, 3)
    save_checkpoint(tmp_path, 4, {"step": 4}, make_replay(rows=3))  # and the next one is written all the same
    assert load_checkpoint(tmp_path, make_replay()) == {"step": 4}
