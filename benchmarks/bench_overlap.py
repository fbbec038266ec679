"""A vector step with `train.overlap` against the larger of its two parts, at MT10 with one env worker and one thread.

The parts are the env step, and what the learner does in a vector step: act, sample, update, store. They are timed as
they are without `train.overlap`, one after the other: alone and in a row, each would find its memory in the cache.
Blocks of vector steps of both ways take turns; each time is the least of the blocks, because other work on the machine
only adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from interleave import Row, run

from mtrl.agent import Agent
from mtrl.envs import VectorEnv
from mtrl.overrides import build_config
from mtrl.replay import Replay

TASKS, BATCH, FILL, CALLS = 10, 128, 500, 3
Step = Callable[[], None]


def vector_steps(width: int) -> tuple[Step, dict[str, Step]]:
    """A vector step of both at once, and its two parts."""
    overrides = {"network.actor.width": width, "network.critic.width": width, "replay.capacity": 2000}
    config = build_config("paper", overrides)
    envs = VectorEnv(config.env, seed=0, workers=1)
    agent = Agent(config)
    replay = Replay(config.replay, tasks=TASKS, seed=0, discount=config.agent.discount)
    observation, _ = envs.reset()
    action = np.zeros((TASKS, 4), np.float32)
    stepped = envs.step(action)

    def store() -> None:
        nonlocal observation
        after, reward, terminated, truncated, info = stepped
        replay.add(observation, action, reward, terminated, truncated, info["final_obs"])
        observation = after

    def step_envs() -> None:
        nonlocal stepped
        stepped = envs.step(action)

    def learn() -> None:
        nonlocal action
        action = agent.act(observation)
        agent.update(replay.sample(BATCH))
        store()

    def both() -> None:
        nonlocal action, stepped
        action = agent.act(observation)
        envs.step_async(action)
        agent.update(replay.sample(BATCH))
        stepped = envs.step_wait()
        store()

    for _ in range(FILL):
        store()
    return both, {"envs": step_envs, "learner": learn}


def cases(quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    for width in (16,) if quick else (16, 64, 256):
        both, parts = vector_steps(width)
        turns = [block({"both": both}) | block(parts) for _ in range(10 if quick else 150)]
        times = {name: [turn[name] for turn in turns[1:]] for name in turns[0]}  # the first is for warming up
        least = {name: min(taken) for name, taken in times.items()}
        part = max(parts, key=least.__getitem__)
        spread = float(np.median(times["both"])) / least["both"] - 1
        case = f"MT10 width {width}, both at once"
        yield Row(case, f"{part} in turn", least["both"], least[part], least[part] / least["both"], 1,
                  len(times["both"]), spread)  # fmt: skip


def block(steps: dict[str, Step]) -> dict[str, float]:
    """Microseconds of each step, which take turns."""
    taken = dict.fromkeys(steps, 0.0)
    for _ in range(CALLS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            taken[name] += (time.perf_counter() - start) / CALLS * 1e6
    return taken


if __name__ == "__main__":
    run(cases)
