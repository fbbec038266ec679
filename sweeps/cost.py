"""The cost of one run: seconds on a core or a GPU, memory, and bytes on disk.

The times of cores are CPU times of short runs on one core of a 2-core x86-64 machine with AVX-512 that was shared with
other programs (benchmarks/bench_costs.py, benchmarks/results/costs.json). There they are right within a factor of 1.5
for every system. On other machines they are a guess, which finished cells of the same sweep correct. The times of a GPU
were not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mtrl.config import Config
from mtrl.fused import why_not_fused
from mtrl.sizing import count_parameters, update_flops, updates

START_SECONDS = 2.7  # Python, torch and Meta-World
START_SECONDS_OF_TASK = 0.12  # one env for training and one for evaluation
SECONDS_PER_VECTOR_STEP = 2.5e-4  # without the envs: the replay and the loop
SECONDS_PER_ENV_STEP = 1.6e-4
SECONDS_PER_GOAL = 0.012  # the first reset to a goal
EVALUATED_SHARE = 0.8  # of the horizon: an episode of an evaluation ends at success
ACT_SECONDS = {True: 1e-4, False: 1e-3}  # the actions of all tasks, fused (True) or with plain torch


class Speed(NamedTuple):
    """The cost of an update on one core."""

    seconds: float  # that do not depend on its size
    seconds_of_row: float  # for each transition, without its products
    flops: float  # operations of products per second


FUSED = Speed(4e-4, 0.0, 1.15e11)
AUTOGRAD = {  # by the kind of network
    "mtmhsac": Speed(6.6e-3, 4e-6, 1.0e11),
    "mtsac": Speed(6.6e-3, 4e-6, 1.0e11),
    "sac": Speed(6.6e-3, 4e-6, 1.0e11),
    "soft_modularization": Speed(8e-3, 1.1e-4, 1.05e11),
    "paco": Speed(11e-3, 5e-6, 0.7e11),
    "moore": Speed(14e-3, 4.6e-5, 0.6e11),
    "care": Speed(20e-3, 4.8e-5, 0.9e11),
    "film": Speed(14e-3, 1.9e-5, 0.9e11),
}
# Plasticity at an evaluation takes the sum of these three.
MEASURE_SECONDS = 0.02
MEASURE_UPDATES = 2.5  # times the seconds of an update
MEASURE_SECONDS_OF_GRADIENT = 2.5e-8  # for each parameter and task
GPU_FLOPS = 1.5e13
GPU_UPDATE_SECONDS = 1.2e-3
BYTES_OF_ROW = 200  # of one transition in the replay
# Python, torch's CUDA build and Meta-World. Torch takes 600 of these MB. Without cgroups Slurm counts them twice: for
# the job's first process and for the cell's, which is forked from it.
PROCESS_MB = 1_500
TASK_MB = 30  # one training env and one for evaluation
FURTHER_ENV_MB = 22  # of a task, with evaluate.envs_per_task


@dataclass(frozen=True)
class Estimate:
    """The cost of one run."""

    seconds: float
    memory_mb: int
    checkpoint_bytes: float  # of one checkpoint; two are kept while the run goes on
    result_bytes: float  # on disk when the run is done


def estimate_cost(config: Config, *, gpu: bool) -> Estimate:
    """The cost of a run on one core (or as many as its threads), or on a GPU."""
    tasks, parameters = len(config.env.tasks), count_parameters(config)
    steps = config.train.vector_steps
    evaluations = len(config.evaluate.steps(steps))
    update = _update_seconds(config, gpu=gpu)
    measure = MEASURE_SECONDS + MEASURE_UPDATES * update
    measure += MEASURE_SECONDS_OF_GRADIENT * tasks * parameters.total
    seconds = START_SECONDS + START_SECONDS_OF_TASK * tasks + _env_seconds(config, evaluations)
    seconds += updates(config) * update + evaluations * measure
    weights = 4 * (3 * parameters.total + parameters.target)  # with two moments of Adam
    rows = BYTES_OF_ROW * tasks * min(config.replay.capacity, steps)
    further = min(config.evaluate.envs_per_task, config.evaluate.episodes) - 1
    memory = PROCESS_MB + (TASK_MB + FURTHER_ENV_MB * further) * tasks + (rows + 2 * weights) / 1e6
    return Estimate(seconds, math.ceil(memory), weights + rows, weights + 1e5)


def _update_seconds(config: Config, *, gpu: bool) -> float:
    if gpu:
        return GPU_UPDATE_SECONDS + update_flops(config) / GPU_FLOPS
    if why_not_fused(config):
        parts = (AUTOGRAD[config.network.actor.kind], AUTOGRAD[config.network.critic.kind])
        speed = max(parts, key=lambda part: part.seconds)
    else:
        speed = FUSED
    of_rows = sum(config.batch_rows) * speed.seconds_of_row + update_flops(config) / speed.flops
    return speed.seconds + of_rows / config.run.threads


def _env_seconds(config: Config, evaluations: int) -> float:
    """Seconds of stepping envs: in training, in the evaluations, and in the evaluation of the random policy."""
    tasks, steps, act = (
        len(config.env.tasks),
        config.train.vector_steps,
        ACT_SECONDS[not why_not_fused(config)],
    )
    share = 1.0 if config.evaluate.whole_episodes else EVALUATED_SHARE
    evaluated = (1 + share * evaluations) * config.evaluate.episodes * config.env.horizon
    workers = config.run.env_workers or 1
    goals = min(config.env.goals_per_task, steps // config.env.horizon + 1)
    goals += min(config.env.goals_per_task, evaluations * config.evaluate.episodes)
    of_tasks = tasks * ((steps + evaluated) * SECONDS_PER_ENV_STEP + goals * SECONDS_PER_GOAL)
    return (steps + evaluated) * (SECONDS_PER_VECTOR_STEP + act) + of_tasks / workers
