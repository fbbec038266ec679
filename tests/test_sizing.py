"""Closed-form parameter counts against the paper's own numbers and against a sum over layer shapes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl.config import Shape, build_config
from mtrl.sizing import (
    actor_parameters,
    actor_width,
    count_parameters,
    critic_width,
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
    assert actor_parameters(Shape(width=width, depth=depth), tasks) == layers + tasks * (width * 8 + 8)


def test_known_matched_widths() -> None:
    """The authors chose 550, 800 and 885 to match these actors; the exact solutions lie within 2 % of them."""
    for target, chosen in ((691_022, 550), (1_379_320, 800), (1_700_095, 885)):
        assert actor_width(target, tasks=10) == pytest.approx(chosen, rel=0.02)


@given(st.integers(50, 3_000_000), st.integers(1, 50))
def test_solved_width_is_the_nearest(target: int, tasks: int) -> None:
    def miss(width: int) -> int:
        return abs(actor_parameters(Shape(width=width), tasks) - target)

    width = actor_width(target, tasks)
    assert miss(width) <= min(miss(width + 1), miss(max(1, width - 1)))


def test_solver_inverts_each_count() -> None:
    assert critic_width(4_329_492, tasks=10) == 1024
    assert total_width(164_944 + 295_956, tasks=10) == 256
    assert solve_width(0, lambda width: width) == 1
    with pytest.raises(ValueError, match="above 65536"):
        actor_width(10**12, tasks=10)
