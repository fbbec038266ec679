"""Random and hostile calls of every function and class of the core: each is right, or an error that names something.

The core must not crash, hang or raise anything else. MTRL_FUZZ_SECONDS runs the long test; MTRL_SEED is its first seed.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrl import _core, ops
from tests.mtrl.core_objects import SHAPE, in_child, outputs

ERRORS = (ValueError, TypeError, RuntimeError, OverflowError, OSError)
SECONDS = float(os.environ.get("MTRL_FUZZ_SECONDS", "0"))
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    1 << 31,
    1 << 40,
    (1 << 62) + 1,
    (1 << 63) - 1,
    -(1 << 63),
    1 << 64,
    0.5,
    None,
    "x",
)
REALS = (0.0, -1.0, 0.5, 1.0, float("nan"), float("inf"), -float("inf"), 1e300, 1e-300, None, "x")
NAMES = ("", "auto", "none", "batch", "uniform", "prioritized", "avx512", "a\0b", "\ud800", 3)
calls: Counter[str] = Counter()


def floats(random: random.Random, *shape: int) -> torch.Tensor:
    """Numbers of this shape, some of them not finite, zero or huge."""
    array = torch.tensor([random.gauss(0, 1) for _ in range(int(np.prod(shape)))]).view(shape)
    if array.numel() and random.random() < 0.1:
        array.view(-1)[random.randrange(array.numel())] = random.choice((np.nan, np.inf, -np.inf, 0, 3e38))
    return array


def spoiled(random: random.Random, value: Any) -> Any:
    """`value` made wrong in one of many ways, or as it is."""
    if isinstance(value, torch.Tensor):
        return random.choice(SPOILERS)(value.clone(), random)
    if isinstance(value, dict):
        key = random.choice([*value, "other"])
        return {**value, key: spoiled(random, value.get(key))}
    if isinstance(value, (tuple, list)) and value:
        items = list(value)
        place = random.randrange(len(items))
        items[place] = spoiled(random, items[place])
        return random.choice((tuple(items), items, items[:-1], items * 2))
    if isinstance(value, str):
        return random.choice(NAMES)
    if random.random() < 0.1:
        return random.choice(SPOILERS)(torch.rand(random.choice(((), (1,), (2,)))), random)
    return random.choice(NUMBERS + REALS)


def freed(tensor: torch.Tensor, _: random.Random) -> torch.Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def shrunk(tensor: torch.Tensor, _: random.Random) -> torch.Tensor:
    tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() // 2)
    return tensor


def read_only(tensor: torch.Tensor, _: random.Random) -> Any:
    array = tensor.numpy()
    array.flags.writeable = False
    return array


def misplaced(tensor: torch.Tensor, random: random.Random) -> Any:
    """One byte off a number's place."""
    memory = np.zeros(tensor.nbytes + 8, np.uint8)
    array = memory[1 : 1 + tensor.nbytes].view(tensor.numpy().dtype).reshape(tuple(tensor.shape))
    array[...] = tensor.numpy()
    return array


def resized(tensor: torch.Tensor, random: random.Random) -> torch.Tensor:
    shape = list(tensor.shape) or [1]
    shape[random.randrange(len(shape))] = random.choice((0, 1, 2, 5))
    return tensor.new_zeros(shape)


SPOILERS: tuple[Callable[[torch.Tensor, random.Random], Any], ...] = (
    lambda tensor, _: tensor,
    lambda tensor, _: tensor.numpy(),
    lambda tensor, _: tensor.double() if tensor.is_floating_point() else tensor.int(),
    lambda tensor, _: tensor.half(),
    lambda tensor, _: tensor.bool(),
    lambda tensor, _: tensor.to("meta"),
    lambda tensor, _: tensor.to_sparse() if tensor.dim() else tensor,
    lambda tensor, _: tensor.unsqueeze(0),
    lambda tensor, _: tensor.reshape(-1),
    lambda tensor, _: tensor.repeat_interleave(2, -1)[..., ::2] if tensor.dim() else tensor,
    lambda tensor, _: (
        tensor.flatten()[:1].expand(tensor.shape) if tensor.numel() and tensor.dim() else tensor
    ),
    lambda tensor, _: tensor.mT if tensor.dim() > 1 else tensor,
    lambda tensor, _: tensor.numpy().astype(tensor.numpy().dtype.newbyteorder(">")),
    lambda tensor, random: tensor.fill_(
        2 if tensor.dtype == torch.uint8 else random.choice((-1, 2, 1 << 40))
    ),
    lambda tensor, _: tensor.requires_grad_() if tensor.is_floating_point() else tensor,
    lambda tensor, _: torch.nn.Parameter(tensor, requires_grad=False),
    lambda tensor, _: torch._neg_view(tensor),
    lambda tensor, _: tensor.tolist(),
    lambda tensor, _: None,
    freed,
    shrunk,
    read_only,
    misplaced,
    resized,
)


