"""Sample, update and new priorities of a vector step as one graph: the bits of the three calls, and few launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtrl.agent import Agent
from mtrl.config import ReplaySettings
from mtrl.cuda.replay import ReplayCuda
from mtrl.replay_place import build_replay
from tests.mtrl.cuda.graph_on_host import CudaOnHost, count_crossings, count_launches, forbid_waiting
from tests.mtrl.cuda.updates import PER_TASK, config

TASKS = 3
BY_AUTOGRAD = {
    "moore": {"network__actor__kind": "moore", "network__critic__kind": "moore"},
    "hl_gauss": {"value": "hl_gauss", "value_min": -1000.0, "value_max": 1000.0, "bins": 21},
}
LEARNERS = [pytest.param({}, id="one call"), *(pytest.param(s, id=name) for name, s in BY_AUTOGRAD.items())]
COUNTS = [PER_TASK] * TASKS


class Learner:
    """An agent on a GPU, its replay there, and a stream of random transitions."""

    def __init__(self, mode: Any, **settings: Any) -> None:
        self.agent = Agent(config(replay__mode=mode, **settings))
        sampling = ReplaySettings(capacity=40, mode=mode)
        replay = build_replay(sampling, device=self.agent.device, tasks=TASKS, seed=0, discount=0.99)
        assert isinstance(replay, ReplayCuda)
        self.replay, self.generator = replay, torch.Generator().manual_seed(1)
        for _ in range(5):
            self.add()

    def draw(self) -> tuple[torch.Tensor, ...]:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=self.generator)

        ends = normal(2, TASKS) > 1
        return normal(TASKS, 39), normal(TASKS, 4), normal(TASKS), ends[0], ends[1], normal(TASKS, 39)

    def add(self) -> None:
        self.replay.add(*self.draw())

    def by_calls(self) -> Any:
        batch = self.replay.sample(COUNTS)
        update = self.agent.update(batch, COUNTS)
        if self.replay.prioritized:
            self.replay.update_priorities(batch.id, update.priority)
        return batch, update

    def by_graph(self) -> Any:
        return self.agent.learn(self.replay, COUNTS)


@pytest.mark.parametrize("settings", LEARNERS)
@pytest.mark.parametrize("mode", ["prioritized", "uniform"])
def test_one_graph_gives_the_bits_of_the_calls(host: CudaOnHost, mode: str, settings: dict[str, Any]) -> None:
    one, other = Learner(mode, **settings), Learner(mode, cuda_graph="off", **settings)
    assert one.agent.learns_in_one_graph(one.replay)
    assert not other.agent.learns_in_one_graph(other.replay)
    for step in range(6):
        one.add()
        other.add()
        if step == 4:
            one.agent.reset(4)
            other.agent.reset(4)
        (batch, got), (wanted, expected) = one.by_graph(), other.by_calls()
        for column, value in zip(batch, wanted, strict=True):
            assert torch.equal(column, value)
        assert got.metrics == expected.metrics
        assert torch.equal(got.priority, expected.priority)
        assert torch.equal(one.agent.critic_adam.value, other.agent.critic_adam.value)
        assert torch.equal(one.agent.actor_adam.value, other.agent.actor_adam.value)
    assert len(host.graphs) == 1
    one.replay.check_valid()


@pytest.mark.parametrize("settings", LEARNERS)
def test_a_vector_step_is_six_launches_and_copies_outside_its_graphs(
    host: CudaOnHost, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies between host and GPU are no operations here, and are counted by themselves."""
    learner = Learner("prioritized", **settings)
    observation = torch.zeros((TASKS, 39)).numpy()
    for _ in range(3):
        learner.agent.act(observation)
        learner.by_graph()
    assert len(host.graphs) == 2, "acting, and what is learned"
    assert count_launches(host, lambda: learner.agent.act(observation)) == 1, "its inputs are copied at once"
    assert count_launches(host, learner.by_graph) == 1, "the noise is copied"

    def vector_step() -> None:
        nonlocal update
        learner.agent.act(observation)
        assert update.metrics
        learner.add()
        _, update = learner.by_graph()

    _, update = learner.by_graph()
    transition = learner.draw()
    monkeypatch.setattr(learner, "draw", lambda: transition)
    crossings = count_crossings(monkeypatch)
    assert count_launches(host, vector_step) == 3, "the two above, and the kernel that adds the transition"
    assert crossings == {"to the GPU": 2, "back": 1}, "observation and transition; actions with metrics"


@pytest.mark.parametrize("settings", LEARNERS)
def test_metrics_come_with_the_next_actions(host: CudaOnHost, settings: dict[str, Any]) -> None:
    learner, twin = (Learner("prioritized", cuda_graph=graph, **settings) for graph in ("auto", "off"))
    observation = torch.zeros((TASKS, 39)).numpy()
    for _ in range(6):
        learner.add()
        twin.add()
        _, update = learner.by_graph()
        expected = twin.by_calls()[1].metrics
        assert (learner.agent.act(observation) == twin.agent.act(observation)).all()
        with pytest.MonkeyPatch.context() as patch:
            forbid_waiting(patch)
            assert update.metrics == expected


def test_an_update_is_a_known_number_of_launches(host: CudaOnHost) -> None:
    counts = {}
    for name, more in {
        "with cuBLASLt": {},
        "without": {"run__cublaslt": "off"},
        "routed": {"critics": 3},
        "bfloat16": {"products": "bfloat16"},
    }.items():
        learner = Learner("prioritized", cuda_graph="off", **more)
        batch = learner.replay.sample(COUNTS)
        learner.agent.update(batch)  # the first one checks cuBLASLt's products
        counts[name] = count_launches(host, lambda: learner.agent.update(batch))  # noqa: B023
    assert counts == {"with cuBLASLt": 93, "without": 107, "routed": 91, "bfloat16": 173}
