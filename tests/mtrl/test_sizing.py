"""Closed-form parameter counts against the paper's own numbers and against a sum over layer shapes."""

import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl.config import NetworkSettings
from mtrl.overrides import build_config
from mtrl.sizing import (
    actor_parameters,
    actor_width,
    count_parameters,
    critic_width,
    match_system,
    matched_width,
    solve_width,
    total_width,
)

# width, benchmark, actor, both critics: the multi-head rows of the paper's table
PAPER = [
    (256, "MT10", 164_944, 295_956),
    (256, "MT50", 257_424, 336_996),
    (400, "MT10", 372_880, 692_820),
    (400, "MT50", 517_200, 756_900),
    (1024, "MT10", 2_232_400, 4_329_492),
    (1024, "MT50", 2_601_360, 4_493_412),
    (4096, "MT10", 34_095_184, 67_649_556),
    (4096, "MT50", 35_570_064, 68_304_996),
]


@pytest.mark.parametrize(("width", "benchmark", "actor", "critics"), PAPER)
def test_counts_equal_the_papers(width: int, benchmark: str, actor: int, critics: int) -> None:
    config = build_config(
        "paper", {"env.tasks": benchmark, "network.actor.width": width, "network.critic.width": width}
    )
    parameters = count_parameters(config)
    assert (parameters.actor, parameters.critic) == (actor, critics)
    assert (parameters.target, parameters.total) == (critics, actor + critics)


@given(st.integers(1, 50), st.integers(1, 6), st.integers(1, 50))
def test_count_equals_a_sum_over_layers(width: int, depth: int, tasks: int) -> None:
    sizes = [39 + tasks, *[width] * depth]
    layers = sum(into * out + out for into, out in itertools.pairwise(sizes))
    assert actor_parameters(NetworkSettings(width=width, depth=depth), tasks) == layers + tasks * (
        width * 8 + 8
    )


@pytest.mark.parametrize(("system", "chosen"), [("soft_modularization", 550), ("moore", 800), ("paco", 885)])
def test_known_matched_widths(system: str, chosen: int) -> None:
    """The authors chose these widths to match the actors at MT10; the exact solutions lie within 2 % of them."""
    width = match_system(system, "actor", 10)
    assert width == pytest.approx(chosen, rel=0.02)
    target = actor_parameters(build_config("paper", {"system": system}).network.actor, 10)
    assert width == actor_width(target, tasks=10)


@pytest.mark.parametrize("by", ["actor", "critic", "total"])
@pytest.mark.parametrize("tasks", [10, 50])
def test_a_system_matches_itself_at_its_own_width(
    by: Literal["actor", "critic", "total"], tasks: int
) -> None:
    own = count_parameters(build_config("paper", {"env.tasks": f"MT{tasks}", "network.critic.width": 400}))
    assert matched_width(own, by, tasks) == match_system("mtmhsac", by, tasks) == 400


def test_unknown_system_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'moore'"):
        match_system("more", "actor", 10)


@given(st.integers(50, 3_000_000), st.integers(1, 50))
def test_solved_width_is_the_nearest(target: int, tasks: int) -> None:
    def miss(width: int) -> int:
        return abs(actor_parameters(NetworkSettings(width=width), tasks) - target)

    width = actor_width(target, tasks)
    assert miss(width) <= min(miss(width + 1), miss(max(1, width - 1)))


def test_solver_inverts_each_count() -> None:
    assert critic_width(4_329_492, tasks=10) == 1024
    assert total_width(164_944 + 295_956, tasks=10) == 256
    assert solve_width(0, lambda width: width) == 1
    with pytest.raises(ValueError, match="above 65536"):
        actor_width(10**12, tasks=10)
