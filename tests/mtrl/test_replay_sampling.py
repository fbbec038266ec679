"""How the replay draws: frequencies, weights, randomness, returns of several steps."""

import contextlib
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.mtrl.reference_replay import ReferenceReplay, n_step_return
from tests.mtrl.replays import MODES, Feed, equal, fill, make

SEQUENCE = (1 << 48) - 1


def sequences(batch):
    return batch.id.numpy() & SEQUENCE


def with_weights(weights, mode="prioritized", **arguments):
    """A replay of one task whose i-th transition has weight weights[i]."""
    replay = fill(make(mode, capacity=len(weights), tasks=1, alpha=1.0, **arguments), len(weights))
    replay.update_priorities(np.arange(len(weights)), np.asarray(weights, float))
    return replay


def p_value(counts, weights):
    """Of the chi-square test that `counts` were drawn in proportion to `weights`; what has none must not appear."""
    counts, weights = np.asarray(counts), np.asarray(weights, float)
    assert not counts[weights == 0].any()
    drawn = weights > 0
    return chisquare(counts[drawn], weights[drawn] / weights.sum() * counts.sum()).pvalue


WEIGHTS = np.random.default_rng(0).exponential(size=300) * (np.arange(300) % 7 > 0)


def counts_of(replay, draws=400, per_task=100):
    drawn = np.concatenate([sequences(replay.sample(per_task)) for _ in range(draws)])
    return np.bincount(drawn, minlength=len(WEIGHTS))


@pytest.mark.parametrize("mode", ["prioritized", "prioritized_independent"])
def test_frequencies_follow_the_priorities(mode):
    assert p_value(counts_of(with_weights(WEIGHTS, mode)), WEIGHTS) > 1e-3


def test_frequencies_are_uniform_in_the_uniform_modes():
    for mode in ("uniform", "uniform_shared"):
        replay = fill(make(mode, capacity=300, tasks=1), 450)
        drawn = np.concatenate([sequences(replay.sample(100)) for _ in range(300)])
        assert p_value(np.bincount(drawn - 150, minlength=300), np.ones(300)) > 1e-3


def test_the_chi_square_test_notices_wrong_samplers():
    """Neighbours mixed up, as a tree of another fan would give them; half of the weights 20 % off; a wrong exponent."""
    right = counts_of(with_weights(WEIGHTS))
    kept = WEIGHTS > 0
    assert p_value(np.roll(right[kept], 1), WEIGHTS[kept]) < 1e-6
    rng = np.random.default_rng(1)
    skewed = WEIGHTS * np.where(np.arange(300) < 150, 1.2, 1.0)
    assert p_value(rng.multinomial(40_000, skewed / skewed.sum()), WEIGHTS) < 1e-6
    flatter = np.sqrt(WEIGHTS)
    assert p_value(rng.multinomial(40_000, flatter / flatter.sum()), WEIGHTS) < 1e-6


