"""Runs -> variants: the runs that differ in nothing but the seed, and their scores."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.gridding import GRID_DIMS, to_runs
from mtrl.results import BATCHES, LAYER_METRICS, NETWORKS

PLAIN = "mtmhsac"  # the system that goes without saying
PLASTICITY = (
    "dormant_",
    "srank_",
    *(
        f"{network}_{name}"
        for network in NETWORKS
        for name in ("weight_norm", "gradient_norm", "effective_lr")
    ),
)
FINISHED = ("done", "diverged")  # a diverged run counts with the score it had, 0 where it had none


@dataclass(frozen=True)
class Variant:
    """The finished runs of one variant, by seed, and the curves of all its runs."""

    benchmark: str
    system: str
    actor_width: int
    critic_width: int
    settings: tuple[tuple[str, Any], ...]  # other fields of the configuration that differ between variants
    parameters: dict[str, int]  # actor, critic, target, total
    tasks: tuple[str, ...]  # one name for all where only their mean is known
    task_count: int
    episodes: int  # per task and evaluation
    vector_steps: int  # planned
    batch: int  # transitions in an update, of all tasks; 0 where that is not known
    seeds: tuple[int, ...]  # of the finished runs
    finished: NDArray[np.bool_]  # [runs]
    diverged_runs: NDArray[np.bool_]  # [runs]
    causes: tuple[str, ...]  # of the diverged runs: the metric that told; empty where that is not known
    unfinished: int  # runs still going or failed
    scores: NDArray[np.float64]  # [finished runs, tasks], success at the last evaluation
    random: NDArray[
        np.float64
    ]  # [tasks], success of a uniform random policy; NaN where that was not measured
    env_steps: NDArray[np.int64]  # [evaluations]
    curves: NDArray[np.float64]  # [runs, evaluations, tasks], success; NaN where a run has not come
    metrics: dict[str, NDArray[np.float64]]  # of plasticity, each [runs, evaluations]

    @property
    def diverged(self) -> int:
        return int(self.diverged_runs.sum())

    @property
    def group(self) -> str:
        """What the variant shares with those that differ from it in size alone."""
        parts = [short_name(self.benchmark), *([] if self.system == PLAIN else [self.system])]
        return ", ".join([*parts, *(f"{name.rpartition('.')[2]} {value}" for name, value in self.settings)])

    @property
    def width(self) -> int | None:
        """The width of actor and critic where they are the same."""
        return self.actor_width if self.actor_width == self.critic_width else None

    def late(self, task: int) -> list[tuple[float, int]]:
        """For each finished run, success on task number `task` over the last third of training, and its episodes."""
        found = []
        for curve in self.curves[self.finished, :, task]:
            known = curve[np.isfinite(curve)]
            if not len(known):  # it diverged before its first evaluation
                found.append((0.0, 0))
                continue
            part = known[-max(1, len(known) // 3) :]
            found.append((float(part.mean()), len(part) * self.episodes))
        return found

    @property
    def name(self) -> str:
        """What tells the variant from the others of its benchmark."""
        width = f"{self.width}" if self.width else f"{self.actor_width}/{self.critic_width}"
        system = "width" if self.system == PLAIN else self.system
        return ", ".join([f"{system} {width}", *(f"{name} {value}" for name, value in self.settings)])


def short_name(benchmark: str) -> str:
    """`drawer-close + reach` for `drawer-close-v3+reach-v3`."""
    return " + ".join(task.removesuffix("-v3") for task in benchmark.split("+"))


def groups(found: Iterable[Variant]) -> dict[str, list[Variant]]:
    """The variants by what they share, but for their size."""
    by: dict[str, list[Variant]] = {}
    for variant in found:
        by.setdefault(variant.group, []).append(variant)
    return by


def variants(dataset: xr.Dataset) -> list[Variant]:
    """The variants of a sweep's dataset, sorted by benchmark, system and size."""
    runs = to_runs(dataset)
    settings = [name for name, value in runs.coords.items()
                if value.dims == ("run",) and "." in str(name) and not _goes_without_saying(runs, name)]  # fmt: skip
    groups: dict[tuple[Any, ...], list[int]] = {}
    places = zip(*(runs[name].values.tolist() for name in (*GRID_DIMS[:-1], *settings)), strict=True)
    for number, place in enumerate(places):
        groups.setdefault(place, []).append(number)
    found = [_variant(runs.isel(run=members), settings) for members in groups.values()]
    return sorted(found, key=lambda c: (c.task_count, c.benchmark, c.system, c.parameters["total"], c.name))


