"""The kinds of network. Each has the settings that it takes, its number of parameters and operations, and its class.

A new kind is one entry in KINDS and one file with its class (docs/extend/network.md). Nothing here imports torch or
builds a network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mtrl.extensions import is_own, load
from mtrl.names import nearest

if TYPE_CHECKING:
    from mtrl.config import NetworkSettings

# The matrix products of a network, each as (multiplications, factors). Each of the two factors depends on the network's
# input only (x), on its weights only (w) or on both (h); this decides which gradients training computes.
Products = list[tuple[int, str]]


@dataclass(frozen=True)
class Kind:
    """One kind of network. All counts are for one network: the actor, or one critic."""

    network: str  # "module:Class"; the class takes a `mtrl.networks.layers.Blueprint`
    parameters: Callable[[NetworkSettings, int, int, int], int]  # of (settings, inputs, outputs, tasks)
    products: Callable[[NetworkSettings, int, int, int, int], Products]  # of (the same, batch rows)
    options: tuple[str, ...] = ()  # the settings that it takes beside width and depth
    # What `system=<kind>` sets for actor and critic, for few tasks and for many (mtrl/systems.py).
    sizes: tuple[dict[str, int], dict[str, int]] = field(default=({}, {}))


def kind_of(name: str) -> Kind:
    """The kind of that name, or the user's own if it is "module:name".

    Raises ValueError, with the nearest names, if there is none.
    """
    if is_own(name):
        kind: Kind = load(name, "network kind")
        return kind
    if name not in KINDS:
        raise ValueError(
            f"no kind of network '{name}'{nearest(name, KINDS)}; there are: {', '.join(KINDS)}. "
            "For a kind of your own write module:name (docs/extend/network.md)"
        )
    return KINDS[name]


def linear(inputs: int, outputs: int) -> int:
    """The parameters of a linear layer: a kernel and a bias."""
    return (inputs + 1) * outputs


def mlp(*sizes: int) -> int:
    """The parameters of linear layers from each size to the next."""
    return sum(linear(into, out) for into, out in itertools.pairwise(sizes))


def _chain(rows: int, first: str, *sizes: int) -> Products:
    """Linear layers from each size to the next; `first` are the factors of the first."""
    counts = [rows * into * out for into, out in itertools.pairwise(sizes)]
    return [(counts[0], first), *((count, "ww" if first == "ww" else "hw") for count in counts[1:])]


def _trunk(shape: NetworkSettings, inputs: int, tasks: int) -> int:
    """The hidden layers of the MLPs over [input, task], see networks/trunk.py."""
    width, norm = shape.width, 2 * shape.width
    first = linear(inputs + (shape.task_embedding or tasks), width) + shape.task_embedding * tasks
    match shape.block:
        case "plain":
            return first + (shape.depth - 1) * linear(width, width)
        case "layer_norm":
            return first + norm + (shape.depth - 1) * (linear(width, width) + norm)
        case "brc":
            return first + norm + shape.depth * 2 * (linear(width, width) + norm)
        case "simba":
            return first + shape.depth * (norm + mlp(width, 4 * width, width)) + norm


def _multi_head(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """mtmhsac: a head per task."""
    return _trunk(shape, inputs, tasks) + tasks * linear(shape.width, outputs)


def _shared_head(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """mtsac and sac: one head."""
    return _trunk(shape, inputs, tasks) + linear(shape.width, outputs)


def _products_of_mlp(shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int) -> Products:
    """mtmhsac, mtsac and sac. An embedding is multiplied once per task."""
    width = shape.width
    later = {
        "brc": [width] * (2 * shape.depth),
        "simba": [4 * width, width] * shape.depth,
    }.get(shape.block, [width] * (shape.depth - 1))
    return [
        (tasks * shape.task_embedding * width, "ww"),
        *_chain(rows, "xw", inputs, width, *later, outputs),
    ]


def _soft_modularization(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Encoders of observation and task, then layers of modules, each with its routing."""
    modules, width, encoder = shape.experts, shape.width, shape.encoder_width
    count = mlp(inputs, encoder, encoder) + linear(tasks, encoder) + mlp(encoder, width, width)
    for layer in range(shape.depth):
        last = layer == shape.depth - 1
        count += modules * linear(width if layer else encoder, width)
        count += linear(width, modules if last else modules**2)
        count += linear(layer * modules**2, width) if layer else 0
    return count + linear(width, outputs)


def _products_of_soft_modularization(
    shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int
) -> Products:
    """Encoders; then of each layer the routing, its condition on earlier ones, the modules and their mixture."""
    modules, width, encoder = shape.experts, shape.width, shape.encoder_width
    found = _chain(rows, "xw", inputs, encoder, encoder) + _chain(rows, "hw", encoder, width, width)
    for layer in range(shape.depth):
        routes = modules if layer == shape.depth - 1 else modules**2
        found += [
            (rows * layer * modules**2 * width, "hw"),
            (rows * width * routes, "hw"),
            (modules * rows * (width if layer else encoder) * width, "hw"),
            (rows * routes * width, "hh"),
        ]
    return [*found, (rows * width * outputs, "hw")]


