"""Parameters and operations of the networks in closed form, and the width that gives a wanted count.

Nothing here builds a network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mtrl.config import Config, NetworkSettings
from mtrl.names import nearest
from mtrl.systems import SYSTEMS, system_settings
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

By = Literal["actor", "critic", "total"]
LARGEST_WIDTH: int = 65_536  # the same bound as NetworkSettings.width


@dataclass(frozen=True)
class Parameters:
    """Trainable scalars. `critic` and `target` count the whole ensemble; `total` leaves the targets out."""

    actor: int
    critic: int
    target: int

    @property
    def total(self) -> int:
        return self.actor + self.critic


def count_parameters(config: Config) -> Parameters:
    """The parameters of the networks of `config`."""
    tasks = len(config.env.tasks)
    one = critic_parameters(config.network.critic, tasks, config.agent.critic_outputs)
    critic = config.agent.critics * one
    return Parameters(actor_parameters(config.network.actor, tasks), critic, critic)


def actor_parameters(shape: NetworkSettings, tasks: int) -> int:
    """Of the actor: a mean and a log standard deviation for each action."""
    return COUNTS[shape.kind](shape, OBSERVATION_SIZE, 2 * ACTION_SIZE, tasks)


def critic_parameters(shape: NetworkSettings, tasks: int, outputs: int = 1) -> int:
    """Of one critic of the ensemble: one value, or the bins of a categorical critic."""
    return COUNTS[shape.kind](shape, ACTION_SIZE + OBSERVATION_SIZE, outputs, tasks)


def linear(inputs: int, outputs: int) -> int:
    """A kernel and a bias."""
    return (inputs + 1) * outputs


def mlp(*sizes: int) -> int:
    """Linear layers from each size to the next."""
    return sum(linear(into, out) for into, out in itertools.pairwise(sizes))


def trunk(shape: NetworkSettings, inputs: int, tasks: int) -> int:
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


def multi_head(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """mtmhsac: a head per task."""
    return trunk(shape, inputs, tasks) + tasks * linear(shape.width, outputs)


def shared_head(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """mtsac and sac: one head."""
    return trunk(shape, inputs, tasks) + linear(shape.width, outputs)


def soft_modularization(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Encoders of observation and task, then layers of modules, each with its routing."""
    modules, width, encoder = shape.experts, shape.width, shape.encoder_width
    count = mlp(inputs, encoder, encoder) + linear(tasks, encoder) + mlp(encoder, width, width)
    for layer in range(shape.depth):
        last = layer == shape.depth - 1
        count += modules * linear(width if layer else encoder, width)
        count += linear(width, modules if last else modules**2)
        count += linear(layer * modules**2, width) if layer else 0
    return count + linear(width, outputs)


