"""The whole training loop at MT10 and MT50: act, step every env, store, sample, update.

Ours is the loop of mtrl/train.py without its evaluations: two env workers, the paper's shared-index replay, the fused
update. The peer does the same in plain torch: a ring of numpy arrays, one module per critic, Adam fused by torch. Its
envs are gymnasium's AsyncVectorEnv over stock Meta-World, one process per env, or EnvPool's where it is installed, one
pool and thread per task, all stepped at once. Two critics, 128 rows per task, one update per vector step. Time is the
wall clock's per vector step; all have the same cores: MTRL_BENCH_THREADS lists how many, one measurement for each.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import click
import gymnasium
import metaworld  # noqa: F401  registers the benchmarks
import numpy as np
import torch
from bench_envs import make_pool
from bench_update import Loop, Peer
from interleave import Case, run

from mtrl.agent import Agent
from mtrl.config import Config
from mtrl.envs import VectorEnv
from mtrl.overrides import build_config
from mtrl.replay import Replay
from mtrl.tasks import BENCHMARKS

BATCH, CAPACITY = 128, 2000  # rows and transitions per task
HORIZON = 500
SIZES = [("MT10", 16), ("MT10", 64), ("MT10", 256), ("MT50", 64)]
QUICK_SIZES = [("MT10", 16)]
THREADS = [int(n) for n in os.environ.get("MTRL_BENCH_THREADS", "1,2").split(",")]


class Pools:
    """EnvPool's envs of a benchmark, one pool of one env for each task, as a vector env.

    A pool resets its env in the step after an episode's end, whose action it ignores, so that step is stored too.
    """

    def __init__(self, benchmark: str) -> None:
        self._pools = [make_pool(task) for task in BENCHMARKS[benchmark]]

    def reset(self) -> tuple[Any, dict[str, Any]]:
        return np.concatenate([pool.reset()[0] for pool in self._pools]), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        for pool, own in zip(self._pools, action, strict=True):
            pool.send(own[None].astype(np.float64))
        results = [pool.recv()[:4] for pool in self._pools]
        return (*(np.concatenate(part) for part in zip(*results, strict=True)), {})


def make_async(benchmark: str) -> Any:
    return gymnasium.make_vec(
        f"Meta-World/{benchmark}", vector_strategy="async", seed=0, max_episode_steps=HORIZON
    )


def ours(config: Config, fill: int) -> Callable[[], None]:
    tasks = len(config.env.tasks)
    envs = VectorEnv(config.env, seed=0, workers=config.run.env_workers)
    agent, replay = Agent(config), Replay(config.replay, tasks=tasks, seed=0, discount=config.agent.discount)
    explorer = np.random.default_rng(0)
    observation, _ = envs.reset()

    def step(explore: bool = False) -> None:
        nonlocal observation
        action = explorer.uniform(-1, 1, (tasks, 4)) if explore else agent.act(observation)
        after, reward, terminated, truncated, info = envs.step(action)
        replay.add(observation, action, reward, terminated, truncated, info["final_obs"])
        observation = after
        if not explore:
            agent.update(replay.sample(BATCH))

    for _ in range(fill):
        step(explore=True)
    return step


def plain_torch(envs: Any, tasks: int, width: int, fill: int) -> Callable[[], None]:
    peer, explorer = Peer(Loop, 2, width, tasks), np.random.default_rng(0)
    columns = {"observation": 39, "action": 4, "reward": 1, "terminated": 1, "next_observation": 39}
    ring = {name: np.zeros((CAPACITY, tasks, size), np.float32) for name, size in columns.items()}
    eye = torch.eye(tasks)
    each = SimpleNamespace(task=torch.arange(tasks), one_hot=eye)
    task = torch.arange(tasks).repeat(BATCH)
    one_hot, weight = eye[task], torch.ones(BATCH * tasks)
    observation, _ = envs.reset()
    steps = 0

    def step(explore: bool = False) -> None:
        nonlocal observation, steps
        if explore:
            action = explorer.uniform(-1, 1, (tasks, 4)).astype(np.float32)
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
                name: torch.from_numpy(column[index].reshape(BATCH * tasks, -1))
                for name, column in ring.items()
            }
            flat = {name: drawn[name][:, 0] for name in ("reward", "terminated")}
            peer.update(SimpleNamespace(**drawn | flat, task=task, one_hot=one_hot, weight=weight))

    for _ in range(fill):
        step(explore=True)
    return step


def cases(quick: bool) -> Iterator[Case]:
    if found := importlib.util.find_spec("envpool"):
        click.echo("with EnvPool")
    fill, calls = (50, 5) if quick else (HORIZON, 20)
    for threads in THREADS:
        torch.set_num_threads(threads)
        for benchmark, width in QUICK_SIZES if quick else SIZES:
            overrides = {
                "env.tasks": benchmark,
                "replay.capacity": CAPACITY,
                "network.actor.width": width,
                "network.critic.width": width,
                "run.threads": threads,
                "run.env_workers": 2,
            }
            tasks, name = len(BENCHMARKS[benchmark]), f"{benchmark} width {width} vector step"
            mine = ours(build_config("paper", overrides), fill)
            peers = {"torch on AsyncVectorEnv": make_async} | ({"torch on EnvPool": Pools} if found else {})
            for peer, make in peers.items():
                envs = make(benchmark)
                yield Case(name, peer, mine, plain_torch(envs, tasks, width, fill), threads, calls=calls)
                if hasattr(envs, "close"):
                    envs.close()


if __name__ == "__main__":
    run(cases, runs=7)