REFUSED = object()
WRITTEN = {  # by the argument's place
    "linear_forward": {5, 6},
    "linear_backward": {6, 7, 8, 9, 10, 11},
    "head_forward": {4, 5},
    "head_backward": {4, 5, 6, 7},
    "td_target": {6},
    "adam": {0, 2, 3, 4},
    "update": {2, 14},
    "act": {4},
}
IN_PLACE = ("linear_backward", {5, 6})  # dz may be dy


def attempt(name: str, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """What the call returns; REFUSED where it is refused with one of ERRORS that says something."""
    calls[name] += 1
    try:
        return function(*values, **named)
    except ERRORS as error:
        if not str(error).strip():
            raise AssertionError(f"{name}: an error without words") from error
        calls["refused"] += 1
        return REFUSED


def hostile(random: random.Random, name: str, function: Callable[..., Any], values: list[Any]) -> Any:
    """The call with some of its arguments spoiled, or two of them the same array."""
    arrays = [i for i, value in enumerate(values) if isinstance(value, torch.Tensor)]
    for place in random.sample(range(len(values)), min(len(values), random.choice((0, 1, 1, 1, 2)))):
        values[place] = spoiled(random, values[place])
    same = set(random.sample(arrays, 2)) if len(arrays) > 1 and random.random() < 0.1 else set()
    for one in same:
        values[one] = values[min(same)]
    result = attempt(name, function, *values)
    if same & WRITTEN.get(name, set()) and (name, same) != IN_PLACE and result is not REFUSED:
        shared = values[min(same)]
        size = shared.numel() if isinstance(shared, torch.Tensor) else np.size(shared)
        assert shared is None or size == 0, f"{name}: arguments {same} share memory"
    return result


def layer(random: random.Random) -> None:
    e, b, d, w, t = (random.choice((1, 2, 3, 17)) for _ in range(5))
    b *= random.choice((0, 1, 1, 1))
    x = floats(random, b, d) if random.random() < 0.3 else floats(random, e, b, d)
    tasks = random.random() < 0.5
    row = floats(random, e, t, w) if tasks else None
    task = torch.tensor([random.randrange(t) for _ in range(b)], dtype=torch.int64) if tasks else None
    kernel, y = floats(random, e, d, w), floats(random, e, b, w)
    size = attempt("linear_workspace", _core.ensemble_linear_workspace, e, b, d, w)
    hostile(random, "linear_workspace", _core.ensemble_linear_workspace, [e, b, d, w])
    space = torch.empty(size)
    hostile(
        random, "linear_forward", _core.ensemble_linear_forward,
        [x, kernel, floats(random, e, w), row, task, y, space],
    )  # fmt: skip
    some = random.random() < 0.7
    gradients = [
        floats(random, e, b, d) if random.random() < 0.7 else None,
        floats(random, e, d, w) if some else None,
        floats(random, e, w) if some else None,
        floats(random, e, t, w) if some and tasks else None,
    ]
    hostile(
        random, "linear_backward", _core.ensemble_linear_backward,
        [x, kernel, row, task, y, floats(random, e, b, w), floats(random, e, b, w), *gradients, space],
    )  # fmt: skip


def head(random: random.Random) -> None:
    e, b, w, o, t = (random.choice((1, 2, 3, 17)) for _ in range(5))
    b *= random.choice((0, 1, 1, 1))
    x, kernel, bias = floats(random, e, b, w), floats(random, e, t, w, o), floats(random, e, t, o)
    task = torch.tensor([random.randrange(t) for _ in range(b)], dtype=torch.int64)
    hostile(random, "head_workspace", _core.head_gather_workspace, [e, b, w, o, t])
    space = torch.empty(_core.head_gather_workspace(e, b, w, o, t))
    y = floats(random, e, b, o)
    hostile(random, "head_forward", _core.head_gather_forward, [x, kernel, bias, task, y, space])
    some = random.random() < 0.7
    values = [
        x, kernel, task, y,
        floats(random, e, b, w) if random.random() < 0.7 else None,
        floats(random, e, t, w, o) if some else None,
        floats(random, e, t, o) if some else None,
        space,
    ]  # fmt: skip
    hostile(random, "head_backward", _core.head_gather_backward, values)


def target(random: random.Random) -> None:
    e, b = random.choice((1, 2, 5)), random.choice((0, 1, 3, 40))
    rows = [floats(random, b) for _ in range(5)]
    hostile(
        random, "td_target", _core.td_target, [*rows[:2], floats(random, e, b), *rows[2:], torch.empty(b)]
    )


def adam(random: random.Random) -> None:
    n = random.choice((0, 1, 7, 33000))
    vectors: list[Any] = [torch.rand(n) for _ in range(5)]
    if random.random() < 0.3:
        vectors[4] = None
    hostile(random, "adam", _core.adam_polyak, [*vectors, 1e-3, 0.9, 0.999, 1e-5, 0.01, 1.0, 0.1, 1])


def kernels(random: random.Random) -> None:
    hostile(random, "choose_matmul", _core.choose_matmul_kernel, ["portable"])
    attempt(
        "choose_matmul", _core.choose_matmul_kernel, random.choice(("portable", "avx2", "avx512", "blas"))
    )
    attempt("offer_blas", _core.offer_blas, random.choice((None, 1, "x", b"", _core)))
    hostile(random, "segment_name", _core.segment_name, [0, 1, 2])
    _core.instruction_set(), _core.cuda_build(), _core.matmul_kernel()


def network(critics: int, inputs: int, outputs: int, tasks: int, width: int, depth: int) -> dict[str, Any]:
    sizes = [tasks * width, tasks * width * outputs, tasks * outputs]
    sizes += [width * (width if i else inputs) for i in range(depth)] + [width] * depth
    start = [int(n) for n in np.cumsum([0, *sizes])[:-1] * critics]
    shape = {"critics": critics, "inputs": inputs, "outputs": outputs, "tasks": tasks, "width": width}
    return {**shape, "depth": depth, "start": start}


def flat(random: random.Random, shape: dict[str, Any]) -> tuple[Any, ...]:
    s = shape
    n = s["start"][-1] + s["critics"] * s["width"]
    return (*(torch.rand(n) * 0.1 for _ in range(4)), 1)


def update(random: random.Random) -> None:
    tasks, width, depth, o, a = (random.choice((1, 2, 3)) for _ in range(5))
    rows = random.choice((1, 2, 70))
    actor, critic = network(1, o, 2 * a, tasks, width, depth), network(2, o + a, 1, tasks, width, depth)
    numbers = dict.fromkeys([*sorted(ops.SAC_SETTINGS), "beta1", "beta2"], 0.1)
    hostile(random, "SacUpdate", _core.SacUpdate, [numbers, actor, critic, 1])
    one = _core.SacUpdate(numbers, actor, critic, random.randint(1, min(2, os.cpu_count() or 1)))
    temperature = (*(torch.rand(tasks) for _ in range(4)), 1)
    task = torch.tensor([random.randrange(tasks) for _ in range(rows)])
    states = [flat(random, actor), flat(random, critic)]

    def values() -> list[Any]:
        column = [floats(random, rows) for _ in range(5)]
        return [
            *states, states[1][0].clone(), temperature, floats(random, rows, o), floats(random, rows, a),
            *column[:2], floats(random, rows, o), task, *column[2:4], floats(random, rows, a),
            floats(random, rows, a), column[4],
        ]  # fmt: skip

    noise = floats(random, rows, a) if random.random() < 0.5 else None
    seen = [states[0][0], floats(random, rows, o), task, noise, floats(random, rows, a)]
    beside = threading.Thread(target=attempt, args=("act", one.act, *seen))
    beside.start()
    for _ in range(3):
        hostile(random, "update", one, values())
        hostile(random, "act", one.act, list(seen))
    beside.join()
    objects(random, one)


def objects(random: random.Random, one: Any) -> None:
    """Copies, pickles and hollow objects of the class of `one`."""
    kind = type(one)
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        attempt("copy", act, one)
    hollow = kind.__new__(kind)
    for name in (name for name in dir(kind) if not name.startswith("_") or name == "__call__"):
        attempt("hollow", getattr(hollow, name), *[random.choice(NUMBERS)] * random.randrange(3))


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


PARTS = (layer, head, target, adam, kernels, update, batches)


def one_round(seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    part = chance.randrange(len(PARTS) + 3)
    with contextlib.chdir(folder):  # a hostile path may be the name of a file
        if part < len(PARTS):
            PARTS[part](chance)
        else:
            replay(chance, folder)


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(seed=st.integers(0, 1 << 40))
def test_hostile_calls(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = _core.matmul_kernel()
    try:
        one_round(seed, tmp_path_factory.mktemp("fuzz"))
    finally:
        _core.choose_matmul_kernel(before)


@pytest.mark.skipif(not SECONDS, reason="MTRL_FUZZ_SECONDS is not set")
@pytest.mark.timeout(0)
def test_hostile_calls_for_long(tmp_path: Path) -> None:
    end, seed = time.monotonic() + SECONDS, int(os.environ.get("MTRL_SEED", "0"))
    while time.monotonic() < end:
        (tmp_path / "seed").write_text(str(seed))  # what a crash leaves
        one_round(seed, tmp_path)
        if seed % 500 == 0:
            in_child(partial(one_round, seed, tmp_path))
            print(seed, sum(calls.values()) - calls["refused"], dict(calls), flush=True)
        seed += 1
