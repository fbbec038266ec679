"""Parameters and operations of the networks in closed form, and the width that gives a wanted count.

Nothing here builds a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mtrl.config import Config, NetworkSettings
from mtrl.names import nearest
from mtrl.networks.kinds import Products, kind_of
from mtrl.systems import SYSTEMS, system_settings
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

By = Literal["actor", "critic", "total"]
LARGEST_WIDTH: int = 65_536  # the same bound as NetworkSettings.width
ACTOR_FLOPS = 8  # per parameter and row: two forward passes and two gradients, a product each
CRITIC_FLOPS = 12  # three forward passes and three gradients


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
    """The parameters of the actor, whose outputs are a mean and a log standard deviation for each action."""
    return kind_of(shape.kind).parameters(shape, OBSERVATION_SIZE, 2 * ACTION_SIZE, tasks)


def critic_parameters(shape: NetworkSettings, tasks: int, outputs: int = 1) -> int:
    """The parameters of one critic. It has one output, or as many as a categorical critic has bins."""
    return kind_of(shape.kind).parameters(shape, ACTION_SIZE + OBSERVATION_SIZE, outputs, tasks)


def solve_width(target: int, count: Callable[[int], int]) -> int:
    """The width whose `count(width)` is nearest `target`, the smaller of two. `count` must grow with the width.

    Raises ValueError if even the largest width gives less than `target`.
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


def critic_width(target: int, tasks: int, critics: int = 2, depth: int = 3, outputs: int = 1) -> int:
    """The multi-head critic width at which `critics` critics together have nearest `target` parameters."""
    return solve_width(
        target,
        lambda width: critics * critic_parameters(NetworkSettings(width=width, depth=depth), tasks, outputs),
    )


def total_width(target: int, tasks: int, critics: int = 2, depth: int = 3, outputs: int = 1) -> int:
    """The width, the same for the actor and the critics, at which all together have nearest `target` parameters."""

    def count(width: int) -> int:
        shape = NetworkSettings(width=width, depth=depth)
        return actor_parameters(shape, tasks) + critics * critic_parameters(shape, tasks, outputs)

    return solve_width(target, count)


def matched_width(parameters: Parameters, by: By, tasks: int, critics: int = 2, outputs: int = 1) -> int:
    """The width of the multi-head MLP, actor and critics alike, whose count `by` is nearest that of `parameters`."""
    match by:
        case "actor":
            return actor_width(parameters.actor, tasks)
        case "critic":
            return critic_width(parameters.critic, tasks, critics, outputs=outputs)
        case "total":
            return total_width(parameters.total, tasks, critics, outputs=outputs)


def match_system(system: str, by: By, tasks: int) -> int:
    """`matched_width` for a system at the paper's sizes for so many tasks, with 2 critics.

    Raises ValueError for an unknown system.
    """
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


def update_flops(config: Config) -> int:
    """Floating-point operations of the matrix products in one update, a multiplication and an addition counting 2.

    These are: actor and target on the next observations, the critics and their gradient, the actor and its gradient,
    and the critics with the gradient of their input. A row uses only its own task's head; all critics are
    differentiated. One-hots, activations, norms and Adam are not counted. Kernels may do less than this: for the
    actor's loss, the fused step differentiates only the critic with the least value of each row.
    """
    actor, critic = (_products(config, part) for part in ("actor", "critic"))
    of_actor = 2 * _forward(actor) + _gradients(actor, "wh")
    of_critics = 3 * _forward(critic) + _gradients(critic, "wh") + _gradients(critic, "xh")
    return 2 * (of_actor + config.agent.critics * of_critics)


def flops_by_parameters(actor: float, critic: float) -> float:
    """About `update_flops` per row of the batch, from the parameters of the actor and of all critics together.

    Exact for dense layers, except that it counts the gradient of the first layer's input, which is not needed.
    """
    return ACTOR_FLOPS * actor + CRITIC_FLOPS * critic


def training_flops(config: Config) -> int:
    """`update_flops` of all updates of a run."""
    return update_flops(config) * updates(config)


def updates(config: Config) -> int:
    """Gradient updates of a run."""
    return max(0, config.train.vector_steps - config.train.random_steps) * config.train.updates_per_step


def _products(config: Config, part: Literal["actor", "critic"]) -> Products:
    """The matrix products of the actor, or of one critic, on a batch."""
    rows, tasks = sum(config.batch_rows), len(config.env.tasks)
    if part == "actor":
        shape, inputs, outputs = config.network.actor, OBSERVATION_SIZE, 2 * ACTION_SIZE
    else:
        shape, inputs = config.network.critic, ACTION_SIZE + OBSERVATION_SIZE
        outputs = config.agent.critic_outputs
    return kind_of(shape.kind).products(shape, inputs, outputs, tasks, rows)


def _forward(products: Products) -> int:
    return sum(count for count, _ in products)


def _gradients(products: Products, differentiated: str) -> int:
    """Each factor that is differentiated takes one more product of the same size."""
    return sum(count * sum(factor in differentiated for factor in factors) for count, factors in products)
