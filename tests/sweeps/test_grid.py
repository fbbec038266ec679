"""Grids: what they expand to, what the command line changes, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl.overrides import build_config
from mtrl.sizing import match_system, training_flops
from sweeps.arithmetic import evaluate
from sweeps.grid import (
    Grid,
    GridError,
    combinations,
    expand,
    grid_names,
    load_grid,
    override,
    parse_values,
    read_grid,
)

ACTOR, CRITIC = "network.actor.width", "network.critic.width"


def grid(**parts: Any) -> Grid:
    return read_grid("test", parts)


def coordinates(grid: Grid) -> list[tuple[Any, ...]]:
    return [tuple(cell.coordinates.values()) for cell in expand(grid)]


@pytest.mark.parametrize("name", grid_names())
def test_every_grid_of_the_project_expands(name: str) -> None:
    cells = expand(load_grid(name))
    assert len({cell.run_id for cell in cells}) == len(cells)
    assert all(cell.label for cell in cells)


def test_smoke_is_what_the_demo_needs() -> None:
    cells = expand(load_grid("smoke"))
    assert [(cell.config.benchmark, cell.config.network.actor.width) for cell in cells] == [
        (tasks, width)
        for tasks in ("drawer-close-v3", "drawer-close-v3+reach-v3")
        for width in (16, 32, 64, 128)
    ]
    assert all(cell.config.network.critic.width == cell.config.network.actor.width for cell in cells)
    assert {cell.config.env.horizon for cell in cells} == {200}


def test_scaling_is_the_papers() -> None:
    cells = expand(load_grid("scaling"))
    assert len(cells) == 3 * 5 * 10
    paper = build_config("paper", {ACTOR: 4096, CRITIC: 4096, "env.tasks": "MT50", "train.seed": 9})
    assert cells[-1].config == paper
    assert cells[-1].label == "MT50 width 4096 seed 9"


def test_axes_multiply_and_zips_move_together() -> None:
    zipped = [{ACTOR: [8, 16], CRITIC: [32, 64]}]
    found = coordinates(grid(axes={"train.seed": "range(2)"}, zip=zipped))
    assert found == [(0, 8, 32), (0, 16, 64), (1, 8, 32), (1, 16, 64)]


def test_joined_keys_are_one_axis() -> None:
    assert coordinates(grid(axes={f"{ACTOR}+{CRITIC}": [8, 16]})) == [(8, 8), (16, 16)]


def test_equal_cells_are_one_cell() -> None:
    assert len(expand(grid(axes={"train.seed": [0, 1, 0]}))) == 2
    assert len(expand(grid(axes={"env.tasks": ["MT10", list(build_config().env.tasks)]}))) == 1


def test_exclude_when_and_derive() -> None:
    found = expand(
        grid(
            axes={"env.tasks": ["MT10", "MT25"], "train.seed": [0, 1]},
            when=[{"if": {"env.tasks": "MT25"}, "set": {"replay.capacity": 50_000}}],
            derive={"agent.batch_per_task": "3200 // tasks"},
            exclude=[{"env.tasks": ["MT25"], "train.seed": 1}],
        )
    )
    assert [(len(cell.config.env.tasks), cell.config.replay.capacity, cell.config.agent.batch_per_task)
            for cell in found] == [(10, 100_000, 320), (10, 100_000, 320), (25, 50_000, 128)]  # fmt: skip
    assert found[-1].coordinates["agent.batch_per_task"] == 128


def test_variables_feed_derived_values_and_become_coordinates() -> None:
    cells = expand(grid(axes={"target": [691_022, 1_379_320]}, derive={ACTOR: "actor_width(target, tasks)"}))
    assert [cell.config.network.actor.width for cell in cells] == [556, 798]
    assert cells[0].coordinates == {"target": 691_022, ACTOR: 556}


def test_random_draws_are_repeatable_and_a_longer_list_begins_with_the_shorter() -> None:
    drawn = {"agent.actor_lr": "loguniform(1e-5, 1e-3)", ACTOR: "integer(8, 512)", "seed": 3}
    few = coordinates(grid(random={**drawn, "draws": 3}))
    many = coordinates(grid(random={**drawn, "draws": 6}, axes={"train.seed": [0]}))
    assert [values[1:] for values in many[:3]] == few
    assert len(set(many)) == 6
    assert all(1e-5 <= rate <= 1e-3 and 8 <= width <= 512 for rate, width in few)
    assert coordinates(grid(random={**drawn, "draws": 3, "seed": 4})) != few


def test_command_line_replaces_adds_and_removes() -> None:
    scaling = load_grid("scaling")
    assert len(expand(override(scaling, ["train.seed=0"]))) == 15
    assert len(expand(override(scaling, ["train.seed=range(3)", "env.tasks=MT10,MT50"]))) == 30
    assert len(expand(override(scaling, ["~train.seed"]))) == 15
    assert len(expand(override(scaling, [f"{ACTOR}+{CRITIC}=64,128", "~train.seed"]))) == 6
    widened = expand(override(scaling, [f"{CRITIC}=64", "train.seed=0", "env.tasks=MT10"]))
    assert [cell.config.network.critic.width for cell in widened] == [64] * 5
    assert [cell.config.network.actor.width for cell in widened] == [256, 512, 1024, 2048, 4096]


def test_override_wins_over_derive_and_when() -> None:
    base = grid(
        axes={"env.tasks": ["MT10"]},
        when=[{"if": {"env.tasks": "MT10"}, "set": {"agent.critics": 3}}],
        derive={"agent.batch_per_task": "3200 // tasks"},
    )
    cell = expand(override(base, ["agent.batch_per_task=7", "agent.critics=5"]))[0]
    assert (cell.config.agent.batch_per_task, cell.config.agent.critics) == (7, 5)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3e-4", [3e-4]),
        ("1,2,3", [1, 2, 3]),
        ("true,false", [True, False]),
        ("MT10,drawer-close-v3+reach-v3", ["MT10", "drawer-close-v3+reach-v3"]),
        ('["a-v3", "b-v3"],MT10', [["a-v3", "b-v3"], "MT10"]),
        ("range(2, 8, 3)", [2, 5]),
        ("logspace(1, 100, 3)", [1.0, 10.0, 100.0]),
        ("$(touch x)", ["$(touch x)"]),
        ("", [""]),
    ],
)
def test_values(text: str, values: list[Any]) -> None:
    assert parse_values(text) == values


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=9))
def test_number_lists_survive(values: list[int]) -> None:
    assert parse_values(",".join(map(str, values))) == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["network.actor.widht=3"], "no field 'widht' in network.actor; did you mean 'width'"),
        (["widht=3"], "no field 'widht'"),
        (["network.actor.width=0"], "network.actor.width = 0"),
        (["env.tasks=reach-v2"], "did you mean 'reach-v3'"),
        (["train.seed=range(0)"], "is empty"),
        (["train.seed=range(x)"], "is not range"),
        (["agent.discount=logspace(0, 1, 3)"], "is not range"),
        (["~agent.critics"], "removes nothing"),
        (["agent.critics"], "write key=value"),
    ],
)
def test_bad_words_are_named(words: list[str], message: str) -> None:
    with pytest.raises(GridError, match=message.replace("(", r"\(")):
        expand(override(load_grid("smoke"), words))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"axis": {}}, "unknown part 'axis'; did you mean 'axes'"),
        ({"axes": {"train.seed": 3}}, "must be a list"),
        ({"zip": [{ACTOR: [1, 2], CRITIC: [1]}]}, "must have one length"),
        ({"exclude": [{"env.task": "MT10"}]}, "did you mean 'tasks'"),
        ({"axes": {"env.tasks": ["MT10"]}, "exclude": [{"env.tasks": "MT10"}]}, "no cells left"),
        ({"derive": {"agent.critics": "__import__('os')"}}, "no plain arithmetic|not plain arithmetic"),
        ({"derive": {"agent.critics": "taks"}}, "did you mean 'tasks'"),
        ({"random": {"agent.critics": "normal(0, 1)"}}, "none of uniform"),
        ({"preset": "papr"}, "did you mean 'paper'"),
        ({"fixed": {"seed": 1}}, "did you mean 'train.seed'"),
    ],
)
def test_bad_grids_are_named(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(grid(**parts))


def test_all_widths_of_the_compute_grid_cost_the_same() -> None:
    flops = [training_flops(cell.config) for cell in expand(load_grid("compute"))]
    assert max(flops) / min(flops) < 1.001  # steps are whole numbers


def test_unknown_grid_names_the_nearest(tmp_path: Any) -> None:
    with pytest.raises(GridError, match="no grid 'smok'; did you mean 'smoke'"):
        load_grid("smok")
    with pytest.raises(GridError, match="no file"):
        load_grid(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text("axes = [")
    with pytest.raises(GridError, match="is not TOML"):
        load_grid(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text('preset = "debug"\n[axes]\n"train.seed" = [1, 2]\n')
    assert len(expand(load_grid(str(tmp_path / "own.toml")))) == 2


@pytest.mark.parametrize(
    "expression", ["(1).real", "[1]", "'a' * 9", "a if a else 1", "f(1)", "1 // 0", "9 ** 9 ** 9", "("]
)
def test_only_arithmetic_is_evaluated(expression: str) -> None:
    with pytest.raises(ValueError, match="'"):
        evaluate(expression, {"a": 1})


def test_arithmetic() -> None:
    assert evaluate("max(2, -a + 3 * (b - 1) // 2) % 5", {"a": 1, "b": 7}) == 3


def test_systems_and_their_matches_move_together() -> None:
    systems = {cell.config.network.actor.kind: cell for cell in expand(load_grid("systems"))}
    assert set(systems) == {"soft_modularization", "moore", "paco", "care", "film"}
    moore = [cell for cell in expand(load_grid("systems")) if cell.coordinates["system"] == "moore"]
    assert {len(c.config.env.tasks): c.config.network.critic.experts for c in moore} == {10: 4, 50: 6}
    for cell in expand(load_grid("match")):
        actor = cell.config.network.actor
        width = match_system(cell.coordinates["matched"], "actor", len(cell.config.env.tasks))
        assert (actor.kind, actor.width, cell.config.network.critic.width) == ("mtmhsac", width, width)
    heads = expand(load_grid("heads"))
    assert len(heads) == 60
    assert {c.config.agent.shared_temperature for c in heads if c.coordinates["system"] == "sac"} == {True}


def test_unknown_system_of_a_grid_is_named() -> None:
    grid = read_grid("mine", {"axes": {"system": ["more"]}})
    with pytest.raises(GridError, match="no system 'more'; did you mean 'moore'"):
        expand(grid)


def test_arithmetic_has_powers_roots_logarithms_and_keys_as_they_are_written() -> None:
    names = {"network_actor_width": 64, "tasks": 10}
    assert evaluate("2 ** 10", {}) == 1024
    assert evaluate("round(sqrt(2) * network.actor.width)", names) == 91
    assert evaluate("network_actor_width // tasks", names) == 6
    assert evaluate("log(1024, 2)", {}) == pytest.approx(10)
    assert evaluate("exp(log(7))", {}) == pytest.approx(7)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("network.actor.widht", "sets no 'network.actor.widht', .*did you mean 'network_actor_width'"),
        ("network.critic.width", "sets no 'network.critic.width'"),
        ("sqrt(-1)", r"sqrt\(-1\): math domain error"),
        ("log(0)", r"log\(0\)"),
        ("(-8) ** 0.5", "no real number"),
        ("9 ** 9 ** 9", "too large"),
        ("1 / 0", "division by zero"),
    ],
)
def test_arithmetic_says_what_it_cannot_do(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(expression, {"network_actor_width": 64})


def test_a_key_in_derive_is_written_as_it_is() -> None:
    cells = expand(grid(axes={ACTOR: [32, 64]}, derive={"network.critic.width": "2 * network.actor.width"}))
    assert [cell.config.network.critic.width for cell in cells] == [64, 128]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.seed=range(1000000000)", "has 1,000,000,000 values; a grid has at most 1,000,000 cells"),
        ("train.seed=logspace(1, 9, 1e9)", "has 1,000,000,000 values"),
    ],
)
def test_a_list_beyond_all_bounds_is_refused_at_once(word: str, message: str) -> None:
    with pytest.raises(GridError, match=message):
        override(load_grid("smoke"), [word])


def test_a_grid_beyond_all_bounds_is_refused_before_it_is_expanded() -> None:
    huge = override(load_grid("smoke"), ["train.seed=range(1000)", "env.horizon=range(1, 500)"])
    with pytest.raises(
        GridError, match="grid 'smoke' has 3,992,000 cells; a grid has at most 1,000,000: split it"
    ):
        expand(huge)
    drawn = grid(random={"agent.actor_lr": "loguniform(1e-5, 1e-3)", "draws": 10**9})
    with pytest.raises(GridError, match="1,000,000,000 cells"):
        expand(drawn)
    assert combinations(load_grid("smoke")) == len(expand(load_grid("smoke")))
