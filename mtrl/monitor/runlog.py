"""Records a run while it trains: evaluations, losses, training episodes and clocks go into its run file."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl import __version__
from mtrl.agent import Agent, Update
from mtrl.config import Config, ConfigError
from mtrl.extensions import load
from mtrl.monitor.evaluate import Evaluator
from mtrl.monitor.fixed_batch import FixedBatch
from mtrl.monitor.loggers import flatten, open_loggers
from mtrl.monitor.plasticity import RUN_METRICS, Measured, measure
from mtrl.replay import Batch
from mtrl.results import CLOCKS, OWN, Divergence
from mtrl.run_writer import RunFileWriter

log = logging.getLogger(__name__)
OwnMetric = Callable[[Agent, Mapping[str, Batch]], float]  # takes an agent and {"training": .., "fixed": ..}


class RunLog:
    """Writes the run file of one run. A resumed run continues the file; a new run evaluates the random policy first."""

    def __init__(self, config: Config, directory: Path, agent: Agent, *, resumed: bool) -> None:
        self.success = math.nan  # of the latest evaluation, mean over tasks
        self._evaluations = 0
        self._clocks = dict.fromkeys(CLOCKS, 0.0)
        # count, successes, return since the last evaluation
        self._episodes = np.zeros((3, len(config.env.tasks)))
        self._since = time.perf_counter()
        self._tasks, self._steps = len(config.env.tasks), config.train.vector_steps
        self._own = own_metrics(config.run.metrics)
        path = directory / "run.h5"
        self._task_names, self._loggers = config.env.tasks, open_loggers(config, directory)
        self._evaluate, self._evaluator = config.evaluate, Evaluator(config)
        self.fixed_batch = FixedBatch(config)
        if resumed:
            self._file = RunFileWriter.open(path)
            return
        self._file = RunFileWriter.create(
            path,
            config,
            run_metrics=(*agent.update_metrics, *RUN_METRICS, *self._own),
            parameters=agent.parameters,
            code_version=__version__,
            products=agent.products,
            layers=agent.layers,
        )
        with self.clock("evaluate_seconds"):
            self._file.write_random_policy(self._evaluator.evaluate_random())

    def clock(self, name: str) -> Clock:
        """Adds the time inside the `with` block to the clock of that name."""
        return Clock(self._clocks, name)

    def count_episodes(self, info: dict[str, Any]) -> None:
        """Counts the training episodes that ended in this vector step; `info` is that of `VectorEnv.step`."""
        ended = info["_episode"]
        if any(ended.tolist()):
            episode = info["episode"]
            self._episodes[:, ended] += [
                np.ones(ended.sum()),
                episode["success"][ended],
                episode["return"][ended],
            ]

    def evaluate(
        self, step: int, agent: Agent, batch: Batch | None, update: Update | None
    ) -> dict[str, float]:
        """Evaluates the deterministic policy and commits a row, with the metrics of the latest update and its batch.

        Returns the metrics that the divergence guard checks. If an action is not finite, no row is committed.
        """
        with self.clock("evaluate_seconds"):
            try:
                number = self._evaluate.number(step)
                per_task = self._evaluator.evaluate(partial(_act, agent), number)
            except _NoActionError as error:
                return {"evaluation_action": error.value}
        per_run = {} if update is None else update.metrics
        measured = Measured({}, {})
        if batch is not None:
            with self.clock("measure_seconds"):
                batches = {"training": batch, "fixed": self.fixed_batch.batch(agent.device)}
                measured = measure(agent, batches)
                per_run = per_run | {name: float(own(agent, batches)) for name, own in self._own.items()}
        self.success = float(per_task["success"].mean())
        whole = per_task | self._training_episodes() | {"temperature": agent.temperature}
        row = (step * self._tasks, whole, per_run | measured.per_run, self._read_clocks())
        self._file.write_evaluation(*row, measured.arrays)
        self._tell_loggers(*row)
        self._evaluations += 1
        self._episodes[:] = 0
        log.info("step %d of %d: success %.3f", step, self._steps, self.success)
        return measured.per_run

    def mark_diverged(self, divergence: Divergence | None, trained_on: bool) -> None:
        """Records in the run file how the run diverged; None removes that record."""
        self._file.mark_diverged(divergence, trained_on=trained_on)

    def state_dict(self) -> dict[str, Any]:
        return {
            "evaluations": self._evaluations,
            "clocks": self._read_clocks(),
            "episodes": self._episodes.copy(),
            "success": self.success,
            "fixed_batch": self.fixed_batch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._file.rewind(state["evaluations"])
        self._evaluations = state["evaluations"]
        self._clocks = dict(state["clocks"])
        self._episodes = state["episodes"].copy()
        self.success = state["success"]
        self.fixed_batch.load_state_dict(state["fixed_batch"])
        if self._loggers:
            run = self._file.read()
            names = (run.metrics, run.run_metrics, CLOCKS)
            for step, *rows in zip(run.env_steps, run.per_task, run.per_run, run.timing, strict=True):
                self._tell_loggers(step, *map(dict, map(zip, names, rows)))

    def _tell_loggers(self, env_steps: int, *row: Mapping[str, Any]) -> None:
        """Passes an evaluation to the loggers. `row`: its numbers per task, per run and of the clocks."""
        values = flatten(self._task_names, *row)
        for logger in self._loggers:
            logger.log(int(env_steps), values)

    def close(self) -> None:
        """Closes the loggers, the evaluation's envs and the run file."""
        for logger in self._loggers:
            logger.close()
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


class Clock:
    """Adds the seconds of a `with` block to `clocks[name]`; half the cost of a contextmanager, three times a step."""

    def __init__(self, clocks: dict[str, float], name: str) -> None:
        self._clocks, self._name = clocks, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clocks[self._name] += time.perf_counter() - self._start


def own_metrics(names: Sequence[str]) -> dict[str, OwnMetric]:
    """{name in the run file: function} of `run.metrics`: "my_module:drift" is named own_drift.

    Raises ConfigError if a function is not found or if two have the same name.
    """
    found = {f"{OWN}{name.partition(':')[2]}": load(name, "run.metrics") for name in names}
    if len(found) < len(names):
        raise ConfigError(f"run.metrics = {'+'.join(names)}: two functions have the same name; rename one")
    return found


class _NoActionError(ArithmeticError):
    """The policy gave an action that is not finite."""

    def __init__(self, value: float) -> None:
        self.value = value


def _act(agent: Agent, observation: NDArray[np.float64], tasks: NDArray[np.int64]) -> NDArray[np.float32]:
    """The deterministic actions. Raises _NoActionError if one is not finite, before the envs refuse it."""
    action = agent.act(observation, tasks, deterministic=True)
    if not np.isfinite(action).all():
        raise _NoActionError(float(action[~np.isfinite(action)][0]))
    return action