def _goes_without_saying(runs: xr.Dataset, setting: Any) -> bool:
    """Whether the setting follows from the benchmark and the system, as a system's number of experts does."""
    values: dict[Any, set[Any]] = {}
    for place, value in zip(
        zip(runs.benchmark.values.tolist(), runs.system.values.tolist(), strict=True),
        runs[setting].values.tolist(),
        strict=True,
    ):
        values.setdefault(place, set()).add(str(value))
    return all(len(each) == 1 for each in values.values())


def _variant(runs: xr.Dataset, settings: list[Any]) -> Variant:
    runs = runs.sortby("seed")
    first = runs.isel(run=0)
    config = json.loads(str(first.config.values))
    tasks, agent = tuple(config["env"]["tasks"]), config.get("agent", {})
    success = runs.success.sel(task=list(tasks)).values.astype(float)  # [runs, evaluations, tasks]
    committed = runs.committed.values
    diverged = runs.outcome.values == "diverged"
    ready = np.isin(runs.outcome.values, FINISHED) & ((committed > 0) | diverged)
    last = success[np.flatnonzero(ready), committed[ready] - 1]
    last[committed[ready] == 0] = 0
    return Variant(
        benchmark=str(first.benchmark.values),
        system=str(first.system.values),
        actor_width=int(first.actor_width),
        critic_width=int(first.critic_width),
        settings=tuple((name, first[name].item()) for name in settings),
        parameters={
            part: int(first[f"parameters_{part}"]) for part in ("actor", "critic", "target", "total")
        },
        tasks=tasks,
        task_count=int(first.tasks),
        episodes=int(config["evaluate"]["episodes"]),
        vector_steps=int(config["train"]["vector_steps"]),
        batch=int(agent.get("batch") or agent.get("batch_per_task", 0) * int(first.tasks)),
        seeds=tuple(runs.seed.values[ready].tolist()),
        finished=ready,
        diverged_runs=diverged,
        causes=tuple(runs.diverged_by.values[diverged].tolist())
        if "diverged_by" in runs
        else ("",) * int(diverged.sum()),
        unfinished=int((~ready).sum()),
        scores=last,
        random=(
            runs.random_success.sel(task=list(tasks)).values.astype(float).mean(0)
            if "random_success" in runs
            else np.full(len(tasks), np.nan)
        ),
        env_steps=runs.env_steps.values.max(0),
        curves=success,
        metrics={
            str(name): value.values.astype(float)
            for name, value in runs.data_vars.items()
            if value.dims == ("run", "eval") and str(name).startswith(PLASTICITY)
        }
        | _of_layers_and_tasks(runs),
    )


def _of_layers_and_tasks(runs: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """`srank_critic_fixed_1`, ... of each layer, `cosine_critic_fixed`, ...: means over tasks; where runs have them."""
    found: dict[str, NDArray[np.float64]] = {}
    if "layer" not in runs.dims:
        return found
    for batch, network in itertools.product(BATCHES, NETWORKS):
        name = f"{network}_fixed" if batch == "fixed" else network
        here = runs.sel(batch=batch, network=network)
        for metric, layer in itertools.product(LAYER_METRICS, runs.layer.values.tolist()):
            found[f"{metric}_{name}_{layer}"] = here[f"layer_{metric}"].sel(layer=layer).values.astype(float)
        cosine = here.gradient_cosine.values.astype(float)
        known = np.isfinite(cosine).sum(-1)
        found[f"cosine_{name}"] = np.nansum(cosine, axis=-1) / np.where(known, known, np.nan)
    return {name: values for name, values in found.items() if np.isfinite(values).any()}
