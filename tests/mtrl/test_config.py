"""Configurations: the paper's numbers, errors that name the cure, and run ids."""

import warnings

import pytest

from mtrl.config import Config, ConfigError
from mtrl.overrides import build_config, parse_overrides
from mtrl.tasks import ALL_TASKS, BENCHMARKS


def test_paper_preset_has_the_papers_numbers() -> None:
    config = build_config("paper")
    assert (config.env.tasks, config.env.horizon, config.env.goals_per_task) == (BENCHMARKS["MT10"], 500, 50)
    assert (config.env.reward_version, config.env.terminate_on_success) == ("v2", False)
    assert (config.replay.capacity, config.replay.mode) == (100_000, "uniform_shared")
    agent = config.agent
    assert (agent.batch_per_task, agent.critics, agent.discount, agent.polyak) == (128, 2, 0.99, 0.005)
    assert (agent.actor_lr, agent.critic_lr, agent.temperature_lr) == (3e-4, 3e-4, 3e-4)
    assert (agent.adam_eps, agent.actor_clip, agent.critic_clip) == (1e-5, 1.0, 1.0)
    assert (agent.initial_temperature, agent.target_entropy) == (1.0, -4.0)
    assert (agent.log_std_min, agent.log_std_max) == (-20.0, 2.0)
    assert (config.network.actor.width, config.network.actor.depth) == (400, 3)
    assert (config.train.vector_steps, config.train.random_steps, config.train.updates_per_step) == (
        2_000_000,
        4_000,
        1,
    )
    assert (len(config.evaluate.steps(config.train.vector_steps)), config.evaluate.episodes) == (100, 50)


def test_last_step_is_always_evaluated() -> None:
    evaluate = build_config("paper", {"evaluate.every": 40}).evaluate
    assert evaluate.steps(100) == (40, 80, 100)
    assert evaluate.steps(80) == (40, 80)
    assert evaluate.steps(10) == (10,)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network.actor.widht": 3}, "no field 'widht' in network.actor; did you mean 'width'"),
        ({"width": 3}, "did you mean 'network.actor.width'"),
        ({"network.actor": 3}, "is a section; name one of its fields"),
        ({"train.seed.x": 3}, "'train.seed' has no fields"),
        ({"network.actor.width": 0}, "network.actor.width = 0: should be greater than or equal to 1"),
        (
            {"env.tasks": "drawr-close-v3"},
            "no task 'drawr-close-v3' in Meta-World v3; did you mean 'drawer-close-v3'",
        ),
        ({"env.tasks": []}, "no tasks given"),
        ({"env.tasks": ["reach-v3", "reach-v3"]}, "env.tasks: 'reach-v3' is named twice"),
        ({"agent.discount": "much"}, "agent.discount = 'much'"),
        ({"agent.actor_lr": float("nan")}, "finite"),
        ({"agent.log_std_min": 3.0}, "log_std_min must be below"),
        ({"agent.value_min": 10.0}, "value_min must be below value_max"),
        ({"agent.batch": 64, "agent.batch_per_task": 64}, "one of batch and batch_per_task must be 0"),
        ({"agent.batch_per_task": 0}, "one of batch and batch_per_task must be 0"),
        ({"agent.batch": 9, "env.tasks": "MT10"}, "agent.batch = 9 gives some of the 10 tasks no transition"),
        ({"agent.gradient_surgery": "pcgrad"}, "agent.gradient_surgery = pcgrad needs at least two tasks"),
        (
            {"agent.gradient_surgery": "gradnorm", "agent.loss_weights": [1.0, 2.0]},
            "gradnorm learns the weights of tasks; use loss_weights=equal",
        ),
        (
            {"agent.loss_weights": "temperature", "agent.shared_temperature": True},
            "a shared temperature gives tasks no weights of their own",
        ),
        ({"agent.loss_weights": [1.0, 2.0]}, "agent.loss_weights has 2 numbers for 1 tasks"),
        ({"agent.loss_weights": [0.0]}, "greater than 0"),
        ({"agent.value": "c51"}, "use scaling=return, or value_max=1000"),
        (
            {"agent.scaling": "return", "train.random_steps": 199},
            "use train.random_steps of at least env.horizon = 200",
        ),
        ({"agent.reset_every": 2000}, "agent.reset_every = 2000 never comes within 2000 vector steps"),
    ],
)
def test_errors_name_the_field_and_the_cure(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config("debug", overrides)
    assert message in str(error.value)


def test_options_are_off_in_the_paper() -> None:
    agent = build_config("paper").agent
    assert (agent.value, agent.critic_reduction, agent.critic_outputs) == ("scalar", "min", 1)
    assert (agent.gradient_surgery, agent.loss_weights, agent.scaling) == ("none", "equal", "none")
    assert (agent.weight_decay, agent.reset_every, agent.batch) == (0, 0, 0)


def test_a_total_batch_is_split_evenly() -> None:
    config = build_config("paper", {"agent.batch": 1024, "env.tasks": "MT50"})
    assert config.agent.batch_per_task == 0
    assert config.batch_rows == (21,) * 24 + (20,) * 26
    assert sum(config.batch_rows) == 1024
    assert build_config("paper").batch_rows == (128,) * 10
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_resets_come_at_multiples() -> None:
    agent = build_config("paper", {"agent.reset_every": 3}).agent
    assert [step for step in range(1, 10) if agent.resets_at(step)] == [3, 6, 9]
    assert not any(build_config("paper").agent.resets_at(step) for step in range(1, 10))


def test_unknown_preset_is_named() -> None:
    with pytest.raises(ConfigError, match="no preset 'papre'; did you mean 'paper'"):
        build_config("papre")


def test_overrides_are_read_as_toml_or_strings() -> None:
    words = ["agent.actor_lr=3e-4", "env.tasks=MT10", "env.fast=false", 'env.tasks=["reach-v3"]']
    assert parse_overrides(words) == {"agent.actor_lr": 3e-4, "env.tasks": ["reach-v3"], "env.fast": False}
    with pytest.raises(ConfigError, match="write key=value"):
        parse_overrides(["agent.actor_lr"])


def test_run_id_names_what_is_computed_not_where() -> None:
    config = build_config("debug")
    assert build_config("debug", {"run.device": "cpu", "run.threads": 2}).run_id == config.run_id
    assert build_config("debug", {"train.seed": 1}).run_id != config.run_id
    assert build_config("debug", {"env.tasks": ["drawer-close-v3"]}).run_id == config.run_id
    assert Config.model_validate_json(config.model_dump_json()).run_id == config.run_id
    copy = config.model_copy(update={"train": config.train.model_copy(update={"seed": 1})})
    assert copy.run_id == build_config("debug", {"train.seed": 1}).run_id


def test_benchmark_is_known_by_its_tasks() -> None:
    assert build_config("paper").benchmark == "MT10"
    assert build_config("paper", {"env.tasks": list(ALL_TASKS)}).benchmark == "MT50"
    assert (
        build_config("paper", {"env.tasks": "drawer-close-v3+reach-v3"}).benchmark
        == "drawer-close-v3+reach-v3"
    )


def test_v1_rewards_warn_of_the_tasks_that_never_report_success() -> None:
    with pytest.warns(UserWarning, match="v1: Meta-World never reports success for hand-insert-v3; use v2"):
        build_config("debug", {"env.tasks": "reach-v3+hand-insert-v3", "env.reward_version": "v1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_config("debug", {"env.tasks": "reach-v3", "env.reward_version": "v1"})
        build_config("debug", {"env.tasks": "reach-v3+hand-insert-v3"})
