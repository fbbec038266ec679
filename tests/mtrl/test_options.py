"""Every option of the agent: backends agree, the real trainer trains with it, a resumed run has the same bits."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.networks import tanh_gaussian
from mtrl.results import read_run
from mtrl.train import Progress, train
from tests.mtrl.agents import (
    FIRST_STEP,
    by_name,
    compare_with_reference,
    make_agent,
    make_batch,
    noises,
    same_state,
)
from tests.mtrl.objective import reference_options as reference
from tests.mtrl.reference_critic import first_update
from tests.mtrl.short_runs import contents, short_config, stop_after

pytestmark = pytest.mark.usefixtures("one_thread")

SCALED = {"agent__scaling": "return"}
OPTIONS: dict[str, dict[str, Any]] = {
    "pcgrad": {"agent__gradient_surgery": "pcgrad"},
    "gradnorm": {"agent__gradient_surgery": "gradnorm", "agent__gradnorm_lr": 0.1},
    "fixed weights": {"agent__loss_weights": (1.0, 3.0)},
    "temperature weights": {"agent__loss_weights": "temperature", "agent__temperature_lr": 0.1},
    "reward scale": {"agent__scaling": "reward"},
    "return scale": SCALED,
    "two-hot": SCALED | {"agent__value": "two_hot"},
    "c51, mean": SCALED | {"agent__value": "c51", "agent__critic_reduction": "mean"},
    "hl-gauss, pcgrad": SCALED | {"agent__value": "hl_gauss", "agent__gradient_surgery": "pcgrad"},
    "clipped Q": {"agent__q_clip": 0.01},
    "mean": {"agent__critic_reduction": "mean"},
    "total batch": {"agent__batch_per_task": 0, "agent__batch": 15, "train__updates_per_step": 2},
    "decay, pcgrad": {"agent__weight_decay": 0.1, "agent__gradient_surgery": "pcgrad"},
    "resets": {"agent__reset_every": 15},
    "critic resets, gradnorm": {
        "agent__reset_every": 9,
        "agent__reset": "critic",
        "agent__gradient_surgery": "gradnorm",
    },
    "prioritized, weights, c51": SCALED
    | {"replay__mode": "prioritized", "agent__value": "c51", "agent__loss_weights": (2.0, 1.0)},
}
FUSED = {"reward scale", "return scale", "total batch", "resets"}
# in one update
LEARNING = [name for name in OPTIONS if name not in {"reward scale", "total batch", "resets"}]
every_option = pytest.mark.parametrize("name", OPTIONS)


def agent_with(name: str, backend: str):
    agent = make_agent(backend, tasks=2, **OPTIONS[name])
    for t in range(8):  # two episodes, for the scale of returns
        ended = np.array([t % 4 == 3] * 2)
        agent.observe(np.array([1.0, 30.0]) * t, ended & (t == 3), ended & (t == 7))
    return agent


@pytest.mark.parametrize("name", LEARNING)
def test_backends_agree(name: str) -> None:
    agents = [agent_with(name, backend) for backend in ("fused", "torch")]
    for step in range(4):
        ours, twin = (agent.update(make_batch(2, 8, seed=step)) for agent in agents)
        assert ours.metrics.keys() == twin.metrics.keys() == set(agents[0].update_metrics)
        np.testing.assert_allclose(ours.priority, twin.priority, rtol=1e-3, atol=1e-3)
        for metric, value in ours.metrics.items():
            np.testing.assert_allclose(value, twin.metrics[metric], rtol=1e-3, atol=1e-4, err_msg=metric)


def combined(rule):
    """For the transcription: `rule` over flat gradients, of which it knows those by name."""

    def combine(network, gradients):
        flat = np.stack([np.concatenate([g.ravel() for g in each.values()]) for each in gradients])
        result, start, parts = rule(network, flat), 0, {}
        for name, g in gradients[0].items():
            parts[name] = result[start : start + g.size].reshape(g.shape)
            start += g.size
        return parts

    return combine


@pytest.mark.parametrize("backend", ["core", "torch"])
def test_one_update_with_pcgrad_equals_the_transcription(backend: str) -> None:
    agent = make_agent(
        backend, tasks=4, agent__gradient_surgery="pcgrad", agent__loss_weights=(1.0, 4.0, 0.5, 2.0)
    )
    orders = {}
    for network, rule in (("critic", agent.critic_rule), ("actor", agent.actor_rule)):
        generator = torch.Generator()
        generator.set_state(rule.state_dict()["generator"])
        orders[network] = torch.randperm(4, generator=generator).tolist()
    conflicts = []

    def rule(network, gradients):
        conflicts.append((gradients @ gradients.T).min())
        return reference.pcgrad(gradients, orders[network])

    weights = {"task_weight": agent.config.agent.loss_weights}
    compare_with_reference(
        agent, make_batch(4, 9, terminated=0.3), FIRST_STEP, combine=combined(rule), **weights
    )
    assert max(conflicts) < 0  # or there would be nothing to project


@pytest.mark.parametrize("backend", ["core", "torch"])
def test_one_update_with_gradnorm_equals_the_transcription(backend: str) -> None:
    agent = make_agent(backend, agent__gradient_surgery="gradnorm")
    for rule in (agent.actor_rule, agent.critic_rule):
        rule.weight.copy_(torch.tensor([0.5, 1.0, 1.5]))

    def rule(network, gradients):
        twin = reference.GradNorm(3, 0.12, 3e-4)
        twin.weight = np.array([0.5, 1.0, 1.5])
        return twin(np.ones(3), gradients)

    compare_with_reference(agent, make_batch(3, 9), FIRST_STEP, combine=combined(rule))


@pytest.mark.parametrize("backend", ["core", "torch"])
def test_one_update_with_weights_equals_the_transcription(backend: str) -> None:
    fixed = make_agent(backend, agent__loss_weights=(0.2, 1.0, 3.0))
    compare_with_reference(fixed, make_batch(3, 9), FIRST_STEP, task_weight=(0.2, 1.0, 3.0))
    soft = make_agent(backend, agent__loss_weights="temperature")
    soft.log_temperature.copy_(torch.tensor([0.0, -1.0, 0.5]))
    weight = np.exp(-np.array([0.0, -1.0, 0.5]))
    compare_with_reference(soft, make_batch(3, 9), FIRST_STEP, task_weight=3 * weight / weight.sum())


@pytest.mark.parametrize("backend", ["fused", "core", "torch"])
def test_one_update_with_scaled_returns_equals_the_transcription(backend: str) -> None:
    agent = make_agent(backend, tasks=2, agent__scaling="return")
    ended = np.array([True, True])
    agent.observe(np.array([30.0, -500.0]), ended, ~ended)
    batch = make_batch(2, 9)
    scale = (np.array([30.0, 500.0]) + 1.0 * 4 / (1 - 0.99) / 2) / 10
    scaled = batch._replace(reward=batch.reward / torch.tensor(scale, dtype=torch.float32)[batch.task])
    expected = first_update(agent.state_dict(), scaled, *noises(agent, 18), agent.config.agent)
    np.testing.assert_allclose(agent.update(batch).priority, expected["priority"], rtol=1e-4, atol=1e-5)


def test_pcgrad_goes_on_with_the_same_orders() -> None:
    straight, resumed = (make_agent("torch", tasks=5, agent__gradient_surgery="pcgrad") for _ in range(2))
    for network in (straight.critic, straight.actor):
        network.head_kernel.data.mul_(300)  # from so small ones, tasks hardly reach what they share
    straight.update(make_batch(5, 4))
    resumed.load_state_dict(straight.state_dict())
    for step in range(3):
        batch = make_batch(5, 4, step)
        batch.reward[
            batch.task % 2 == 0
        ] *= -1  # conflicts between several tasks, or the order would not matter
        assert straight.update(batch).metrics == resumed.update(batch).metrics
    assert same_state(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("reset", ["both", "actor", "critic"])
def test_a_reset_draws_networks_and_optimisers_anew(reset: str) -> None:
    agent = make_agent(agent__reset_every=5, agent__reset=reset)
    for step in range(2):
        agent.update(make_batch(3, 8, seed=step))
    before = agent.state_dict()
    agent.reset(10)
    again = agent.state_dict()
    agent.reset(5)
    after = agent.state_dict()
    fresh = {"both": {"actor", "critic"}, "actor": {"actor"}, "critic": {"critic"}}[reset]
    for network in ("actor", "critic"):
        if network in fresh:
            # neither the first weights come again, nor those of another reset
            first = make_agent().state_dict()
            assert not torch.equal(first[network]["kernel.0"], after[network]["kernel.0"])
            assert not torch.equal(again[network]["kernel.0"], after[network]["kernel.0"])
            assert not torch.equal(before[network]["kernel.0"], after[network]["kernel.0"])
            assert not any(b.any() for name, b in after[network].items() if name.startswith("bias"))
            assert after[f"{network}_adam"]["steps"] == 0
            assert not after[f"{network}_adam"]["mean"].any()
        else:
            assert same_state(before[network], after[network])
            assert same_state(before[f"{network}_adam"], after[f"{network}_adam"])
    assert same_state(after["target"], after["critic"] if "critic" in fresh else before["target"])
    agent.update(make_batch(3, 8))  # the flat vectors still hold the parameters
    assert not torch.equal(agent.state_dict()["actor"]["kernel.0"], after["actor"]["kernel.0"])


@every_option
def test_the_fused_step_is_taken_where_it_applies(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mtrl.fused_update")
    assert (agent_with(name, "fused").fused is not None) == (name in FUSED)
    why = "one fused step" if name in FUSED else "updates run through autograd: agent."
    assert why in caplog.text


# Several options to a run, for the time that envs take; each is in one of them.
TRAINED = (
    ("decay, pcgrad", "hl-gauss, pcgrad", "total batch"),
    ("gradnorm", "critic resets, gradnorm", "reward scale"),
    ("fixed weights", "c51, mean", "prioritized, weights, c51"),
    ("temperature weights", "two-hot", "resets"),
    ("return scale", "mean", "clipped Q"),
)


@pytest.mark.parametrize("names", TRAINED, ids="+".join)
def test_trains_and_resumes_bit_for_bit(names: tuple[str, ...], tmp_path: Path) -> None:
    options = {key: value for name in names for key, value in OPTIONS[name].items()}
    config = short_config(train__vector_steps=50, train__random_steps=25, evaluate__every=40, **options)
    assert train(config, tmp_path / "straight") == "done"
    assert np.isfinite(read_run(tmp_path / "straight/run.h5").per_run).all()
    seen: list[Progress] = []
    stop = partial(stop_after, seen, 33)
    assert train(config, tmp_path / "resumed", stop=stop, report=seen.append) == "stopped"
    assert train(config, tmp_path / "resumed") == "done"
    assert contents(tmp_path / "straight/run.h5") == contents(tmp_path / "resumed/run.h5")
    straight, resumed = (
        torch.load(tmp_path / place / "agent.pt", weights_only=False) for place in ("straight", "resumed")
    )
    assert same_state(straight, resumed)


@pytest.fixture(scope="module")
def plain_critic(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return trained_critic(tmp_path_factory.mktemp("plain"))


def trained_critic(directory: Path, **options: Any) -> torch.Tensor:
    config = short_config(train__vector_steps=31, train__random_steps=25, evaluate__every=40, **options)
    assert train(config, directory) == "done"
    critic: torch.Tensor = torch.load(directory / "agent.pt", weights_only=False)["critic"]["kernel.1"]
    return critic


@pytest.mark.parametrize("name", ["reward scale", "return scale", "total batch", "resets"])
def test_the_trainer_knows_what_is_not_the_agents_alone(
    name: str, plain_critic: torch.Tensor, tmp_path: Path
) -> None:
    options = OPTIONS[name] | {"train__updates_per_step": 1}
    assert not torch.equal(trained_critic(tmp_path, **options), plain_critic)


def test_every_option_is_trained_with() -> None:
    assert {name for names in TRAINED for name in names} | {"pcgrad"} == set(OPTIONS)


# Another network of each kind, so that what is split by task or read as a distribution is tried on all of them.
SMALL = {"width": 8, "depth": 2}
OTHER_KINDS: dict[str, dict[str, Any]] = {
    "mtsac, brc": {**SMALL, "kind": "mtsac", "block": "brc", "task_embedding": 3},
    "soft_modularization": {**SMALL, "kind": "soft_modularization", "experts": 2, "encoder_width": 5},
    "paco": {**SMALL, "kind": "paco", "experts": 3},
    "moore": {**SMALL, "kind": "moore", "experts": 3},
    "care": {**SMALL, "kind": "care", "experts": 3, "encoder_width": 5},
    "film": {**SMALL, "kind": "film", "encoder_width": 5},
}
WIDE = {"agent__value_min": -50.0, "agent__value_max": 1000.0, "agent__bins": 11}


@pytest.mark.parametrize("backend", ["core", "torch"])
@pytest.mark.parametrize(
    "option", [{"agent__gradient_surgery": "pcgrad"}, WIDE | {"agent__value": "c51"},
               WIDE | {"agent__value": "two_hot", "agent__gradient_surgery": "gradnorm"}],
    ids=["pcgrad", "c51", "two-hot, gradnorm"],
)  # fmt: skip
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_gradients_of_every_kind_equal_those_task_by_task(
    kind: str, option: dict[str, Any], backend: str
) -> None:
    """The clipped gradients of an update against autograd in float64, one task after another, then the rule's loop."""
    shape = {f"network__{part}__{k}": v for part in ("actor", "critic") for k, v in OTHER_KINDS[kind].items()}
    agent = make_agent(backend, agent__actor_clip=0.01, **shape, **option)
    with torch.no_grad():
        for flat in (agent.actor_adam.value, agent.critic_adam.value, agent.target_value):
            flat += 0.2 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    batch, settings, tasks = make_batch(3, 6, terminated=0.3), agent.config.agent, 3
    rows = type(batch)(*(column.double() if column.is_floating_point() else column for column in batch))
    next_noise, noise = map(torch.tensor, noises(agent, 18))
    orders = {}
    if settings.gradient_surgery == "pcgrad":
        for name, rule in (("critic", agent.critic_rule), ("actor", agent.actor_rule)):
            generator = torch.Generator()
            generator.set_state(rule.state_dict()["generator"])
            orders[name] = torch.randperm(tasks, generator=generator).tolist()
    actor, critic, target = (float64_twin(network) for network in (agent.actor, agent.critic, agent.target))
    atoms = torch.linspace(settings.value_min, settings.value_max, settings.bins, dtype=torch.float64)

    def value(output):
        return output.squeeze(2) if settings.value == "scalar" else output.softmax(2) @ atoms

    def act(observation, noise):
        output = actor(observation, rows.task)[0]
        return tanh_gaussian.sample(output, noise, settings.log_std_min, settings.log_std_max)

    with torch.no_grad():
        action, log_prob = act(rows.next_observation, next_noise)
        next_output = target(torch.cat((action, rows.next_observation), 1), rows.task)
        least = value(next_output).argmin(0)
        follows = rows.discount * (1 - rows.terminated)
        y = rows.reward + follows * (value(next_output).min(0).values - log_prob)  # temperature 1
        if settings.value == "c51":
            own = next_output.softmax(2)[least, torch.arange(18)].numpy()
            y = torch.tensor(
                reference.c51(own, atoms.numpy(), rows.reward.numpy(), follows.numpy(), log_prob.numpy())
            )
        elif settings.value == "two_hot":
            y = torch.tensor(reference.two_hot(y.numpy(), atoms.numpy()))

    output = critic(torch.cat((rows.action, rows.observation), 1), rows.task)
    error = (
        (value(output) - y).square() if settings.value == "scalar" else -(y * output.log_softmax(2)).sum(2)
    )
    expected = {"critic": combine(settings, orders, "critic", critic, rows.weight * error.mean(0), rows.task)}
    before = agent.actor_adam.value.clone()
    agent.update(batch)
    assert not torch.equal(before, agent.actor_adam.value)
    action, log_prob = act(rows.observation, noise)
    q = value(float64_twin(agent.critic)(torch.cat((action, rows.observation), 1), rows.task)).min(0).values
    expected["actor"] = combine(settings, orders, "actor", actor, log_prob - q, rows.task)

    for name, adam, limit in (
        ("critic", agent.critic_adam, settings.critic_clip),
        ("actor", agent.actor_adam, settings.actor_clip),
    ):
        wanted = expected[name] * min(1, limit / np.linalg.norm(expected[name]))
        ours = [part.flatten() for part in by_name(adam.mean, getattr(agent, name)).values()]
        # Adam's mean after one step is a tenth of the gradient.
        np.testing.assert_allclose(10 * torch.cat(ours), wanted, rtol=2e-3, atol=1e-4 * np.abs(wanted).max())


def float64_twin(network):
    twin = copy.deepcopy(network).double()
    twin.backend = "torch"
    return twin


def combine(settings, orders, name, network, loss, task):
    """The gradient of the rows' losses [B] in the network's parameters by the rule, from each task's own."""
    parameters = list(network.parameters())
    each = []
    for t in range(3):
        of_task = 3 * (loss * (task == t)).mean()
        gradient = torch.autograd.grad(of_task, parameters, retain_graph=True, materialize_grads=True)
        each.append(torch.cat([g.flatten() for g in gradient]).numpy())
    if settings.gradient_surgery == "pcgrad":
        return reference.pcgrad(np.stack(each), orders[name])
    return np.mean(each, axis=0)  # GradNorm's weights are 1 at first
