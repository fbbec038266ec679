"""Plasticity: by hand, against a float64 transcription, and that measuring leaves the run as it is."""

import math

import numpy as np
import pytest
import torch

from mtrl.agent import _generator
from mtrl.monitor import plasticity
from mtrl.monitor.fixed_batch import FixedBatch
from mtrl.noise import Noise
from mtrl.overrides import build_config
from mtrl.results import BATCHES, GRADIENT_METRICS, LAYER_METRICS, NETWORKS, PLASTICITY
from tests.mtrl.agents import BACKENDS, make_agent, make_batch
from tests.mtrl.monitor import reference_plasticity as slow

TASKS = 3


def test_dormant_neurons_by_hand():
    hidden = torch.tensor([[2.0, 0.0, 0.15, 1.0], [2.0, 0.0, 0.13, 3.0]])
    # Activities 2, 0, 0.14, 2: their mean is 1.035, so that 0.1035 is the limit.
    assert plasticity.dormant(hidden, 0.1).tolist() == [False, True, False, False]
    assert plasticity.dormant(hidden, 0.2).tolist() == [False, True, True, False]
    assert plasticity.dormant_shares([hidden, hidden[:, 1:2], hidden[:0]], 0.2)[:2] == [0.5, 1.0]
    assert plasticity.pooled([0.5, 1.0], [hidden, hidden[:, 1:2]]) == 0.6


