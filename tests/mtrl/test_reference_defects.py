"""What is wrong in the paper's own code, or must not be lost from it, by name (PAPER.md, 2): none of it here."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.agent import Agent
from mtrl.overrides import build_config
from mtrl.replay import Replay
from mtrl.results import read_run
from mtrl.train import Progress, train
from tests.mtrl.agents import make_agent, make_batch, noises
from tests.mtrl.reference_critic import first_update
from tests.mtrl.short_runs import short_config

BACKENDS = ("fused", "core", "torch")


@pytest.mark.parametrize("surgery", ["none", "pcgrad", "gradnorm"])
def test_next_actions_come_from_next_observations_also_when_losses_are_split_by_task(surgery: str) -> None:
    agent = make_agent("torch", agent__gradient_surgery=surgery)
    batch = make_batch(3, 8)
    expected = first_update(agent.state_dict(), batch, *noises(agent, 24), agent.config.agent)
    np.testing.assert_allclose(agent.update(batch).priority, expected["priority"], rtol=1e-4, atol=1e-5)
    wrong = batch._replace(next_observation=batch.observation)
    other = make_agent("torch", agent__gradient_surgery=surgery).update(wrong)
    assert not np.allclose(other.priority, expected["priority"], rtol=1e-3)


def fill(replay: Replay, rows: int) -> None:
    for row in range(rows):
        observation, flags = np.full((2, 39), row + 1.0), np.zeros(2, bool)
        replay.add(observation, np.zeros((2, 4)), np.full(2, row + 1.0), flags, flags, observation + 0.5)


@pytest.mark.parametrize("mode", ["uniform", "uniform_shared", "prioritized", "prioritized_independent"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_never_written_are_never_sampled_from_a_nearly_empty_buffer(mode: str, rows: int) -> None:
    replay = Replay(build_config("paper", {"replay.mode": mode}).replay, tasks=2, seed=0, discount=0.99)
    with pytest.raises(ValueError, match="task"):
        replay.sample(8)  # an empty one refuses
    fill(replay, rows)
    batch = replay.sample(200)
    assert set(batch.reward.tolist()) == {float(row + 1) for row in range(rows)}
    torch.testing.assert_close(batch.next_observation[:, 0], batch.reward + 0.5)


def test_a_ring_that_is_full_says_so() -> None:
    replay = Replay(build_config("paper", {"replay.capacity": 5}).replay, tasks=2, seed=0, discount=0.99)
    sizes = []
    for _ in range(8):
        fill(replay, 1)
        sizes.append(replay.size.tolist())
    assert sizes == [[min(n, 5)] * 2 for n in range(1, 9)]


def test_a_checkpoint_is_written_in_mid_episode(tmp_path: Path) -> None:
    """Not only when every episode ends at once: these have 20 steps."""
    seen: list[Progress] = []

    def stop() -> bool:
        return seen[-1].vector_step == 33

    assert train(short_config(), tmp_path, stop=stop, report=seen.append) == "stopped"
    assert json.loads((tmp_path / "checkpoint/33/checksums.json").read_text())


def test_metrics_are_kept_without_any_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert train(short_config(), tmp_path) == "done"
    run = read_run(tmp_path / "run.h5")
    assert run.env_steps.tolist() == [80, 160, 180]
    assert np.isfinite(run.per_run).all()


def test_trains_without_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(short_config(run__device="auto", train__vector_steps=40), tmp_path) == "done"


def test_truncation_is_not_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the trainer: episodes are cut off after 20 steps, and no row that is learned from says it ended."""
    seen = []
    update = Agent.update

    def watch(self: Agent, batch: Any, counts: Any) -> Any:
        seen.append((batch.terminated.clone(), batch.next_observation.clone()))
        return update(self, batch, counts)

    monkeypatch.setattr(Agent, "update", watch)
    train(short_config(agent__batch_per_task=64), tmp_path)
    terminated, next_observation = map(torch.cat, zip(*seen, strict=True))
    assert len(terminated) == 60 * 128
    assert not terminated.any()
    assert next_observation.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_loss_has_the_temperature_from_before_the_update(backend: str) -> None:
    """With a temperature that e-folds in one step, the new one would show in the actor's loss and in the target."""
    agent = make_agent(backend, agent__temperature_lr=1.0, agent__initial_temperature=0.5)
    batch = make_batch(3, 8)
    expected = first_update(agent.state_dict(), batch, *noises(agent, 24), agent.config.agent)
    ours = agent.update(batch)
    for name in ("critic_loss", "actor_loss", "temperature_loss"):
        np.testing.assert_allclose(ours.metrics[name], expected["metrics"][name], rtol=1e-4, err_msg=name)
    moved = np.exp(expected["log_temperature"]) / 0.5
    assert ((moved < 0.5) | (moved > 2)).all()
    np.testing.assert_allclose(agent.temperature, np.exp(expected["log_temperature"]), rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_is_critic_polyak_actor_temperature(backend: str) -> None:
    """With critics that move far in one step, each wrong order gives other numbers."""
    agent = make_agent(backend, agent__critic_lr=0.05, agent__polyak=0.5)
    batch = make_batch(3, 8)
    before = agent.state_dict()
    expected = first_update(before, batch, *noises(agent, 24), agent.config.agent)
    loss = float(agent.update(batch).metrics["actor_loss"])
    after = agent.state_dict()
    # The target follows the critic from after its step.
    for name, old in before["target"].items():
        torch.testing.assert_close(
            after["target"][name], (old + after["critic"][name]) / 2, rtol=1e-5, atol=1e-6
        )
    # The actor's loss is measured with the new critic; with the old one it would be another.
    assert loss == pytest.approx(expected["metrics"]["actor_loss"], rel=1e-4)
    still = make_agent(backend, agent__critic_lr=1e-12)
    assert abs(float(still.update(batch).metrics["actor_loss"]) / loss - 1) > 0.05
    # The temperature's step needs the log-density of the actor from before its own step.
    np.testing.assert_allclose(after["log_temperature"], expected["log_temperature"], rtol=1e-4)
