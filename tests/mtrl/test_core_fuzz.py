"""Random and hostile calls of every function and class of the core: each is right, or an error that names something.

The core must not crash, hang or raise anything else. MTRL_FUZZ_SECONDS runs the long test; MTRL_SEED is its first seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrl import _core
from tests.mtrl import core_critic_calls as critic
from tests.mtrl.core_hostile import calls
from tests.mtrl.core_objects import in_child
from tests.mtrl.core_replay_calls import batches, replay

SECONDS = float(os.environ.get("MTRL_FUZZ_SECONDS", "0"))
PARTS = (critic.layer, critic.head, critic.target, critic.adam, critic.kernels, critic.update, batches)


def one_round(seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    part = chance.randrange(len(PARTS) + 3)
    with contextlib.chdir(folder):  # a hostile path may be the name of a file
        if part < len(PARTS):
            PARTS[part](chance)
        else:
            replay(chance, folder)


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(seed=st.integers(0, 1 << 40))
def test_hostile_calls(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = _core.matmul_kernel()
    try:
        one_round(seed, tmp_path_factory.mktemp("fuzz"))
    finally:
        _core.choose_matmul_kernel(before)


@pytest.mark.skipif(not SECONDS, reason="MTRL_FUZZ_SECONDS is not set")
@pytest.mark.timeout(0)
def test_hostile_calls_for_long(tmp_path: Path) -> None:
    end, seed = time.monotonic() + SECONDS, int(os.environ.get("MTRL_SEED", "0"))
    while time.monotonic() < end:
        (tmp_path / "seed").write_text(str(seed))  # what a crash leaves
        one_round(seed, tmp_path)
        if seed % 500 == 0:
            in_child(partial(one_round, seed, tmp_path))
            print(seed, sum(calls.values()) - calls["refused"], dict(calls), flush=True)
        seed += 1
