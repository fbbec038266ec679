"""What a vector step of a small run costs around its kernels and its env: one task, width 16.

The training loop of mtrl/train.py itself, without evaluations. The env's step, the kernels of acting and of the update,
and the replay's `sample` and `add` are timed inside it, call by call; "ours" is the rest of the vector step, resets
included, and "peer" is what was timed. What the clock itself takes is subtracted. CPU time of the one thread, the least
of the blocks: other work only adds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from interleave import Row, relative_spread, run

from mtrl import ops
from mtrl.overrides import build_config
from mtrl.run import Run
from mtrl.train import Progress, _train_on

STEPS = 200  # vector steps of a block


class Clock:
    """CPU seconds of this thread in what `time` wraps."""

    seconds = 0.0
    calls = 0

    def time(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.thread_time()
            result = work(*arguments)
            self.seconds += time.thread_time() - start
            self.calls += 1
            return result

        return timed


def clock_cost(calls: int = 20_000) -> float:
    """CPU seconds by which a call is longer on a clock than the clock counts, the least of several measurements."""
    costs = []
    for _ in range(5):
        clock = Clock()
        nothing = clock.time(lambda: None)
        start = time.thread_time()
        for _ in range(calls):
            nothing()
        costs.append((time.thread_time() - start - clock.seconds) / calls)
    return min(costs)


class Timed:
    """An object whose methods `names`, and calls of itself, count on a clock."""

    def __init__(self, inner: Any, clock: Clock, *names: str) -> None:
        self._inner, self._call = inner, clock.time(inner) if callable(inner) else None
        vars(self).update({name: clock.time(getattr(inner, name)) for name in names})

    def __call__(self, *arguments: Any) -> Any:
        assert self._call is not None
        return self._call(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Block(NamedTuple):
    """Microseconds of a vector step."""

    around: float
    parts: float


def blocks(count: int) -> list[Block]:
    warm_up = 2 * STEPS  # without updates at first
    overrides = {
        "env.tasks": ("reach-v3",),
        "env.goals_per_task": 3,  # their starts are soon known
        "network.actor.width": 16,
        "network.critic.width": 16,
        "train.vector_steps": 4 * warm_up + STEPS * count,
        "train.random_steps": warm_up,
        "evaluate.every": 10**6,
        "evaluate.episodes": 1,
        "run.threads": 1,
        "run.checkpoint_seconds": 1e6,
    }
    clock, begun, cost = Clock(), (0.0, 0.0, 0), clock_cost()
    found: list[Block] = []

    def report(progress: Progress) -> None:
        nonlocal begun
        if progress.vector_step % STEPS or progress.vector_step < 4 * warm_up:
            return
        whole, parts, calls = (now - then for now, then in zip(times(), begun, strict=True))
        found.append(Block((whole - parts - calls * cost) / STEPS * 1e6, parts / STEPS * 1e6))
        begun = times()

    def times() -> tuple[float, float, int]:
        return time.thread_time(), clock.seconds, clock.calls

    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Run(build_config("paper", overrides), Path(folder))) as run,
    ):
        env, fused = run.envs._group._envs[0], run.agent.fused
        assert isinstance(fused, ops.SacUpdate)
        vars(env)["step"] = clock.time(env.step)
        vars(fused)["_update"] = Timed(fused._update, clock, "act")
        vars(run.replay)["_core"] = Timed(run.replay._core, clock, "sample", "add")
        _train_on(run, run.config, lambda: False, report)
    return found[1:-1]  # the first has the start in it, the last the evaluation


def cases(quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    around, parts = zip(*blocks(5 if quick else 40), strict=True)
    mine, other = min(around), min(parts)
    case, spread = "1 task, width 16, around its parts", relative_spread(list(around))
    yield Row(case, "env step, kernels, replay", mine, other, other / mine, 1, len(around), spread)


if __name__ == "__main__":
    run(cases)
