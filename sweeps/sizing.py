"""Parameter counts of the networks in closed form, and the width that gives a wanted count. Builds no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtrl.config import Config, Mlp
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

LARGEST_WIDTH: int = 65_536  # the same bound as Mlp.width


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
    critic = config.agent.critics * critic_parameters(config.network.critic, tasks)
    return Parameters(actor_parameters(config.network.actor, tasks), critic, critic)


def actor_parameters(network: Mlp, tasks: int) -> int:
    """Of the actor: a mean and a log standard deviation for each action."""
    return multi_head(OBSERVATION_SIZE, 2 * ACTION_SIZE, network, tasks)


def critic_parameters(network: Mlp, tasks: int) -> int:
    """Of one critic of the ensemble: one value."""
    return multi_head(ACTION_SIZE + OBSERVATION_SIZE, 1, network, tasks)


def multi_head(inputs: int, outputs: int, network: Mlp, tasks: int) -> int:
    """[input, one-hot] -> depth hidden layers -> a head of `outputs` per task; biases everywhere."""
    first = (inputs + tasks + 1) * network.width
    hidden = (network.depth - 1) * (network.width + 1) * network.width
    heads = tasks * (network.width + 1) * outputs
    return first + hidden + heads


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
    """The actor width whose parameter count is nearest `target`."""
    return solve_width(target, lambda width: actor_parameters(Mlp(width=width, depth=depth), tasks))


def critic_width(target: int, tasks: int, critics: int = 2, depth: int = 3) -> int:
    """The critic width at which `critics` critics together have nearest `target` parameters."""
    return solve_width(
        target, lambda width: critics * critic_parameters(Mlp(width=width, depth=depth), tasks)
    )


def total_width(target: int, tasks: int, critics: int = 2, depth: int = 3) -> int:
    """The width, the same for the actor and the critics, at which all together have nearest `target` parameters."""

    def count(width: int) -> int:
        network = Mlp(width=width, depth=depth)
        return actor_parameters(network, tasks) + critics * critic_parameters(network, tasks)

    return solve_width(target, count)
