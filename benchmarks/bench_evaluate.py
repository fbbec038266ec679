"""An evaluation of MT10 by a policy that solves seven of ten tasks, against evaluations as they were before.

The peer steps every env to the horizon until each has played its episodes, and draws its goals. Meta-World's scripted
policies play seven tasks; the other three get actions of zero. Each vector step also asks an agent of the paper's width
for its actions, which is part of the work; the scripts' own time is not counted. CPU time of one process: the first
evaluation, which meets every goal for the first time, and the median of later ones.

The last case is the wall time on two env workers, with five envs per task against one.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from interleave import Row, run
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from mtrl.agent import Agent
from mtrl.config import Config
from mtrl.envs import VectorEnv
from mtrl.monitor.evaluate import Evaluator
from mtrl.overrides import build_config
from mtrl.tasks import ACTION_SIZE

UNSOLVED = ("push-v3", "pick-place-v3", "peg-insert-side-v3")  # the hardest for learned policies, too


@dataclass
class Scripted:
    """The policy, and the CPU seconds that it took beside the agent's."""

    agent: Agent
    tasks: tuple[str, ...]
    seconds: float = 0.0
    scripts: dict[str, Any] = field(default_factory=dict)

    def __call__(self, observation: NDArray[np.float64], tasks: NDArray[np.int64]) -> NDArray[np.float64]:
        self.agent.act(observation, tasks, deterministic=True)
        start = time.process_time()
        action = np.zeros((len(tasks), ACTION_SIZE))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the scripts say that their actions will be clipped
            for row, task in enumerate(self.tasks[index] for index in tasks):
                if task not in UNSOLVED:
                    script = self.scripts.setdefault(task, ENV_POLICY_MAP[task]())
                    action[row] = np.clip(script.get_action(observation[row]), -1, 1)
        self.seconds += time.process_time() - start
        return action


def earlier(config: Config) -> Callable[[Scripted, int], NDArray[np.float64]]:
    """An evaluation as it was: whole episodes, drawn goals, all envs to the end."""
    envs = VectorEnv(config.env, seed=config.train.seed, workers=0)
    rows = np.arange(envs.num_envs)

    def evaluate(policy: Scripted, _: int) -> NDArray[np.float64]:
        episodes, success = np.zeros(envs.num_envs, np.int64), np.zeros(envs.num_envs)
        observation, _ = envs.reset(seed=config.train.seed)
        while (episodes < config.evaluate.episodes).any():
            observation, _, _, _, info = envs.step(policy(observation, rows))
            counted = info["_episode"] & (episodes < config.evaluate.episodes)
            success[counted] += info["episode"]["success"][counted]
            episodes += counted
        return success / config.evaluate.episodes

    return evaluate


def today(config: Config) -> Callable[[Scripted, int], NDArray[np.float64]]:
    evaluator = Evaluator(config)
    return lambda policy, number: evaluator.evaluate(policy, number)["success"]


def cases(quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    for episodes in (5,) if quick else (20,):
        config = build_config("paper", {"evaluate.episodes": episodes, "run.env_workers": 0})
        policy = Scripted(Agent(config), config.env.tasks)
        ways = {"ours": today(config), "peer": earlier(config)}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(2 if quick else 3):
            for name, evaluate in ways.items():
                start, policy.seconds = time.process_time(), 0.0
                success = evaluate(policy, number)
                times[name].append((time.process_time() - start - policy.seconds) * 1e6)
                assert (success > 0.5).sum() == 7, dict(zip(config.env.tasks, success, strict=True))
        for what, part in (("first", slice(0, 1)), ("later", slice(1, None))):
            ours, peer = (np.array(times[name][part]) for name in ("ours", "peer"))
            yield row(f"MT10, {episodes} episodes, {what}", "whole episodes, all envs", ours, peer, 1)
        yield on_workers(episodes, 3 if quick else 6)


def on_workers(episodes: int, repeats: int) -> Row:
    """Seconds on the wall, less those of the scripts, which run in this process. The first are for warming up."""
    took: dict[int, list[float]] = {5: [], 1: []}
    for envs in took:
        changes = {"evaluate.episodes": episodes, "run.env_workers": 2, "evaluate.envs_per_task": envs}
        config = build_config("paper", changes)
        policy, evaluate = Scripted(Agent(config), config.env.tasks), today(config)
        for _ in range(repeats):
            start, policy.seconds = time.perf_counter(), 0.0
            evaluate(policy, 0)
            took[envs].append((time.perf_counter() - start - policy.seconds) * 1e6)
    five, one = (np.array(seconds[1:]) for seconds in took.values())
    return row(f"MT10, {episodes} episodes, 2 workers, wall", "1 env per task", five, one, 2)


def row(case: str, peer_name: str, ours: NDArray[np.float64], peer: NDArray[np.float64], threads: int) -> Row:
    spread = max(float(np.ptp(each) / np.median(each)) for each in (ours, peer))
    mine, other = float(np.median(ours)), float(np.median(peer))
    return Row(case, peer_name, mine, other, other / mine, threads, len(ours), spread)


if __name__ == "__main__":
    run(cases)
