"""The agent: a whole update against numpy float64, both backends, resume, random numbers, metrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mtrl.agent import UPDATE_METRICS, Agent
from mtrl.matmul import choose_matmul
from mtrl.monitor.plasticity import RUN_METRICS, measure
from mtrl.overrides import build_config
from tests.mtrl.agents import (
    BACKENDS,
    FIRST_STEP,
    Rows,
    compare_with_reference,
    make_agent,
    make_batch,
    noises,
    same_state,
)
from tests.mtrl.reference_critic import first_update

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_update_of_the_paper_preset_equals_the_transcription(backend):
    agent = make_agent(backend, tasks=10, width=400)
    assert agent.config == build_config("paper", {"agent.backend": agent.config.agent.backend})
    compare_with_reference(agent, make_batch(10, 128, seed=5), FIRST_STEP)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "more",
    [
        {"width": 7, "tasks": 2, "network__critic__depth": 1, "network__actor__depth": 2},
        {"agent__critics": 5, "tasks": 4, "agent__log_std_min": -0.001, "agent__log_std_max": 0.001},
        {
            "agent__critics": 1,
            "tasks": 1,
            "width": 33,
            "agent__critic_clip": 1e-3,
            "agent__initial_temperature": 0.2,
        },
        {
            "agent__weight_decay": 10.0,
            "agent__initial_temperature": 0.2,
        },  # moves a weight of 0.01 by a step's tenth
    ],
)
def test_one_update_equals_the_transcription(backend, more):
    agent = make_agent(backend, **more)
    compare_with_reference(agent, make_batch(len(agent.temperature), 9, terminated=0.3), FIRST_STEP)


@settings(max_examples=25, deadline=None)
@given(
    critics=st.sampled_from((1, 2, 3, 16)), tasks=st.integers(1, 6), rows=st.sampled_from((1, 3, 50, 90)),
    width=st.sampled_from((8, 9, 16, 31, 48, 70)), depths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    ended=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_fused_update_equals_the_transcription_on_any_shape(
    critics, tasks, rows, width, depths, ended, seed
):
    agent = make_agent(
        tasks=tasks, width=width, agent__critics=critics, train__seed=seed, agent__critic_clip=10.0,
        network__actor__depth=depths[0], network__critic__depth=depths[1],
    )  # fmt: skip
    batch = make_batch(tasks, rows, seed, terminated=0.5 * ended)
    state, noise = agent.state_dict(), noises(agent, len(batch.reward))
    state["target"] = {name: 0.9 * value for name, value in state["target"].items()}
    # Single precision rounds what enters a ReLU by up to 1e-6 here.
    assume(first_update(state, batch, *noise, agent.config.agent)["margin"] > 2e-6)
    compare_with_reference(agent, batch, FIRST_STEP)


def test_rows_in_any_order_of_tasks_give_the_same_update():
    batch = make_batch(3, 40)
    shuffled = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    agent = make_agent()
    compare_with_reference(agent, Rows(*(column[shuffled] for column in batch)), FIRST_STEP)


def test_backends_stay_together_over_many_updates():
    agents = [make_agent(backend, width=32) for backend in BACKENDS]
    for step in range(50):
        batch = make_batch(3, 32, seed=step)
        for agent in agents:
            agent.update(batch)
    *ours, twin = (agent.state_dict() for agent in agents)
    for state in ours:
        for network in ("actor", "critic", "target"):
            for name in state[network]:
                # 50 steps move a weight by up to 50 lr = 1.5e-2; rounding differences stay a hundredth of that.
                torch.testing.assert_close(state[network][name], twin[network][name], rtol=0, atol=1.5e-4)


def test_training_stays_with_the_twin_for_hundreds_of_updates():
    agents = [make_agent(backend, width=16, tasks=2) for backend in ("fused", "torch")]
    errors = []
    for step in range(400):
        batch = make_batch(2, 32, seed=step % 7)
        losses = [agent.update(batch).metrics["critic_loss"] for agent in agents]
        errors.append(abs(losses[0] / losses[1] - 1))
    # The two round differently, and training magnifies that; a wrong gradient shows within a few steps.
    assert max(errors[:100]) < 1e-3
    assert max(errors) < 3e-2


def test_the_number_of_threads_does_not_show(monkeypatch):
    monkeypatch.setattr("mtrl.fused_update.allowed_threads", lambda wished: wished)
    # tests/csrc has more than CPUs
    agents = [make_agent(width=300, agent__critics=3, run__threads=threads) for threads in (1, 2)]
    for step in range(3):
        batch = make_batch(3, 180, seed=step)
        updates = [agent.update(batch) for agent in agents]
        assert all(update.metrics == updates[0].metrics for update in updates)
        assert all(torch.equal(update.priority, updates[0].priority) for update in updates)
    first, *others = (agent.state_dict() for agent in agents)
    assert all(same_state(first, other) for other in others)


@pytest.mark.parametrize(
    ("wished", "bound", "threads"),
    [(None, 2, 2), ("1", 2, 1), ("1,2", 2, 1), ("8", 2, 2), ("", 2, 2), ("0", 2, 2), ("many", 2, 2)],
)
def test_threads_stay_within_the_environments_wish_and_the_bound_cpus(
    monkeypatch, caplog, wished, bound, threads
):
    caplog.set_level("INFO", logger="mtrl.fused_update")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(bound)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wished is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wished)
    make_agent(width=8, run__threads=16)
    assert f"threads: {threads}" in caplog.text


@pytest.fixture
def blas():
    """Products on SciPy's BLAS for agents with run.matmul = "blas"; the best own kernel again afterwards."""
    yield
    choose_matmul("own")


