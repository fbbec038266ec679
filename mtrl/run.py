"""A run in memory: built from its configuration or restored from its newest checkpoint, and saved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl.agent import Agent, Update
from mtrl.checkpoint import load_checkpoint, save_checkpoint
from mtrl.config import Config
from mtrl.cpus import usable_cpus
from mtrl.devices import current, resolve_device, resolve_products
from mtrl.envs import VectorEnv
from mtrl.envs.reward_scale import PerTaskRewardScale
from mtrl.extensions import load
from mtrl.monitor.divergence import DivergenceGuard
from mtrl.monitor.runlog import RunLog
from mtrl.replay import Batch
from mtrl.replay_place import build_replay
from mtrl.tasks import ACTION_SIZE


class Run:
    """The parts of a run and its progress, restored from the newest checkpoint if there is one. Close it at the end.

    Raises ConfigError if this machine cannot run the configuration, CheckpointError or RunFileError if `directory`
    holds the run of another one.
    """

    step: int  # vector steps taken
    observation: NDArray[np.float64]  # [T, 39], the envs' latest
    # the last update and its vector step, while nobody has looked at its metrics
    unread: tuple[int, Update] | None = None

    def __init__(self, config: Config, directory: Path) -> None:
        self.device = resolve_device(config.run.device)
        self.config = config = resolve_env_workers(config, self.device)
        resolve_products(config.agent.products, self.device)  # or an error
        self.priority = _priority_rule(config.replay.priority)
        self._checkpoints = directory / "checkpoint"
        with ExitStack() as stack:
            stack.enter_context(current(self.device))
            self.envs = stack.enter_context(closing(_make_envs(config)))
            self.agent = Agent(config, device=self.device)
            self.replay = build_replay(
                config.replay,
                device=self.device,
                place=config.run.replay,
                tasks=len(config.env.tasks),
                seed=config.train.seed,
                discount=config.agent.discount,
                folder=config.run.replay_folder,
                prefetch=usable_cpus() > 1 if config.run.prefetch is None else config.run.prefetch,
            )
            self._explorer = np.random.default_rng([config.train.seed, 0])
            saved = load_checkpoint(self._checkpoints, self.replay, config, self.device)
            log = RunLog(config, directory, self.agent, resumed=saved is not None)
            self.log = stack.enter_context(closing(log))
            self.guard = DivergenceGuard(config, self.log.mark_diverged)
            if saved is None:
                self.step = 0
                self.observation, _ = self.envs.reset()
            else:
                self._load_state_dict(saved)
            self._open = stack.pop_all()

    def settle(self) -> None:
        """Checks the metrics of the last update, if nobody has. Raises DivergedError if the run must end.

        Waits for the GPU, unless the metrics came along with later actions.
        """
        if self.unread is not None:
            (step, update), self.unread = self.unread, None
            self.guard.check(step, update.metrics)

    def random_action(self) -> NDArray[np.float64]:
        """Uniform random actions [T, 4]: exploration before the first update."""
        return self._explorer.uniform(-1, 1, (len(self.config.env.tasks), ACTION_SIZE))

    def save(self) -> None:
        """Writes a checkpoint. Raises OSError, with the earlier ones untouched, if it cannot be written.

        Settles first, so that no checkpoint is of a run that must end.
        """
        self.settle()
        save_checkpoint(
            self._checkpoints, self.step, self._state_dict(), self.replay, self.config, self.device
        )

    def close(self) -> None:
        """Closes the envs and the run file."""
        self._open.close()

    def _state_dict(self) -> dict[str, Any]:
        """All that changes while a run trains, except the replay, which has a file of its own."""
        return {
            "step": self.step,
            "observation": self.observation,
            "agent": self.agent.state_dict(),
            "envs": self.envs.state_dict(),
            "explorer": self._explorer.bit_generator.state,
            "log": self.log.state_dict(),
            "guard": self.guard.state_dict(),
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.observation = state["step"], state["observation"]
        self.agent.load_state_dict(state["agent"])
        self.envs.load_state_dict(state["envs"])
        self._explorer.bit_generator.state = state["explorer"]
        self.log.load_state_dict(state["log"])
        self.guard.load_state_dict(state.get("guard", state["log"]))  # earlier checkpoints kept it in the log


def _priority_rule(name: str) -> Callable[[Batch, Update], Tensor]:
    """The function that `replay.priority` names: from a batch and its update to the batch's priorities [B]."""
    if name == "td_error":
        return lambda batch, update: update.priority
    rule: Callable[[Batch, Update], Tensor] = load(name, "replay.priority")
    return rule


def _make_envs(config: Config) -> VectorEnv | PerTaskRewardScale:
    run = config.run
    envs = VectorEnv(config.env, seed=config.train.seed, workers=run.env_workers, restarts=run.env_restarts)
    if config.agent.scaling != "reward":
        return envs
    return PerTaskRewardScale(envs, discount=config.agent.discount)


def resolve_env_workers(config: Config, device: torch.device) -> Config:
    """`config` with a number for run.env_workers.

    On a CPU without `train.overlap` it is 0: several runs at a time make better use of the cores.
    """
    if config.run.env_workers is not None:
        return config
    alone = device.type == "cpu" and not config.train.overlap
    workers = 0 if alone else max(1, usable_cpus() - 1)
    return config.model_copy(update={"run": config.run.model_copy(update={"env_workers": workers})})
