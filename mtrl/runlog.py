"""What a run writes down while it trains: evaluations, losses, training episodes and clocks, into its run file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl import __version__
from mtrl.agent import Agent, Update
from mtrl.config import Config
from mtrl.evaluate import Evaluator
from mtrl.replay import Batch
from mtrl.results import CLOCKS, RunFileWriter, refuse_another_run


class RunLog:
    """Keeps the run file of one run. A resumed run continues the file; a new one measures the random policy first."""

    def __init__(self, config: Config, directory: Path, agent: Agent, *, resumed: bool) -> None:
        self.success = math.nan  # of the latest evaluation, mean over tasks
        self._evaluations = 0
        self._clocks = dict.fromkeys(CLOCKS, 0.0)
        self._episodes = np.zeros(
            (3, len(config.env.tasks))
        )  # count, successes, return since the last evaluation
        self._since = time.perf_counter()
        self._tasks = len(config.env.tasks)
        path = directory / "run.h5"
        refuse_another_run(path, config)
        self._evaluator = Evaluator(config)
        if resumed:
            self._file = RunFileWriter.open(path)
            return
        self._file = RunFileWriter.create(
            path, config, run_metrics=agent.run_metrics, parameters=agent.parameters, code_version=__version__
        )
        with self.clock("evaluate_seconds"):
            self._file.write_random_policy(self._evaluator.evaluate_random())

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to the clock of that name."""
        start = time.perf_counter()
        yield
        self._clocks[name] += time.perf_counter() - start

    def count_episodes(self, info: dict[str, Any]) -> None:
        """Takes note of the training episodes that ended in this vector step."""
        ended = info["_episode"]
        if ended.any():
            episode = info["episode"]
            self._episodes[:, ended] += [
                np.ones(ended.sum()),
                episode["success"][ended],
                episode["return"][ended],
            ]

    def evaluate(self, step: int, agent: Agent, batch: Batch | None, update: Update | None) -> None:
        """Evaluates the deterministic policy and commits a row, with the metrics of the latest update and its batch."""
        with self.clock("evaluate_seconds"):
            per_task = self._evaluator.evaluate(
                lambda observation: agent.act(observation, deterministic=True)
            )
            per_run = {} if update is None else {name: float(value) for name, value in update.metrics.items()}
            if batch is not None:
                per_run |= agent.measure(batch)
        self.success = float(per_task["success"].mean())
        self._file.write_evaluation(
            step * self._tasks, per_task | self._training_episodes() | {"temperature": agent.temperature},
            per_run, self._read_clocks(),
        )  # fmt: skip
        self._evaluations += 1
        self._episodes[:] = 0

    def mark_diverged(self, step: int) -> None:
        """Records that the run diverged after `step` vector steps."""
        self._file.mark_diverged(step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "evaluations": self._evaluations,
            "clocks": self._read_clocks(),
            "episodes": self._episodes.copy(),
            "success": self.success,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._file.rewind(state["evaluations"])
        self._evaluations = state["evaluations"]
        self._clocks = dict(state["clocks"])
        self._episodes = state["episodes"].copy()
        self.success = state["success"]

    def close(self) -> None:
        self._evaluator.close()
        self._file.close()

    def _training_episodes(self) -> dict[str, NDArray[np.float64]]:
        count, successes, returns = self._episodes
        with np.errstate(invalid="ignore"):  # no episode ended: NaN
            return {"train_success": successes / count, "train_return": returns / count}

    def _read_clocks(self) -> dict[str, float]:
        now = time.perf_counter()
        self._clocks["wall_seconds"] += now - self._since
        self._since = now
        return dict(self._clocks)