def _paco(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Parameter sets of a whole MLP, and how each task mixes them."""
    return linear(tasks, shape.experts) + shape.experts * mlp(inputs, *[shape.width] * shape.depth, outputs)


def _products_of_paco(shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int) -> Products:
    """Of each layer the mixture of the parameter sets, kernel and bias, once per task; then the layer."""
    sizes = (inputs, *[shape.width] * shape.depth, outputs)
    mixtures = [
        (tasks * shape.experts * count, "ww")
        for count in itertools.starmap(linear, itertools.pairwise(sizes))
    ]
    return [*mixtures, *_chain(rows, "xw", *sizes)]


def _moore(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Experts, how each task mixes them, and a head per task."""
    experts = shape.experts * mlp(inputs, *[shape.width] * shape.depth)
    return experts + tasks * shape.experts + tasks * linear(shape.width, outputs)


def _products_of_moore(shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int) -> Products:
    """Experts, Gram-Schmidt (each on all before it, and back), their mixture, the row's head."""
    experts, width = shape.experts, shape.width
    projections = experts * (experts - 1) - (experts > 1)  # back from a single vector is no product
    return [
        *_chain(rows * experts, "xw", inputs, *[width] * shape.depth),
        (projections * rows * width, "hh"),
        (rows * experts * width, "wh"),
        (rows * width * outputs, "hw"),
    ]


def _care(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Task embedding and its MLP, attention, experts, torso."""
    e, k = shape.encoder_width, shape.experts
    encoders = tasks * e + mlp(e, e, e, e) + mlp(e, e, e, k) + k * mlp(inputs, e, e, e)
    return encoders + mlp(2 * e, *[shape.width] * shape.depth, outputs)


def _products_of_care(shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int) -> Products:
    """Context and attention, once per task; experts, their mixture, torso."""
    e, k = shape.encoder_width, shape.experts
    return [
        *_chain(tasks, "ww", e, e, e, e),
        *_chain(tasks, "ww", e, e, e, k),
        *_chain(rows * k, "xw", inputs, e, e, e),
        (rows * k * e, "wh"),
        *_chain(rows, "hw", 2 * e, *[shape.width] * shape.depth, outputs),
    ]


def _film(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Task embedding, the MLP that gives scales and shifts, encoder, torso."""
    e = shape.encoder_width
    encoders = tasks * e + mlp(e, e, e, 6) + mlp(inputs, e, e, e)
    return encoders + mlp(2 * e, *[shape.width] * shape.depth, outputs)


def _products_of_film(shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int) -> Products:
    """Scales and shifts, once per task; encoder, torso."""
    e = shape.encoder_width
    return [
        *_chain(tasks, "ww", e, e, e, 6),
        *_chain(rows, "xw", inputs, e, e, e),
        *_chain(rows, "hw", 2 * e, *[shape.width] * shape.depth, outputs),
    ]


_MLP: dict[str, Any] = {"products": _products_of_mlp, "options": ("block", "task_embedding")}
_WIDE = {"width": 400, "depth": 3}
KINDS: dict[str, Kind] = {
    "mtmhsac": Kind("mtrl.networks.mtmhsac:MultiHead", _multi_head, **_MLP),
    "mtsac": Kind("mtrl.networks.mtsac:SharedHead", _shared_head, **_MLP),
    "sac": Kind("mtrl.networks.mtsac:SharedHead", _shared_head, **_MLP),
    "soft_modularization": Kind(
        "mtrl.networks.soft_modularization:SoftModularization",
        _soft_modularization,
        _products_of_soft_modularization,
        options=("experts", "encoder_width"),
        sizes=(
            {"width": 256, "encoder_width": 400, "experts": 2, "depth": 2},
            {"width": 256, "encoder_width": 400, "experts": 4, "depth": 4},
        ),
    ),
    "paco": Kind(
        "mtrl.networks.paco:Paco",
        _paco,
        _products_of_paco,
        options=("experts",),
        sizes=(_WIDE | {"experts": 5}, _WIDE | {"experts": 20}),
    ),
    "moore": Kind(
        "mtrl.networks.moore:Moore",
        _moore,
        _products_of_moore,
        options=("experts",),
        sizes=(_WIDE | {"experts": 4}, _WIDE | {"experts": 6}),
    ),
    "care": Kind(
        "mtrl.networks.care:Care",
        _care,
        _products_of_care,
        options=("experts", "encoder_width"),
        sizes=(_WIDE | {"encoder_width": 50, "experts": 6}, _WIDE | {"encoder_width": 50, "experts": 10}),
    ),
    "film": Kind(
        "mtrl.networks.film:Film",
        _film,
        _products_of_film,
        options=("encoder_width",),
        sizes=(_WIDE | {"encoder_width": 50}, _WIDE | {"encoder_width": 50}),
    ),
}