def test_an_update_on_scipys_blas_equals_the_transcription(blas, caplog):
    caplog.set_level("INFO", logger="mtrl.fused_update")
    agent = make_agent(tasks=10, width=400, run__matmul="blas")
    assert "products on blas (" in caplog.text
    compare_with_reference(agent, make_batch(10, 128, seed=5), FIRST_STEP)


def test_the_fused_step_is_taken_where_it_applies(caplog):
    caplog.set_level("INFO", logger="mtrl.fused_update")
    assert make_agent("fused").fused is not None
    assert "one fused step" in caplog.text
    assert make_agent("torch").fused is None


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_where_configured(value):
    batch = make_batch(3, 8)
    batch.next_observation[9, 3] = value
    with pytest.raises(ValueError, match=r"batch.next_observation\[9\] is not finite \(task 1\)"):
        make_agent(run__check_inputs=True).update(batch)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_broken_batch_shows_in_the_loss(backend):
    agent = make_agent(backend)
    batch = make_batch(3, 8)
    batch.reward[5] = float("nan")
    update = agent.update(batch)
    assert math.isnan(update.metrics["critic_loss"])
    assert update.priority.isnan().nonzero().tolist() == [[5]]
    assert math.isnan(agent.update(make_batch(3, 8)).metrics["actor_loss"])


