"""Hostile calls of a replay: steps in any order, files, and a replay that lies elsewhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtrl import _core
from tests.mtrl.core_hostile import REFUSED, attempt, floats, hostile, objects, spoiled
from tests.mtrl.core_objects import SHAPE, outputs


def replay(random: random.Random, folder: Path) -> None:
    tasks, o, a = (random.choice((1, 2, 3)) for _ in range(3))
    frame = random.choice((0, 0, o // 2))
    shape = {
        **SHAPE, "tasks": tasks, "capacity": random.choice((2, 5, 300)), "observation": o, "action": a, "frame": frame,
        "mode": random.choice(("uniform", "uniform_shared", "prioritized", "prioritized_independent")),
        "normalization": random.choice(("batch", "task", "buffer", "none")), "n_step": random.choice((1, 3)),
    }  # fmt: skip
    if random.random() < 0.1:
        shape["folder"] = str(folder)
    attempt("ReplayBuffer", _core.ReplayBuffer, **spoiled(random, shape))
    one = _core.ReplayBuffer(**shape)
    no, batch, rows = torch.zeros(tasks, dtype=torch.bool), None, 0
    for _ in range(random.randrange(30)):
        step = random.choice(
            ("add",) * 4 + ("sample",) * 4 + ("priorities", "state", "file", "rest", "elsewhere")
        )
        if step == "add":
            observation = floats(random, tasks, o)
            values = [
                observation,
                floats(random, tasks, a),
                floats(random, tasks),
                no,
                no.clone(),
                observation,
            ]
            hostile(random, "add", one.add, values)
        elif step == "sample":
            counts = [random.randrange(4) for _ in range(tasks)]
            rows = max(1, sum(counts))
            batch = outputs(rows, o, a)
            if random.random() < 0.5:
                hostile(random, "prefetch", one.prefetch, [counts, batch, random.random() < 0.5])
            hostile(random, "sample", one.sample, [counts, batch])
        elif step == "priorities":
            end = random.choice((1, 9, 1 << 48))
            ids = torch.tensor([random.randrange(end) for _ in range(3)])
            hostile(random, "priorities", one.update_priorities, [ids, floats(random, 3).abs()])
        elif step == "state":
            state = torch.from_numpy(one.state())
            if random.random() < 0.5:
                state[random.randrange(len(state))] += random.choice((1, 255))
            hostile(random, "load_state", one.load_state, [state])
        elif step == "file":
            first, last = one.settled_rows()
            path, checksum = str(folder / "rows"), 0
            checksum = hostile(random, "save_rows", one.save_rows, [path, first, last])
            checksum = 0 if checksum is REFUSED else checksum
            if last > first:
                name = _core.segment_name(first, last, checksum)
                if (folder / "rows").exists():
                    (folder / "rows").rename(folder / name)
            segments = [(first, last, checksum)] if random.random() < 0.5 else []
            hostile(random, "save", one.save, [str(folder / "replay"), segments])
            hostile(random, "load", one.load, [str(folder / "replay"), str(folder)])
        elif step == "elsewhere":
            elsewhere(random, folder, shape, one.state())
        else:
            hostile(random, "set_alpha", one.set_alpha, [0.5])
            hostile(random, "set_beta", one.set_beta, [0.5])
            hostile(random, "take_prefetched", one.take_prefetched, [batch])
            one.size(), one.prefetched()
        assert one.check() == "", one.check()
    if batch is not None:
        objects(random, batch)
    objects(random, one)


def elsewhere(random: random.Random, folder: Path, shape: dict[str, Any], state: Any) -> None:
    """The codec of a replay that lies elsewhere, with images that may not fit."""
    one = _core.ReplayBuffer(**{**shape, "tasks": 1, "folder": ""})
    rows, stride = shape["capacity"] + 1, 2 * shape["observation"] + shape["action"] + 3

    def image_of(task: int) -> Any:
        image = (
            torch.tensor([0, random.choice((0, 1, 2, -1, 1 << 40)), random.choice((0, 1, 5))]),
            floats(random, rows, random.choice((stride, stride + 1))),
            floats(random, rows, shape["observation"]), floats(random, rows).abs(),
        )  # fmt: skip
        return spoiled(random, image) if random.random() < 0.5 else image

    numbers = (shape["tasks"], 1, 2, 0.6)
    hostile(random, "elsewhere_state", one.elsewhere_state, [numbers, image_of, [], None])
    hostile(random, "save_elsewhere", one.save_elsewhere, [str(folder / "far"), numbers, image_of, [], None])
    values = [torch.from_numpy(state), str(folder), shape["tasks"], image_of, lambda task: None]
    hostile(random, "load_elsewhere", one.load_elsewhere, values)


def batches(random: random.Random) -> None:
    rows, o, a = (random.choice((1, 2, 3)) for _ in range(3))
    batch = outputs(rows, o, a)
    batch.is_intact()
    memory = np.zeros(4 * rows * (2 * o + a + 8), np.uint8)
    tensors = [floats(random, rows, n) if n else floats(random, rows) for n in (o, a, 0, 0, o, 0, 0, 0, 0)]
    hostile(random, "ReplayOutputs", _core.ReplayOutputs, [memory, rows, o, a, 0, tuple(tensors)])