def test_a_dead_layer_is_wholly_dormant():
    assert plasticity.dormant(torch.zeros(3, 4), 0.1).all()
    assert plasticity.srank(torch.zeros(3, 4)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_measure(bad):
    hidden = torch.tensor([[1.0, bad], [1.0, 1.0]])
    assert math.isnan(plasticity.srank(hidden))
    assert np.isnan(plasticity.dormant_shares([hidden, hidden[:0]], 0.1)).all()


@pytest.mark.parametrize("shape", [(50, 20), (20, 50), (3000, 7), (1, 1)])
def test_srank_equals_the_svds(shape):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(shape, generator=generator) * torch.logspace(0, -4, shape[1])
    rows = hidden[:: -(-shape[0] // 1024)].double()
    assert plasticity.srank(hidden) == slow.srank(rows.numpy())


def test_weight_norm():
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(4.0)
    assert plasticity.weight_norm(layer) == pytest.approx(5.0)


def learned(backend, **more):
    """An agent after a few updates, so that moments and activations are no special case."""
    agent = make_agent(backend, tasks=TASKS, **more)
    for seed in range(3):
        agent.update(make_batch(TASKS, 12, seed=seed))
    return agent


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_measures_equal_the_transcription(backend):
    agent = learned(backend, plasticity__dormant_threshold=0.4, plasticity__gradient_rows=5)
    batches = {"training": make_batch(TASKS, 8, seed=7), "fixed": make_batch(TASKS, 6, seed=8)}
    measured = plasticity.measure(agent, batches)
    state = agent.state_dict()
    rows = 5 * TASKS
    generator = _generator(agent.config.train.seed, 6, device="cpu")
    noises = Noise(generator).draw(2, rows, 4).double().numpy()
    for b, name in enumerate(BATCHES):
        batch, suffix = batches[name], "_fixed" if name == "fixed" else ""
        sample = type(batch)(*(column.unflatten(0, (TASKS, -1))[:, :5].flatten(0, 1) for column in batch))
        each = slow.task_gradients(state, sample, *noises, agent.config.agent)
        for n, network in enumerate(NETWORKS):
            layers = slow.layers_of(state, batch, network, TASKS)
            expected = [[slow.dormant_share(h, 0.4), slow.srank(h)] for h in layers]
            np.testing.assert_allclose(measured.arrays["per_layer"][b, n], expected, rtol=1e-6)
            by_task = [[slow.dormant_share(h[batch.task == t], 0.4) for t in range(TASKS)] for h in layers]
            np.testing.assert_allclose(measured.arrays["dormant"][b, n], by_task, rtol=1e-6)
            pooled = np.mean([row[0] for row in expected])  # layers of one width
            assert measured.per_run[f"dormant_{network}{suffix}"] == pytest.approx(pooled)
            gradients = slow.gradient_metrics(each[network])
            # of float32 gradients
            np.testing.assert_allclose(
                measured.arrays["task_gradient"][b, n], gradients, rtol=1e-3, atol=1e-4, err_msg=network
            )
            if name == "fixed":
                norm = np.linalg.norm(each[network].mean(0))
                assert measured.per_run[f"{network}_gradient_norm_fixed"] == pytest.approx(norm, rel=1e-4)
    assert 0 < measured.arrays["dormant"].mean() < 1
    assert measured.per_run["q_max"] == pytest.approx(float(agent.q(batches["training"]).abs().max()))


@pytest.mark.parametrize("decay", [0.0, 10.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_effective_learning_rate_is_the_updates_norm_over_the_weights(backend, decay):
    agent = learned(backend, agent__weight_decay=decay, agent__critic_clip=1e-3)
    batch = make_batch(TASKS, 12, seed=9)
    before = {name: adam.value.double().clone() for name, adam in agent.adams.items()}
    agent.update(batch)
    measured = plasticity.measure(agent, {"training": batch, "fixed": batch})
    for name, adam in agent.adams.items():
        moved = float((adam.value.double() - before[name]).norm() / adam.value.double().norm())
        # The difference of two float32 weights near 0.1 is known to 1e-8, of steps of 1e-4.
        assert measured.per_run[f"{name}_effective_lr"] == pytest.approx(moved, rel=1e-3)
    agent.critic_adam.reset()
    assert math.isnan(agent.critic_adam.update_norm())


@pytest.mark.parametrize(
    "more", [{}, {"agent__gradient_surgery": "pcgrad"}, {"agent__value": "c51", "agent__scaling": "return"}]
)
def test_measuring_changes_nothing_that_follows(more):
    agents = [learned("fused", **more) for _ in range(2)]
    batch = make_batch(TASKS, 12, seed=9)
    plasticity.measure(agents[0], {"training": batch, "fixed": make_batch(TASKS, 6, seed=8)})
    for agent in agents:
        agent.update(batch)
    ours, theirs = (agent.state_dict() for agent in agents)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_tasks_that_pull_apart_and_together():
    each = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
    cosine, conflict = plasticity.cosines(each)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(cosine, [(half - 1) / 2, 0, (-half - 1) / 2, math.nan], atol=1e-12)
    np.testing.assert_allclose(conflict, [0.5, 0.5, 1, math.nan])


def test_cosines_of_very_large_networks_are_of_evenly_spaced_coordinates(monkeypatch):
    agent, batch = learned("fused"), make_batch(TASKS, 12, seed=9)
    whole = plasticity.measure(agent, {"training": batch, "fixed": batch}).arrays["task_gradient"]
    monkeypatch.setattr(plasticity, "COORDINATES", 1000)
    part = plasticity.measure(agent, {"training": batch, "fixed": batch}).arrays["task_gradient"]
    norm, cosine = (GRADIENT_METRICS.index(name) for name in ("norm", "cosine"))
    np.testing.assert_array_equal(part[..., norm], whole[..., norm])
    np.testing.assert_allclose(part[..., cosine], whole[..., cosine], atol=0.2)  # of 1,000 coordinates: +-0.1
    assert (part[..., cosine] != whole[..., cosine]).all()


def test_networks_of_unlike_depth_leave_layers_empty():
    agent = learned("fused", network__actor__depth=2, width=8)
    batch = make_batch(TASKS, 12)
    arrays = plasticity.measure(agent, {"training": batch, "fixed": batch}).arrays
    assert set(arrays) == set(PLASTICITY)
    known = np.isfinite(arrays["per_layer"]).all(axis=(0, 3))  # [network, layer]
    assert known.tolist() == [[True, True, False], [True, True, True]]
    assert arrays["per_layer"].shape[3] == len(LAYER_METRICS)


def offered(config, stop=10**9):
    batch = FixedBatch(config)
    for step in range(min(stop, config.train.vector_steps)):
        column = np.array([step, 1000.0 + step])
        batch.offer(
            step, np.tile(column[:, None], 39), np.zeros((2, 4)), column, column > 1e9, np.ones((2, 39))
        )
    return batch


def test_the_fixed_batch_is_evenly_spaced_up_to_the_first_evaluation_that_measures():
    settings = {
        "env.tasks": "drawer-close-v3+reach-v3", "evaluate.every": 40, "train.random_steps": 50,
        "train.vector_steps": 300, "plasticity.batch_per_task": 8,
    }  # fmt: skip
    batch = offered(build_config("debug", settings)).batch(torch.device("cpu"))
    assert batch.reward.tolist() == [*range(9, 80, 10), *range(1009, 1080, 10)]
    assert batch.task.tolist() == [0] * 8 + [1] * 8
    assert batch.observation[:, 5].tolist() == batch.reward.tolist()
    assert set(batch.discount.tolist()) == {torch.tensor(0.99).item()}
    few = build_config("debug", settings | {"train.vector_steps": 60, "plasticity.batch_per_task": 100})
    assert len(offered(few).batch(torch.device("cpu")).reward) == 2 * 60


def test_the_fixed_batch_goes_on_where_it_was():
    config = build_config("debug", {"env.tasks": "drawer-close-v3+reach-v3", "plasticity.batch_per_task": 8})
    straight, first, second = offered(config), offered(config, stop=500), FixedBatch(config)
    second.load_state_dict(first.state_dict())
    assert len(second.state_dict()["kept"]) == 4
    for step in range(500, 2000):
        column = np.array([step, 1000.0 + step])
        second.offer(
            step, np.tile(column[:, None], 39), np.zeros((2, 4)), column, column > 1e9, np.ones((2, 39))
        )
    ours, theirs = (batch.batch(torch.device("cpu")) for batch in (second, straight))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
