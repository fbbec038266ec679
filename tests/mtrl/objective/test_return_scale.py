"""The scale of returns against sums written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtrl.objective.return_scale import ReturnScale
from tests.mtrl.objective.reference_options import largest_return


@given(st.integers(1, 3), st.integers(1, 30), st.integers(0, 10_000))
def test_largest_return_equals_the_sums(tasks, steps, seed):
    generator = np.random.default_rng(seed)
    reward = generator.normal(size=(steps, tasks))
    terminated, truncated = generator.random((2, steps, tasks)) < 0.15
    scale = ReturnScale(tasks, 0.9)
    for row in zip(reward, terminated, truncated, strict=True):
        scale.observe(*row)
    for task in range(tasks):
        largest, start = 0.0, 0
        for step in np.flatnonzero(terminated[:, task] | truncated[:, task]):
            episode = reward[start : step + 1, task]
            largest = max(largest, largest_return(episode, terminated[step, task], 0.9))
            start = step + 1
        assert scale.largest[task] == pytest.approx(largest)


def test_scaled_returns_and_entropy_fit_the_limit():
    scale = ReturnScale(3, 0.99)
    flags = np.array([False, False, False])
    for step in range(100):
        scale.observe(np.array([10.0, 0.0, 1.0]), flags, np.array([step == 99, step == 99, False]))
    # Returns of 10 / (1 - 0.99) and half of 0.1 * 4 / (1 - 0.99) over 10; no reward or no episode yet: 1.
    ours = scale.scale(torch.full((3,), 0.1), -4.0, 10.0)
    np.testing.assert_allclose(ours, [(1000 + 20) / 10, 1, 1])


def test_continues_in_mid_episode():
    straight, resumed = ReturnScale(1, 0.9), ReturnScale(1, 0.9)
    straight.observe(np.ones(1), np.array([False]), np.array([False]))
    resumed.load_state_dict(straight.state_dict())
    for scale in (straight, resumed):
        scale.observe(np.full(1, 2.0), np.array([True]), np.array([False]))
    assert straight.state_dict() == resumed.state_dict() == {"largest": [1 + 0.9 * 2], "rewards": [[]]}
