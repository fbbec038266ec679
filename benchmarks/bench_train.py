"""The whole training loop at MT10: act, step every env, store, sample, update.

Ours is the loop of mtrl/train.py without its evaluations: two env workers, the paper's shared-index replay, the fused
update. The peer does the same in plain torch: gymnasium's AsyncVectorEnv over stock Meta-World, one process per env; a
ring of numpy arrays; one module per critic and Adam fused by torch. Two critics, batch 1,280, one update per vector
step. Time is the wall clock's per vector step; both have the same cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import gymnasium
import metaworld  # noqa: F401  registers the benchmarks
import numpy as np
import torch
from bench_update import Loop, Peer
from interleave import Case, run

from mtrl.agent import Agent
from mtrl.config import Config
from mtrl.envs import VectorEnv
from mtrl.overrides import build_config
from mtrl.replay import Replay

TASKS, BATCH, CAPACITY, FILL = 10, 128, 2000, 500  # rows and transitions per task
THREADS = [int(n) for n in os.environ.get("MTRL_BENCH_THREADS", "1,2").split(",")]


def ours(config: Config) -> Callable[[], None]:
    envs = VectorEnv(config.env, seed=0, workers=config.run.env_workers)
    agent, replay = Agent(config), Replay(config.replay, tasks=TASKS, seed=0, discount=config.agent.discount)
    explorer = np.random.default_rng(0)
    observation, _ = envs.reset()

    def step(explore: bool = False) -> None:
        nonlocal observation
        action = explorer.uniform(-1, 1, (TASKS, 4)) if explore else agent.act(observation)
        after, reward, terminated, truncated, info = envs.step(action)
        replay.add(observation, action, reward, terminated, truncated, info["final_obs"])
        observation = after
        if not explore:
            agent.update(replay.sample(BATCH))

    for _ in range(FILL):
        step(explore=True)
    return step


def plain_torch(width: int) -> Callable[[], None]:
    envs = gymnasium.make_vec("Meta-World/MT10", vector_strategy="async", seed=0, max_episode_steps=500)
    peer, explorer = Peer(Loop, 2, width, TASKS), np.random.default_rng(0)
    columns = {"observation": 39, "action": 4, "reward": 1, "terminated": 1, "next_observation": 39}
    ring = {name: np.zeros((CAPACITY, TASKS, size), np.float32) for name, size in columns.items()}
    eye = torch.eye(TASKS)
    each = SimpleNamespace(task=torch.arange(TASKS), one_hot=eye)
    task = torch.arange(TASKS).repeat(BATCH)
    one_hot, weight = eye[task], torch.ones(BATCH * TASKS)
    observation, _ = envs.reset()
    steps = 0

    def step(explore: bool = False) -> None:
        nonlocal observation, steps
        if explore:
            action = explorer.uniform(-1, 1, (TASKS, 4)).astype(np.float32)
        else:
            with torch.no_grad():
                seen = torch.as_tensor(observation[:, :39], dtype=torch.float32)
                action = peer.act(seen, each)[0].numpy()
        after, reward, terminated, _, info = envs.step(action)
        last = np.stack(info["final_obs"]) if "final_obs" in info else after
        row = (observation[:, :39], action, reward[:, None], terminated[:, None], last[:, :39])
        for column, values in zip(ring.values(), row, strict=True):
            column[steps % CAPACITY] = values
        steps += 1
        observation = after
        if not explore:
            index = explorer.integers(min(steps, CAPACITY), size=BATCH)
            drawn = {
                name: torch.from_numpy(column[index].reshape(BATCH * TASKS, -1))
                for name, column in ring.items()
            }
            flat = {name: drawn[name][:, 0] for name in ("reward", "terminated")}
            peer.update(SimpleNamespace(**drawn | flat, task=task, one_hot=one_hot, weight=weight))

    for _ in range(FILL):
        step(explore=True)
    return step


def cases(quick: bool) -> Iterator[Case]:
    for threads in THREADS:
        torch.set_num_threads(threads)
        for width in (256,) if quick else (64, 256):
            overrides = {
                "env.tasks": "MT10",
                "replay.capacity": CAPACITY,
                "network.actor.width": width,
                "network.critic.width": width,
                "run.threads": threads,
                "run.env_workers": 2,
            }
            name = f"MT10 width {width} vector step"
            mine, theirs = ours(build_config("paper", overrides)), plain_torch(width)
            yield Case(name, "torch on AsyncVectorEnv", mine, theirs, threads, calls=5 if quick else 20)


if __name__ == "__main__":
    run(cases, runs=7)
