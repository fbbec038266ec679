"""One run, from the first random action to the finished run file: SAC on all tasks at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from mtrl.agent import Update
from mtrl.checkpoint import save_tensors
from mtrl.config import Config
from mtrl.cpus import allowed_threads
from mtrl.monitor.divergence import DivergedError
from mtrl.replay import Batch, Replay, pooled_counts
from mtrl.run import Run
from mtrl.run_folder import ended

if TYPE_CHECKING:
    from mtrl.cuda.replay import ReplayCuda


class Progress(NamedTuple):
    """The progress of a run."""

    vector_step: int
    vector_steps: int
    env_steps: int
    success: float  # of the latest evaluation, mean over tasks; NaN before the first


Stop = Callable[[], bool]
Report = Callable[[Progress], None]


def train(
    config: Config, directory: Path, *, stop: Stop = lambda: False, report: Report = lambda progress: None
) -> str:
    """Trains the run of `config` in `directory` and returns "done", "stopped" or "diverged".

    Writes run.h5 there and, when done, the agent's weights as agent.pt. Continues from the newest checkpoint, if there
    is one, bit for bit on a CPU; a run that has ended does not change. `report` and `stop` are called after every
    vector step; once `stop` returns True, a checkpoint is written and `train` returns. Raises ConfigError if this
    machine cannot run the configuration, CheckpointError or RunFileError if `directory` holds the run of another one,
    OSError if it cannot be written.
    """
    torch.set_num_threads(allowed_threads(config.run.threads))
    directory.mkdir(parents=True, exist_ok=True)
    if over := ended(directory, config):
        return over
    with closing(Run(config, directory)) as run:
        try:
            finished = _train_on(run, run.config, stop, report)
        except DivergedError:
            return "diverged"
    if not finished:
        return "stopped"
    save_tensors(directory / "agent.pt", run.agent.state_dict())
    return "diverged" if run.guard.divergence else "done"


def _train_on(run: Run, config: Config, stop: Stop, report: Report) -> bool:
    """Trains to the last vector step; False if `stop` came first. Raises DivergedError if the run must end."""
    envs, agent, replay, log, guard = run.envs, run.agent, run.replay, run.log, run.guard
    steps, tasks = config.train.vector_steps, len(config.env.tasks)
    evaluate_at = frozenset(config.evaluate.steps(steps))
    save_now = Every(config.run.checkpoint_seconds)
    batch = update = None
    overlap = config.train.overlap

    while run.step < steps:
        exploring = run.step < config.train.random_steps
        with log.clock("env_seconds"):
            action = run.random_action() if exploring else agent.act(run.observation)
            run.settle()
            if not math.isfinite(total := action.sum()):
                guard.check(run.step, {"action": float(total)})
            envs.step_async(action)
        if overlap and not exploring:
            batch, update = _update(run, config)
        with log.clock("env_seconds"):
            next_observation, reward, terminated, truncated, info = envs.step_wait()
            replay.add(run.observation, action, reward, terminated, truncated, info["final_obs"])
            agent.observe(reward, terminated, truncated)
            log.fixed_batch.offer(run.step, run.observation, action, reward, terminated, info["final_obs"])
        log.count_episodes(info)
        run.observation = next_observation
        if not exploring and config.agent.resets_at(run.step + 1):
            agent.reset(run.step + 1)
        if not overlap and not exploring:
            batch, update = _update(run, config)

        run.step += 1
        if run.step in evaluate_at:
            run.settle()
            guard.check(run.step, log.evaluate(run.step, agent, batch, update))
        report(Progress(run.step, steps, run.step * tasks, log.success))
        stopping = run.step < steps and stop()
        if stopping or (run.step < steps and save_now()):
            run.save()
        if stopping:
            return False
    return True


def _update(run: Run, config: Config) -> tuple[Batch, Update]:
    """Makes the updates of the current vector step. Returns the last batch and its update."""
    agent, replay, step = run.agent, run.replay, run.step + 1
    with run.log.clock("update_seconds"):
        replay.anneal(step / config.train.vector_steps)
        for i in range(config.train.updates_per_step):
            counts = _rows_of_tasks(config, replay, (step, i))
            if agent.learns_in_one_graph(replay):
                run.settle()
                batch, update = agent.learn(replay, counts)
                run.unread = step, update
                continue
            batch = replay.sample(counts)
            update = agent.update(batch, counts)
            run.guard.check(step, update.metrics)
            if config.replay.prioritized:
                replay.update_priorities(batch.id, run.priority(batch, update))
    return batch, update


def _rows_of_tasks(config: Config, replay: Replay | ReplayCuda, update: tuple[int, int]) -> Sequence[int]:
    """How many transitions of each task an update (vector step, number) samples.

    They depend only on the configuration, the step and, if not balanced, on the numbers of transitions of each task.
    """
    rows = config.batch_rows
    if config.replay.balanced:
        return rows
    generator = np.random.default_rng([config.train.seed, 1, *update])
    return pooled_counts(replay.size, sum(rows), generator)


class Every:
    """A call returns True if `seconds` have passed since it last did, or since the start."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def __call__(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._seconds
        return True