def test_a_batch_that_does_not_fit_changes_nothing():
    agent = make_agent()
    batch = make_batch(3, 8)
    before = agent.state_dict()
    for name, column, message in (
        ("task", batch.task + 1, r"task\[16\] is 3; there are 3 tasks"),
        ("observation", batch.observation[:, :38].contiguous(), "observation has shape"),
        ("reward", batch.reward.double(), "reward has dtype float64; expected float32"),
        ("weight", batch.weight[:5], "weight has shape"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            agent.update(batch._replace(**{name: column}))
    after = agent.state_dict()
    assert same_state(before["critic"], after["critic"])
    assert before["critic_adam"]["steps"] == after["critic_adam"]["steps"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_resume_gives_the_same_bits(backend):
    straight = make_agent(backend)
    batches = [make_batch(3, 8, seed=i) for i in range(4)]
    for batch in batches[:2]:
        straight.update(batch)
    straight.act(np.zeros((3, 39)))
    resumed = make_agent(backend, train__seed=9)
    resumed.load_state_dict(straight.state_dict())
    for batch in batches[2:]:
        first, second = straight.update(batch), resumed.update(batch)
        assert torch.equal(first.priority, second.priority)
        assert first.metrics == second.metrics
    np.testing.assert_array_equal(straight.act(np.ones((3, 39))), resumed.act(np.ones((3, 39))))
    assert same_state(straight.state_dict(), resumed.state_dict())


def test_state_dict_is_a_copy():
    agent = make_agent()
    state = agent.state_dict()
    before = state["critic"]["kernel.0"].clone()
    agent.update(make_batch(3, 8))
    assert torch.equal(before, state["critic"]["kernel.0"])
    assert not torch.equal(before, agent.state_dict()["critic"]["kernel.0"])


def test_random_numbers_come_from_the_seed_alone():
    global_state = torch.get_rng_state()
    first, second = make_agent(), make_agent()
    torch.manual_seed(123)
    assert same_state(first.state_dict(), second.state_dict())
    torch.set_rng_state(global_state)
    np.testing.assert_array_equal(first.act(np.ones((3, 39))), second.act(np.ones((3, 39))))
    first.update(make_batch(3, 8))
    assert torch.equal(global_state, torch.get_rng_state())
    other = make_agent(train__seed=1)
    assert not torch.equal(other.state_dict()["actor"]["kernel.0"], second.state_dict()["actor"]["kernel.0"])


def test_acting_deterministically_draws_nothing():
    agent, silent = make_agent(), make_agent()
    observation = np.random.default_rng(0).normal(size=(3, 39))
    first = agent.act(observation, deterministic=True)
    np.testing.assert_array_equal(first, agent.act(observation, deterministic=True))
    np.testing.assert_array_equal(agent.act(observation), silent.act(observation))
    assert first.dtype == np.float32
    assert first.shape == (3, 4)


@pytest.mark.parametrize("deterministic", [True, False])
def test_backends_act_alike(deterministic):
    observation = np.random.default_rng(0).normal(size=(3, 39))
    actions = {}
    for backend in BACKENDS:
        agent = make_agent(backend)
        agent.actor_adam.value.mul_(3.0)  # so that means and deviations are not all near 0
        actions[backend] = [agent.act(observation, deterministic=deterministic) for _ in range(2)]
    for backend in BACKENDS:
        np.testing.assert_allclose(actions[backend], actions["torch"], rtol=1e-5, atol=1e-6)


def test_each_row_is_acted_on_by_its_own_task():
    agent = make_agent()
    row = np.random.default_rng(0).normal(size=39)
    action = agent.act(np.tile(row, (3, 1)), deterministic=True)
    assert len({tuple(a) for a in action}) == 3


def test_truncation_bootstraps_and_termination_does_not():
    agent = make_agent()
    batch = make_batch(3, 8)
    ended = batch._replace(terminated=torch.ones(24))
    bounded = agent.state_dict()
    agent.update(ended)
    agent.load_state_dict(bounded)
    with torch.no_grad():
        q = agent.critic(torch.cat((batch.action, batch.observation), 1), batch.task).squeeze(2)
    priority = agent.update(ended).priority
    torch.testing.assert_close(priority, (q - batch.reward).abs().mean(0), rtol=1e-5, atol=1e-6)
    agent.load_state_dict(bounded)
    assert not torch.allclose(agent.update(batch).priority, priority)


def test_run_metrics_are_what_update_and_measure_give():
    agent = make_agent(network__actor__depth=2)
    batch = make_batch(3, 8)
    names = (*agent.update(batch).metrics, *measure(agent, {"training": batch, "fixed": batch}).per_run)
    assert sorted(names) == sorted((*agent.update_metrics, *RUN_METRICS))
    assert set(UPDATE_METRICS) <= set(names)


def test_parameters_of_the_paper_preset():
    counts = Agent(
        build_config("paper", {"network.actor.width": 400, "network.critic.width": 400})
    ).parameters
    assert counts == {"actor": 372_880, "critic": 692_820, "target": 692_820, "total": 1_065_700}


def test_initial_temperature_and_target():
    agent = make_agent(agent__initial_temperature=0.5)
    np.testing.assert_allclose(agent.temperature, [0.5, 0.5, 0.5])
    state = agent.state_dict()
    assert same_state(state["critic"], state["target"])
