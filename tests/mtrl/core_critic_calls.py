"""Hostile calls of the critic's kernels and of the whole update, each with sizes of its own."""

from __future__ import annotations

import os
import random
import threading
from typing import Any

import numpy as np
import torch

from mtrl import _core, ops
from tests.mtrl.core_hostile import attempt, floats, hostile, objects


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
