"""Runs -> variants. A variant is all runs that differ only in the seed, with their scores."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.gridding import GRID_DIMS, to_runs
from analysis.scores import Score, evaluations, scores
from mtrl.results import BATCHES, LAYER_METRICS, NETWORKS, OWN

if TYPE_CHECKING:
    import xarray as xr

PLAIN = "mtmhsac"  # the system that names do not mention
PLASTICITY = (
    "dormant_",
    "srank_",
    *(
        f"{network}_{name}"
        for network in NETWORKS
        for name in ("weight_norm", "gradient_norm", "effective_lr")
    ),
)
FINISHED = ("done", "diverged")  # a diverged run keeps its last score, or 0 if it had none


PARTS = ("actor", "critic", "target", "total")


@dataclass(frozen=True)
class Variant:
    """The finished runs of one variant, by seed, and the curves of all its runs."""

    benchmark: str
    system: str
    actor_width: int
    critic_width: int
    settings: tuple[tuple[str, Any], ...]  # other fields of the configuration that differ between variants
    parameters: dict[str, int]  # actor, critic, target, total
    tasks: tuple[str, ...]  # a single name if only the mean over tasks is known
    task_count: int
    episodes: int  # per task and evaluation
    vector_steps: int  # planned
    batch: int  # transitions in an update, of all tasks; 0 if unknown
    seeds: tuple[int, ...]  # of the finished runs
    finished: NDArray[np.bool_]  # [runs]
    diverged_runs: NDArray[np.bool_]  # [runs]
    causes: tuple[str, ...]  # for each diverged run the metric that showed it; "" if unknown
    unfinished: int  # runs that are not over, or failed
    unscored: int  # runs that ended without any success of some task
    lacking: int  # finished runs whose last evaluation lacks a task
    scores: NDArray[np.float64]  # [finished runs, tasks]; see scores.py
    score_episodes: int  # behind each score, per task
    random: NDArray[
        np.float64
    ]  # [tasks], success of a uniform random policy; NaN where that was not measured
    env_steps: NDArray[np.int64]  # [evaluations]
    curves: NDArray[np.float64]  # [runs, evaluations, tasks], success; NaN for an evaluation that a run lacks
    metrics: dict[str, NDArray[np.float64]]  # of plasticity, each [runs, evaluations]
    config: dict[str, Any]  # of the first run

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return int(self.diverged_runs.sum())

    @property
    def group(self) -> str:
        """The name of the variant's group: all variants that differ from it only in size."""
        parts = [short_name(self.benchmark), *([] if self.system == PLAIN else [self.system])]
        return ", ".join(
            [*parts, *(f"{name.rpartition('.')[2]} {_words(value)}" for name, value in self.settings)]
        )

    @property
    def width(self) -> int | None:
        """The width of actor and critic if they are equal; else None."""
        return self.actor_width if self.actor_width == self.critic_width else None

    def known_curves(self, task: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Env steps per task [evaluations], and the success [runs, evaluations], of a task or the mean over all.

        Only evaluations that some run has are included.
        """
        curves = self.curves.mean(-1) if task is None else self.curves[:, :, task]
        known = (self.env_steps >= 0) & np.isfinite(curves).any(0)
        return self.env_steps[known] / self.task_count, curves[:, known]

    def late(self, task: int) -> list[tuple[float, int]]:
        """For each finished run: success on task number `task` over the last third of training, and its episodes."""
        curves = self.curves[self.finished, :, task]
        known = np.isfinite(curves)
        counts = known.sum(1)  # 0 if it diverged before its first evaluation
        third = np.where(counts, np.maximum(1, counts // 3), 0)
        last = known & (np.cumsum(known[:, ::-1], axis=1)[:, ::-1] <= third[:, None])
        rates = np.where(last, curves, 0).sum(1) / np.maximum(third, 1)
        return list(zip(rates.tolist(), (third * self.episodes).tolist(), strict=True))

    @property
    def name(self) -> str:
        """The variant's name among those of its benchmark: `width 1024`."""
        width = f"{self.width}" if self.width else f"{self.actor_width}/{self.critic_width}"
        system = "width" if self.system == PLAIN else self.system
        return ", ".join([f"{system} {width}", *(f"{name} {_words(value)}" for name, value in self.settings)])


def short_name(benchmark: str) -> str:
    """`drawer-close + reach` for `drawer-close-v3+reach-v3`."""
    return " + ".join(task.removesuffix("-v3") for task in benchmark.split("+"))


def by_benchmark(found: Iterable[Variant]) -> dict[str, list[Variant]]:
    """{benchmark: its variants}."""
    by: dict[str, list[Variant]] = {}
    for variant in found:
        by.setdefault(variant.benchmark, []).append(variant)
    return by


def groups(found: Iterable[Variant]) -> dict[str, list[Variant]]:
    """{name of the group: its variants}; variants of a group differ only in size."""
    by: dict[str, list[Variant]] = {}
    for variant in found:
        by.setdefault(variant.group, []).append(variant)
    return by


def variants(dataset: xr.Dataset, score: Score = "last") -> list[Variant]:
    """The variants of a sweep's dataset, sorted by benchmark, system and size."""
    runs = to_runs(dataset).sortby("seed")
    configs = [json.loads(str(text)) for text in runs.config.values]
    tasks = [tuple(config["env"]["tasks"]) for config in configs]
    settings = splitting_settings(runs)
    groups: dict[tuple[Any, ...], list[int]] = {}
    columns = [runs[name].values.tolist() for name in (*GRID_DIMS[:-1], *settings)]
    for number, place in enumerate(zip(tasks, *columns, strict=True)):
        groups.setdefault(place, []).append(number)
    arrays = _Arrays(runs)
    found = [
        _variant(arrays, np.array(members), configs[members[0]], settings, score)
        for members in groups.values()
    ]
    found = _told_apart(found)
    return sorted(found, key=lambda v: (v.task_count, v.benchmark, v.system, v.parameters["total"], v.name))


def _told_apart(found: list[Variant]) -> list[Variant]:
    """The variants; if those of one benchmark's name have different tasks, with the tasks in the name."""
    sets: dict[str, set[tuple[str, ...]]] = {}
    for variant in found:
        sets.setdefault(variant.benchmark, set()).add(variant.tasks)
    return [
        replace(v, benchmark=f"{v.benchmark} ({_few(v.tasks)})") if len(sets[v.benchmark]) > 1 else v
        for v in found
    ]


def _few(tasks: tuple[str, ...]) -> str:
    names = [task.removesuffix("-v3") for task in tasks]
    return " + ".join(names) if len(names) < 4 else f"{names[0]} + {names[1]} + {len(names) - 2} more"


def splitting_settings(runs: xr.Dataset) -> list[str]:
    """The configuration fields that distinguish variants, beside benchmark, system and widths."""
    return [name for name in _settings(runs) if not _follows(runs, name) and name not in derived(runs)]


def following_settings(runs: xr.Dataset) -> list[str]:
    """The fields that change only with the size, except those that a grid derived by its manifest."""
    return [
        name
        for name in _settings(runs)
        if not _follows(runs, name, GRID_DIMS[:2]) and _follows(runs, name) and name not in derived(runs)
    ]


def derived(runs: xr.Dataset) -> list[str]:
    """The fields that the grid computed from others, as the sweep's manifest says."""
    return [str(name) for name in json.loads(runs.attrs.get("derived", "[]"))]


def _settings(runs: xr.Dataset) -> list[str]:
    return [str(name) for name, value in runs.coords.items() if value.dims == ("run",) and "." in str(name)]


def _follows(runs: xr.Dataset, setting: str, of: Sequence[str] = GRID_DIMS[:-1]) -> bool:
    """Whether the setting is a function of the dims `of`, as a system's number of experts is."""
    values: dict[Any, set[str]] = {}
    places = zip(*(runs[name].values.tolist() for name in of), strict=True)
    for place, value in zip(places, runs[setting].values.tolist(), strict=True):
        values.setdefault(place, set()).add(str(value))
    return all(len(each) == 1 for each in values.values())


class _Arrays:
    """The variables of a flat dataset as plain arrays, from which a few runs are taken quickly."""

    def __init__(self, runs: xr.Dataset) -> None:
        self.places = {str(task): number for number, task in enumerate(runs.task.values.tolist())}
        self.of_runs = {
            str(name): value.values for name, value in (*runs.coords.items(), *runs.data_vars.items())
            if value.dims == ("run",)
        }  # fmt: skip
        self.success = runs.success.values
        self.env_steps = runs.env_steps.values
        self.random = runs.random_success.values if "random_success" in runs else None
        self.metrics = {
            str(name): value.values
            for name, value in runs.data_vars.items()
            if value.dims == ("run", "eval") and str(name).startswith((*PLASTICITY, OWN))
        } | _of_layers_and_tasks(runs)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.asarray(self.of_runs[name])


def _variant(
    arrays: _Arrays, members: NDArray[Any], config: dict[str, Any], settings: list[str], score: Score
) -> Variant:
    first = members[0]
    tasks, agent = tuple(config["env"]["tasks"]), config.get("agent", {})
    columns = [arrays.places[task] for task in tasks]
    success = arrays.success[members][..., columns].astype(float)
    steps = arrays.env_steps[members].max(0)
    known = int(max(1, (steps >= 0).sum()))
    outcomes = arrays["outcome"][members]
    diverged = outcomes == "diverged"
    seen = np.isfinite(success).any(1)  # [runs, tasks]
    ready = np.isin(outcomes, FINISHED) & (seen.all(-1) | diverged)
    success_or_0 = np.where(
        seen[:, None] | ~diverged[:, None, None], success, 0
    )  # 0: it diverged before any evaluation
    found = scores(score, success_or_0[:, :known], steps[:known])
    task_count = int(arrays["tasks"][first])
    return Variant(
        benchmark=str(arrays["benchmark"][first]),
        system=str(arrays["system"][first]),
        actor_width=int(arrays["actor_width"][first]),
        critic_width=int(arrays["critic_width"][first]),
        settings=tuple((name, _plain(arrays[name][first])) for name in settings),
        parameters={part: int(arrays[f"parameters_{part}"][first]) for part in PARTS},
        tasks=tasks,
        task_count=task_count,
        episodes=int(config["evaluate"]["episodes"]),
        vector_steps=int(config["train"]["vector_steps"]),
        batch=int(agent.get("batch") or agent.get("batch_per_task", 0) * task_count),
        seeds=tuple(arrays["seed"][members][ready].tolist()),
        finished=ready,
        diverged_runs=diverged,
        causes=tuple(arrays["diverged_by"][members][diverged].tolist())
        if "diverged_by" in arrays.of_runs
        else ("",) * int(diverged.sum()),
        unfinished=int((~np.isin(outcomes, FINISHED)).sum()),
        unscored=int((np.isin(outcomes, FINISHED) & ~ready).sum()),
        lacking=int((ready & ~diverged & _ends_early(success)).sum()),
        scores=found[ready],
        score_episodes=int(config["evaluate"]["episodes"]) * evaluations(score, known),
        random=arrays.random[members][:, columns].astype(float).mean(0)
        if arrays.random is not None
        else np.full(len(tasks), np.nan),
        env_steps=steps,
        curves=success,
        metrics={name: values[members].astype(float) for name, values in arrays.metrics.items()},
        config=config,
    )


def _of_layers_and_tasks(runs: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """{name: values [runs, evaluations]}, without names that have no value.

    Each layer's `srank_critic_fixed_1`, ...; and `cosine_critic_fixed`, ..., the means over tasks.
    """
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


def _ends_early(success: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a run's last evaluation lacks a task that an earlier one has. [runs]"""
    known: NDArray[np.bool_] = np.isfinite(success)  # [runs, evaluations, tasks]
    last = known.shape[1] - 1 - np.argmax(np.any(known, axis=2)[:, ::-1], axis=1)
    there = np.take_along_axis(known, last[:, None, None], 1)[:, 0]
    missing: NDArray[np.bool_] = np.any(np.any(known, axis=1) & ~there, axis=-1)
    return missing


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _words(value: Any) -> str:
    """`0.0003` for 0.00030000000000000003."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)