def paco(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Parameter sets of a whole MLP, and how each task mixes them."""
    return linear(tasks, shape.experts) + shape.experts * mlp(inputs, *[shape.width] * shape.depth, outputs)


def moore(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Experts, how each task mixes them, and a head per task."""
    experts = shape.experts * mlp(inputs, *[shape.width] * shape.depth)
    return experts + tasks * shape.experts + tasks * linear(shape.width, outputs)


def care(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Task embedding and its MLP, attention, experts, torso."""
    e, k = shape.encoder_width, shape.experts
    encoders = tasks * e + mlp(e, e, e, e) + mlp(e, e, e, k) + k * mlp(inputs, e, e, e)
    return encoders + mlp(2 * e, *[shape.width] * shape.depth, outputs)


def film(shape: NetworkSettings, inputs: int, outputs: int, tasks: int) -> int:
    """Task embedding, the MLP that gives scales and shifts, encoder, torso."""
    e = shape.encoder_width
    encoders = tasks * e + mlp(e, e, e, 6) + mlp(inputs, e, e, e)
    return encoders + mlp(2 * e, *[shape.width] * shape.depth, outputs)


COUNTS: dict[str, Callable[[NetworkSettings, int, int, int], int]] = {
    "mtmhsac": multi_head,
    "mtsac": shared_head,
    "sac": shared_head,
    "soft_modularization": soft_modularization,
    "paco": paco,
    "moore": moore,
    "care": care,
    "film": film,
}


def solve_width(target: int, count: Callable[[int], int]) -> int:
    """The width whose `count(width)` is nearest `target`; `count` must grow with the width. The smaller of two equals.

    Raises ValueError where even the widest network allowed stays below the target.
    """
    if target > count(LARGEST_WIDTH):
        raise ValueError(f"{target} parameters need a width above {LARGEST_WIDTH}; ask for fewer")
    low, high = 1, LARGEST_WIDTH
    while low < high:  # the first width that reaches the target
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= target else (middle + 1, high)
    return low if low == 1 or count(low) - target < target - count(low - 1) else low - 1


def actor_width(target: int, tasks: int, depth: int = 3) -> int:
    """The multi-head actor width whose parameter count is nearest `target`."""
    return solve_width(
        target, lambda width: actor_parameters(NetworkSettings(width=width, depth=depth), tasks)
    )


def critic_width(target: int, tasks: int, critics: int = 2, depth: int = 3) -> int:
    """The multi-head critic width at which `critics` critics together have nearest `target` parameters."""
    return solve_width(
        target, lambda width: critics * critic_parameters(NetworkSettings(width=width, depth=depth), tasks)
    )


def total_width(target: int, tasks: int, critics: int = 2, depth: int = 3) -> int:
    """The width, the same for the actor and the critics, at which all together have nearest `target` parameters."""

    def count(width: int) -> int:
        shape = NetworkSettings(width=width, depth=depth)
        return actor_parameters(shape, tasks) + critics * critic_parameters(shape, tasks)

    return solve_width(target, count)


def matched_width(parameters: Parameters, by: By, tasks: int, critics: int = 2) -> int:
    """The width of the multi-head MLP, actor and critics alike, whose count `by` is nearest that of `parameters`."""
    match by:
        case "actor":
            return actor_width(parameters.actor, tasks)
        case "critic":
            return critic_width(parameters.critic, tasks, critics)
        case "total":
            return total_width(parameters.total, tasks, critics)


def match_system(system: str, by: By, tasks: int) -> int:
    """`matched_width` of a system at the paper's sizes for so many tasks, with 2 critics. Raises ValueError."""
    if system not in SYSTEMS:
        raise ValueError(f"no system '{system}'{nearest(system, SYSTEMS)}; there are: {', '.join(SYSTEMS)}")
    settings = system_settings(system, tasks)

    def shape(part: str) -> NetworkSettings:
        prefix = f"network.{part}."
        return NetworkSettings(
            **{k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
        )

    critics = 2 * critic_parameters(shape("critic"), tasks)
    return matched_width(Parameters(actor_parameters(shape("actor"), tasks), critics, critics), by, tasks)


# The matrix products of a network, each as (multiplications, factors). What its two factors depend on decides which
# gradients training takes: x is the network's input alone, w its weights alone, h both.
Products = list[tuple[int, str]]


def update_flops(config: Config) -> int:
    """Floating-point operations of the matrix products in one update, a multiplication and an addition counting 2.

    These are: actor and target on the next observations, the critics and their gradient, the actor and its gradient,
    and the critics with the gradient of their input. A row meets its own head alone; all critics are differentiated.
    One-hots, activations, norms and Adam count nothing. Kernels may do less than this: the fused step differentiates
    only the least critic of each row.
    """
    actor, critic = (_products(config, part) for part in ("actor", "critic"))
    of_actor = 2 * _forward(actor) + _gradients(actor, "wh")
    of_critics = 3 * _forward(critic) + _gradients(critic, "wh") + _gradients(critic, "xh")
    return 2 * (of_actor + config.agent.critics * of_critics)


def training_flops(config: Config) -> int:
    """`update_flops` of all updates of a run."""
    return update_flops(config) * updates(config)


def updates(config: Config) -> int:
    """Gradient updates of a run."""
    return max(0, config.train.vector_steps - config.train.random_steps) * config.train.updates_per_step


def _products(config: Config, part: Literal["actor", "critic"]) -> Products:
    """Of the actor, or of one critic, on a batch."""
    rows, tasks = sum(config.batch_rows), len(config.env.tasks)
    if part == "actor":
        shape, inputs, outputs = config.network.actor, OBSERVATION_SIZE, 2 * ACTION_SIZE
    else:
        shape, inputs = config.network.critic, ACTION_SIZE + OBSERVATION_SIZE
        outputs = config.agent.critic_outputs
    return PRODUCTS[shape.kind](shape, inputs, outputs, tasks, rows)


def _forward(products: Products) -> int:
    return sum(count for count, _ in products)


def _gradients(products: Products, differentiated: str) -> int:
    """One product more, of the same size, for each factor that is differentiated."""
    return sum(count * sum(factor in differentiated for factor in factors) for count, factors in products)


def _chain(rows: int, first: str, *sizes: int) -> Products:
    """Linear layers from each size to the next; `first` are the factors of the first."""
    counts = [rows * into * out for into, out in itertools.pairwise(sizes)]
    return [(counts[0], first), *((count, "ww" if first == "ww" else "hw") for count in counts[1:])]


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


def _products_of_paco(shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int) -> Products:
    """Of each layer the mixture of the parameter sets, kernel and bias, once per task; then the layer."""
    sizes = (inputs, *[shape.width] * shape.depth, outputs)
    mixtures = [
        (tasks * shape.experts * count, "ww")
        for count in itertools.starmap(linear, itertools.pairwise(sizes))
    ]
    return [*mixtures, *_chain(rows, "xw", *sizes)]


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


def _products_of_film(shape: NetworkSettings, inputs: int, outputs: int, tasks: int, rows: int) -> Products:
    """Scales and shifts, once per task; encoder, torso."""
    e = shape.encoder_width
    return [
        *_chain(tasks, "ww", e, e, e, 6),
        *_chain(rows, "xw", inputs, e, e, e),
        *_chain(rows, "hw", 2 * e, *[shape.width] * shape.depth, outputs),
    ]


PRODUCTS: dict[str, Callable[[NetworkSettings, int, int, int, int], Products]] = {
    "mtmhsac": _products_of_mlp,
    "mtsac": _products_of_mlp,
    "sac": _products_of_mlp,
    "soft_modularization": _products_of_soft_modularization,
    "paco": _products_of_paco,
    "moore": _products_of_moore,
    "care": _products_of_care,
    "film": _products_of_film,
}
