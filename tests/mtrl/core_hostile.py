"""Hostile values for calls of the core, and the call itself: what it may do with them."""

from __future__ import annotations

import copy
import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

ERRORS = (ValueError, TypeError, RuntimeError, OverflowError, OSError)
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


def objects(random: random.Random, one: Any) -> None:
    """Copies, pickles and hollow objects of the class of `one`."""
    kind = type(one)
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        attempt("copy", act, one)
    hollow = kind.__new__(kind)
    for name in (name for name in dir(kind) if not name.startswith("_") or name == "__call__"):
        attempt("hollow", getattr(hollow, name), *[random.choice(NUMBERS)] * random.randrange(3))
