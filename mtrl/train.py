"""One run, from the first random action to the finished run file: SAC on all tasks at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl.agent import Agent, Update
from mtrl.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from mtrl.config import Config, ConfigError
from mtrl.cpus import allowed_threads, usable_cpus
from mtrl.devices import resolve_device
from mtrl.envs import VectorEnv
from mtrl.envs.reward_scale import PerTaskRewardScale
from mtrl.replay import pooled_counts
from mtrl.replay_place import build_replay
from mtrl.results import ended
from mtrl.runlog import RunLog
from mtrl.tasks import ACTION_SIZE


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    vector_step: int
    vector_steps: int
    env_steps: int
    success: float  # of the latest evaluation, mean over tasks; NaN before the first


def train(
    config: Config,
    directory: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> str:
    """Trains the run of `config` in `directory` and returns "done", "stopped" or "diverged".

    Leaves run.h5 there and, when done, the agent's weights in agent.pt. Continues from checkpoint/ where there is
    one, bit for bit on a CPU; a run that is over is left as it is. `stop` is asked after every vector step; once it
    says yes, a checkpoint is written and the run returns. `report` hears of every vector step. Raises ConfigError where
    this machine cannot run the configuration, CheckpointError or RunFileError where `directory` holds a run of another
    one, OSError where it cannot be written.
    """
    torch.set_num_threads(allowed_threads(config.run.threads))
    directory.mkdir(parents=True, exist_ok=True)
    if over := ended(directory, config):
        return over
    seed, tasks, steps = config.train.seed, len(config.env.tasks), config.train.vector_steps
    device = resolve_device(config.run.device)
    config = resolve_env_workers(config, device)
    if config.agent.products != "float32" and device.type == "cpu":
        raise ConfigError(f"agent.products = '{config.agent.products}' is for GPUs; use float32 on a CPU")
    evaluate_at = frozenset(config.evaluate.steps(steps))
    save_now = Every(config.run.checkpoint_seconds)

    with ExitStack() as stack:
        envs = stack.enter_context(closing(_make_envs(config)))
        agent = Agent(config, device=device)
        replay = build_replay(
            config.replay,
            device=device,
            place=config.run.replay,
            tasks=tasks,
            seed=seed,
            discount=config.agent.discount,
            folder=config.run.replay_folder,
            prefetch=usable_cpus() > 1 if config.run.prefetch is None else config.run.prefetch,
        )
        explorer = np.random.default_rng([seed, 0])
        restored = load_checkpoint(directory / "checkpoint", replay, config, device)
        log = stack.enter_context(closing(RunLog(config, directory, agent, resumed=restored is not None)))
        batch = update = None
        if restored is None:
            step = 0
            observation, _ = envs.reset()
        else:
            step, observation = restored["step"], restored["observation"]
            agent.load_state_dict(restored["agent"])
            envs.load_state_dict(restored["envs"])
            explorer.bit_generator.state = restored["explorer"]
            log.load_state_dict(restored["log"])

        while step < steps:
            exploring = step < config.train.random_steps
            with log.clock("env_seconds"):
                action = (
                    explorer.uniform(-1, 1, (tasks, ACTION_SIZE)) if exploring else agent.act(observation)
                )
                if log.must_end(step, {"action": float(np.sum(action))}):
                    return "diverged"
                next_observation, reward, terminated, truncated, info = envs.step(action)
                replay.add(observation, action, reward, terminated, truncated, info["final_obs"])
                agent.observe(reward, terminated, truncated)
                log.fixed_batch.offer(step, observation, action, reward, terminated, info["final_obs"])
            observation = next_observation
            step += 1
            log.count_episodes(info)
            if not exploring and config.agent.resets_at(step):
                agent.reset(step)

            with log.clock("update_seconds"):
                replay.anneal(step / steps)
                for i in range(0 if exploring else config.train.updates_per_step):
                    batch = replay.sample(_rows_of_tasks(config, replay.size, (step, i)))
                    update = agent.update(batch)
                    if log.must_end(step, read_metrics(update)):
                        return "diverged"
                    if config.replay.mode.startswith("prioritized"):
                        replay.update_priorities(batch.id, update.priority)

            if step in evaluate_at and log.evaluate(step, agent, batch, update):
                return "diverged"
            report(Progress(step, steps, step * tasks, log.success))
            stopping = step < steps and stop()
            if stopping or (step < steps and save_now()):
                state = {
                    "step": step,
                    "observation": observation,
                    "agent": agent.state_dict(),
                    "envs": envs.state_dict(),
                    "explorer": explorer.bit_generator.state,
                    "log": log.state_dict(),
                }
                save_checkpoint(directory / "checkpoint", step, state, replay, config, device)
            if stopping:
                return "stopped"
    save_tensors(directory / "agent.pt", agent.state_dict())
    return "diverged" if log.divergence else "done"


def _make_envs(config: Config) -> VectorEnv | PerTaskRewardScale:
    run = config.run
    envs = VectorEnv(config.env, seed=config.train.seed, workers=run.env_workers, restarts=run.env_restarts)
    if config.agent.scaling != "reward":
        return envs
    return PerTaskRewardScale(envs, discount=config.agent.discount)


def read_metrics(update: Update) -> dict[str, float]:
    """The metrics of an update as numbers: the one moment at which a GPU is waited for."""
    values = torch.stack(list(update.metrics.values())).tolist()
    return dict(zip(update.metrics, values, strict=True))


def resolve_env_workers(config: Config, device: torch.device) -> Config:
    """`config` with a number for run.env_workers. On a CPU, several runs at a time are the better use of its cores."""
    if config.run.env_workers is not None:
        return config
    workers = 0 if device.type == "cpu" else max(1, usable_cpus() - 1)
    return config.model_copy(update={"run": config.run.model_copy(update={"env_workers": workers})})


def _rows_of_tasks(config: Config, size: NDArray[np.int64], update: tuple[int, int]) -> Sequence[int]:
    """What update i of a step samples of each task: a function of the configuration and the step alone."""
    rows = config.batch_rows
    if config.replay.balanced:
        return rows
    generator = np.random.default_rng([config.train.seed, 1, *update])
    return pooled_counts(size, sum(rows), generator)


class Every:
    """A clock that says yes once every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def __call__(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._seconds
        return True