def test_strata_leave_no_gaps():
    """With n strata over equal weights, the j-th of n transitions drawn lies in the j-th part of them: each of the n
    parts of 16 is met once in every batch."""
    replay = with_weights(np.ones(256))
    for _ in range(20):
        groups = np.bincount(sequences(replay.sample(16)) // 16, minlength=16)
        assert (groups == 1).all()


def test_a_zero_priority_is_never_drawn_again_until_it_is_raised():
    replay = with_weights(np.ones(20))
    replay.update_priorities(np.arange(19), np.zeros(19))
    assert set(sequences(replay.sample(500))) == {19}
    replay.update_priorities(np.array([4]), np.array([1e-3]))
    assert 4 in sequences(replay.sample(50_000))


def test_one_bad_priority_changes_nothing():
    """cpprb takes NaN, inf and negative numbers and draws wrongly ever after."""
    replay, again = with_weights(WEIGHTS), with_weights(WEIGHTS)
    for bad in (np.nan, np.inf, -np.inf, -1e-9):
        with pytest.raises(ValueError, match=r"row 2: priority is"):
            replay.update_priorities(np.arange(3), np.array([5.0, 0.0, bad]))
    for _ in range(5):
        assert equal(replay.sample(50), again.sample(50))


def test_a_stale_id_gets_no_priority():
    """The row of an overwritten transition is another's now."""
    replay, feed = make("prioritized", capacity=4, tasks=1, alpha=1.0), Feed(1)
    fill(replay, 4, feed)
    fill(replay, 2, feed)
    before = replay.state_dict()["replay"]
    assert replay.update_priorities(np.array([0, 1]), np.array([100.0, 100.0])) == 2
    assert np.array_equal(replay.state_dict()["replay"], before)
    assert replay.update_priorities(np.array([1, 2, 2]), np.array([9.0, 3.0, 0.0])) == 1
    assert 2 not in sequences(replay.sample(1000))  # of two updates the last won


@pytest.mark.parametrize("capacity", [5, 17, 100, 257])
def test_capacities_that_are_no_power_of_two_keep_rows_and_priorities_together(capacity):
    replay = fill(make("prioritized", capacity=capacity, tasks=1, alpha=1.0), capacity + capacity // 2)
    newest = capacity + capacity // 2
    for chosen in (newest - capacity, newest - capacity // 2, newest - 1):
        ids = np.arange(newest - capacity, newest)
        replay.update_priorities(ids, (ids == chosen).astype(float))
        batch = replay.sample(20)
        assert (sequences(batch) == chosen).all()
        assert torch.equal(batch.observation, batch.observation[:1].expand_as(batch.observation))


def test_new_transitions_enter_at_the_highest_live_priority():
    replay, feed = make("prioritized", capacity=3, tasks=1, alpha=1.0), Feed(1)
    fill(replay, 3, feed)
    replay.update_priorities(np.arange(3), np.array([8.0, 2.0, 1.0]))
    fill(replay, 1, feed)  # the 8 leaves: 2, 1, and the new one at 2
    drawn = np.concatenate([sequences(replay.sample(100)) for _ in range(300)])
    assert p_value(np.bincount(drawn, minlength=4)[1:], [2, 1, 2]) > 1e-3


@pytest.mark.parametrize("normalization", ["batch", "task", "buffer", "none"])
def test_importance_weights_by_their_formula(normalization):
    replay = make("prioritized", capacity=50, tasks=3, beta=0.7, weights=normalization)
    twin, feed = ReferenceReplay(50, 3, 0.6), Feed(3)
    for _ in range(70):
        columns = feed.step()
        replay.add(*columns)
        twin.add(*columns)
    ids = replay.sample(30).id.numpy()
    priorities = np.random.default_rng(0).exponential(size=90) * np.repeat([1.0, 5.0, 0.1], 30)
    priorities[5] = 0
    replay.update_priorities(ids, priorities)
    twin.update_priorities(ids, priorities)
    batch = replay.sample(20)
    density = [[len(w) * x / sum(w) for x in w] for w in twin.weights]
    mine = np.array([density[id >> 48][twin.offset(id >> 48, id)] for id in batch.id.tolist()])
    least = {
        "batch": mine.min(),
        "task": np.repeat(mine.reshape(3, 20).min(1), 20),
        "buffer": min(x for row in density for x in row if x > 0),
        "none": 1.0,
    }[normalization]
    np.testing.assert_allclose(batch.weight.numpy(), (mine / least) ** -0.7, rtol=1e-6)  # float32 at the end


def test_scheduled_exponents():
    replay = with_weights([1.0, 4.0])
    replay.set_alpha(0.5)
    drawn = np.concatenate([sequences(replay.sample(100)) for _ in range(100)])
    assert p_value(np.bincount(drawn), [1, 2]) > 1e-3
    replay.set_beta(0.0)
    assert (replay.sample(10).weight == 1).all()
    replay.set_beta(1.0)
    batch = replay.sample(10)
    assert torch.allclose(batch.weight, torch.where(torch.from_numpy(sequences(batch)) == 0, 1.0, 0.5))
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="beta must be finite"):
            replay.set_beta(bad)
    with pytest.raises(ValueError, match="from or to 0"):
        replay.set_alpha(0.0)


def test_annealed_exponents_go_straight_to_their_ends(tmp_path):
    replay = with_weights([1.0, 4.0], beta=0.0, beta_end=1.0, alpha_end=0.5)
    replay.anneal(0.0)
    assert (replay.sample(10).weight == 1).all()
    replay.anneal(1.0)
    batch = replay.sample(10)  # weights 1 and 2 by now, beta 1
    assert torch.allclose(batch.weight, torch.where(torch.from_numpy(sequences(batch)) == 0, 1.0, 0.5))
    replay.anneal(0.505)  # alpha in hundredths of the way, beta as it is: 4 ** 0.75, to the power -0.505
    batch = replay.sample(10)
    weight = 4 ** (-0.75 * 0.505)
    assert torch.allclose(batch.weight, torch.where(torch.from_numpy(sequences(batch)) == 0, 1.0, weight))
    replay.save(tmp_path / "replay.bin")
    again = make("prioritized", capacity=2, tasks=1, alpha=1.0, beta=0.0, beta_end=1.0, alpha_end=0.5)
    again.load(tmp_path / "replay.bin")
    for one in (replay, again):
        one.anneal(0.6)
    assert equal(replay.sample(10), again.sample(10))
    with pytest.raises(ValueError, match="alpha_end needs alpha above 0"):
        make("prioritized", alpha=0.0, alpha_end=0.5)


def supported_sets():
    """Those that this processor has; the others raise."""
    supported = []
    for name in ("portable", "avx2", "avx512"):
        with contextlib.suppress(ValueError):
            make(instruction_set=name)
            supported.append(name)
    assert "portable" in supported
    return supported


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_gives_the_same_bits_on_every_instruction_set(mode):
    batches = []
    for name in supported_sets():
        replay = make(mode, capacity=1000, tasks=2, instruction_set=name)
        fill(replay, 1200)
        if mode.startswith("prioritized"):
            for _ in range(5):
                batch = replay.sample(100)
                replay.update_priorities(batch.id, batch.reward.abs())
        batches.append(replay.sample(200))
    assert all(equal(batches[0], batch) for batch in batches[1:])
    other = fill(make(mode, capacity=1000, tasks=2, seed=1), 1200)
    assert not torch.equal(other.sample(200).id, batches[0].id)


@pytest.mark.parametrize("mode", MODES)
def test_samples_from_several_threads_are_those_of_one(mode):
    one, many = (fill(make(mode, capacity=64), 80) for _ in range(2))
    alone = {tuple(one.sample(8).id.tolist()) for _ in range(40)}
    together = set()

    def sample():
        for _ in range(10):
            together.add(tuple(many.sample(8).id.tolist()))

    threads = [threading.Thread(target=sample) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(2, 20),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_returns_of_several_steps_equal_a_naive_walk(n, steps, capacity, terminated, truncated, broken):
    replay, twin, feed = (
        make(capacity=capacity, n_step=n, discount=0.9),
        ReferenceReplay(capacity, 2, 0.6),
        Feed(2),
    )
    for _ in range(steps):
        ends = (feed.rng.random(2) < terminated, feed.rng.random(2) < truncated)
        columns = feed.step(*ends, broken=broken and feed.rng.random() < 0.2)
        replay.add(*columns)
        twin.add(*columns)
    batch = replay.sample(20)
    for row, id in enumerate(batch.id.tolist()):
        transitions = list(twin.transitions[id >> 48])[twin.offset(id >> 48, id) :]
        reward, discount, last = n_step_return(transitions, n, 0.9)
        assert batch.reward[row].item() == pytest.approx(reward, rel=1e-5, abs=1e-6)  # float32 sums
        assert batch.discount[row].item() == pytest.approx(discount, rel=1e-6)
        assert batch.terminated[row] == last.terminated
        assert np.array_equal(batch.next_observation[row].numpy(), last.next_observation)
        assert np.array_equal(batch.observation[row].numpy(), transitions[0].observation)


def test_no_state_is_shared_between_replays():
    one, other = fill(make(seed=1), 5), fill(make(seed=1), 5)
    one.sample(3)
    assert equal(one.sample(3), [other.sample(3), other.sample(3)][1])
