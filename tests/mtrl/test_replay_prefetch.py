"""A prefetched batch is a function of the order of calls: with a thread, without one, across save and load."""

import numpy as np
import pytest
import torch

from mtrl.config import ConfigError
from mtrl.overrides import build_config
from tests.mtrl.replays import MODES, Feed, equal, fill, make


class Twin:
    """The same by hand: a replay without lag, asked for the next batch when one is given."""

    def __init__(self, **settings):
        self.replay, self.next = make(**settings), None

    def sample(self, counts):
        given = self.next or self.replay.sample(counts)
        self.next = self.replay.sample(counts)
        return given


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prefetch", [True, False])
def test_batches_are_those_of_a_twin_without_a_thread(mode, prefetch, tmp_path):
    """Any order of calls; the replay is saved and another, with a thread or without, goes on in the middle."""
    settings, rng = (
        {"mode": mode, "capacity": 40, "beta_end": 1.0, "alpha_end": 0.9},
        np.random.default_rng(1),
    )
    replay, twin, feed = make(lag=1, prefetch=prefetch, **settings), Twin(**settings), Feed(2)
    counts = [5, 5] if mode == "uniform_shared" else [5, 2]
    for time in range(120):
        columns = feed.step(truncated=rng.random(2) < 0.2)
        replay.add(*columns)
        twin.replay.add(*columns)
        for one in (replay, twin.replay):
            one.anneal(time / 120)
        for _ in range(rng.integers(3)):
            batch, expected = replay.sample(counts), twin.sample(counts)
            assert equal(batch, expected)
            if mode.startswith("prioritized"):
                priority = rng.random(len(batch.id))
                stale = twin.replay.update_priorities(batch.id, priority)
                assert replay.update_priorities(batch.id, priority) == stale
        if rng.random() < 0.2:
            again = make(lag=1, prefetch=bool(rng.integers(2)), seed=99, **settings)
            if rng.random() < 0.5:
                again.load_state_dict(replay.state_dict())
            else:
                replay.save(tmp_path / "replay.bin")
                again.load(tmp_path / "replay.bin")
            assert np.array_equal(again.state_dict()["replay"], replay.state_dict()["replay"])
            again.anneal(time / 120)
            replay = again
    replay.check_valid()


def test_a_prefetched_batch_has_the_counts_of_the_last():
    replay = fill(make(lag=1), 5)
    replay.sample(3)
    before = replay.state_dict()["replay"]
    with pytest.raises(
        ValueError, match=r"per_task = \[4, 4\]: with replay.lag = 1 .* with \[3, 3\]; use lag 0"
    ):
        replay.sample(4)
    assert np.array_equal(replay.state_dict()["replay"], before)
    replay.sample(3)
    with pytest.raises(ConfigError, match=r"lag = 1 needs the same counts"):
        build_config("paper", {"replay.lag": 1, "replay.balanced": False, "replay.mode": "uniform"})


@pytest.mark.parametrize("prefetch", [True, False])
def test_what_cannot_be_prefetched_is_told_by_the_call_that_needs_it(prefetch):
    replay, feed = make("prioritized", lag=1, prefetch=prefetch, capacity=4), Feed(2)
    with pytest.raises(ValueError, match="task 0 has no transitions"):
        replay.sample(2)
    fill(replay, 4, feed)
    replay.sample(2)
    ids = np.array([task << 48 | time for task in range(2) for time in range(4)])
    replay.update_priorities(ids, np.zeros(8))
    replay.sample(2)  # was drawn before that; the next one cannot be
    for _ in range(2):
        with pytest.raises(ValueError, match="all priorities of task 0 are zero"):
            replay.sample(2)
    replay.update_priorities(ids, np.ones(8))
    assert len(replay.sample(2).id) == 4


def test_a_batch_that_is_held_is_not_overwritten_by_a_prefetched_one():
    replay = fill(make(lag=1), 8)
    held = [replay.sample(16) for _ in range(20)]
    copies = [[column.clone() for column in batch] for batch in held]
    for _ in range(20):
        replay.sample(16)
    assert all(equal(batch, copy) for batch, copy in zip(held, copies, strict=True))
    addresses = {replay.sample(16).observation.data_ptr() for _ in range(10)}
    assert len(addresses) == 2  # those that are dropped are used again in turns


def test_a_replay_may_go_while_its_batch_is_being_drawn():
    for _ in range(100):
        replay = fill(make("prioritized", lag=1), 3)
        batch = replay.sample(4000)
        del replay
        assert torch.isfinite(batch.observation).all()
