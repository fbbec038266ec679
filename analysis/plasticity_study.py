"""The plasticity of a sweep's variants: curves, dormancy by width and tasks, and whether tasks or batch explain it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis import figures
from analysis.figures import Series
from analysis.report import Drawing, Table, Text
from analysis.statistics import Slope, least_squares
from analysis.variants import Variant, groups, short_name
from analysis.x_axis import SIZE, XAxis
from mtrl.results import NETWORKS, OWN

Array = NDArray[np.float64]
Items = list[Text | Table | Drawing]

CURVES = {
    "dormant_critic": "dormant neurons, critic",
    "dormant_actor": "dormant neurons, actor",
    "dormant_critic_fixed": "dormant neurons, critic, fixed batch",
    "dormant_actor_fixed": "dormant neurons, actor, fixed batch",
    "srank_critic": "effective rank, critic",
    "srank_critic_fixed": "effective rank, critic, fixed batch",
    "critic_weight_norm": "weight norm, critics",
    "actor_weight_norm": "weight norm, actor",
    "critic_gradient_norm": "gradient norm, critics",
    "critic_effective_lr": "update / weight norm, critics",
    "cosine_critic_fixed": "cosine of tasks' gradients, critics",
}
FIXED = {"": "", "_fixed": " on the fixed batch"}  # the end of a metric's name: its words
DOUBLING = {"width": "width", "tasks": "tasks", "batch": "total batch"}


def section(found: Sequence[Variant], x: XAxis = SIZE) -> tuple[Items, list[str], list[str]]:
    """Tables and figures, sentences on what they show, and sentences on what they do not show."""
    if not any("dormant_critic" in variant.metrics for variant in found):
        return [], [], []
    items: Items = [*_curves(found, x), *_by_width(found), *_maps(found)]
    yes: list[str] = []
    no: list[str] = []
    for suffix in FIXED:
        table, shown, open_ = _what_explains(found, suffix)
        items, yes, no = items + table, yes + shown, no + open_
    return items, yes, list(dict.fromkeys(no))


def own_metrics(found: Sequence[Variant], x: XAxis = SIZE) -> list[Drawing]:
    """A figure of the metrics of `run.metrics` over training, with a panel for each."""
    names = {name for variant in found for name in variant.metrics if name.startswith(OWN)}
    benchmark, panels = curve_panels(found, {name: name.removeprefix(OWN) for name in sorted(names)}, x)
    if not panels:
        return []
    caption = (
        f"{short_name(benchmark)}: mean over runs, in a band that spans them (two runs: thin lines), against "
        f"{x.steps_label}. "
        "What each number is, the function that run.metrics names says."
    )
    return [
        Drawing(
            "own_metrics", "Your own metrics over training", caption, figures.measures(panels, x.steps_label)
        )
    ]


def measured(variant: Variant, name: str) -> Array | None:
    """The metric [runs, evaluations] of that name, or the mean of its layers (`<name>_1`, `<name>_2`, ...)."""
    if name in variant.metrics:
        return variant.metrics[name]
    layers = [
        values for key, values in sorted(variant.metrics.items()) if key.removeprefix(f"{name}_").isdigit()
    ]
    return np.mean(layers, axis=0) if layers else None


def at_the_end(variant: Variant, name: str) -> Array:
    """The last known value of the metric in each finished run, [runs that have one]."""
    values = measured(variant, name)
    if values is None:
        return np.empty(0)
    ends = [row[np.isfinite(row)][-1:] for row in values[variant.finished]]
    return np.concatenate(ends) if ends else np.empty(0)


def curve_panels(
    found: Sequence[Variant], titles: Mapping[str, str], x: XAxis
) -> tuple[str, dict[str, list[Series]]]:
    """The benchmark with most variants, and {title: a line per variant of it} for each metric of `titles`.

    `titles` is {metric: title}.
    """
    most = max(
        {variant.benchmark for variant in found},
        key=lambda name: sum(variant.benchmark == name for variant in found),
    )
    group = sorted(
        (variant for variant in found if variant.benchmark == most),
        key=lambda variant: variant.parameters["total"],
    )
    panels: dict[str, list[Series]] = {}
    for name, title in titles.items():
        for variant in group:
            values = measured(variant, name)
            if values is None or not np.isfinite(values).any():
                continue
            known = np.isfinite(values).any(0) & (variant.env_steps >= 0)
            steps = variant.env_steps[known] / variant.task_count * x.per_step(variant)
            label = f"{variant.name}  (n = {len(values)})"
            panels.setdefault(title, []).append(_over_steps(label, steps, values[:, known]))
    return most, panels


def _over_steps(label: str, steps: Array, values: Array) -> Series:
    """The mean over runs of values [runs, n], in a band that spans them from three runs on."""
    mean = np.nanmean(values, axis=0)
    if len(values) < figures.BAND_FROM:
        return Series(label, steps, mean, runs=values if len(values) > 1 else None)
    return Series(label, steps, mean, np.nanmin(values, axis=0), np.nanmax(values, axis=0))


def _curves(found: Sequence[Variant], x: XAxis) -> list[Drawing]:
    """A figure with a panel per metric: for the benchmark with most variants, each variant's mean over its runs."""
    benchmark, panels = curve_panels(found, CURVES, x)
    if not panels:
        return []
    caption = (
        f"{short_name(benchmark)}: mean over runs, in a band that spans them (two runs: thin lines), against "
        f"{x.steps_label}. "
        "Lighter is larger. Effective rank is the mean over layers, the cosine that over pairs of tasks. The fixed "
        "batch stays the same over a run, the other is that of the latest update."
    )
    return [
        Drawing(
            "plasticity_curves", "Plasticity over training", caption, figures.measures(panels, x.steps_label)
        )
    ]


def _by_width(found: Sequence[Variant]) -> list[Drawing]:
    panels: dict[str, list[Series]] = {}
    for (suffix, words), part in itertools.product(FIXED.items(), NETWORKS[::-1]):
        for group in groups(found).values():
            ends = [
                (getattr(variant, f"{part}_width"), at_the_end(variant, f"dormant_{part}{suffix}"))
                for variant in group
            ]
            widths = sorted({width for width, values in ends if len(values)})
            if not widths:
                continue
            by_width = [np.concatenate([values for width, values in ends if width == w]) for w in widths]
            mean, low, high = (
                np.array([f(values) for values in by_width]) for f in (np.mean, np.min, np.max)
            )
            label = f"{group[0].group}  (n = {sum(map(len, by_width))})"
            series = Series(label, np.array(widths), mean, low, high)
            if max(map(len, by_width)) < figures.BAND_FROM:
                series = Series(label, np.array(widths), mean, runs=np.stack([low, high]))
            panels.setdefault(f"dormant neurons of the {part}{words}", []).append(series)
    if not panels:
        return []
    caption = (
        "Share of hidden neurons dormant at the last evaluation: mean over runs, in a band that spans them (of two "
        "runs a width: thin lines)."
    )
    return [Drawing("dormant", "Dormant neurons", caption, figures.lines(panels, x="width", y="dormant"))]


def _maps(found: Sequence[Variant]) -> list[Drawing]:
    """A figure of success and dormancy over tasks and width, if both vary."""
    variants = [v for v in found if v.width]
    tasks, widths = sorted({c.task_count for c in variants}), sorted({c.critic_width for c in variants})
    if len(tasks) < 2 or len(widths) < 2 or len({variant.system for variant in variants}) > 1:
        return []
    success, dormant = np.full((2, len(tasks), len(widths)), np.nan)
    for row, count in enumerate(tasks):
        for column, width in enumerate(widths):
            here = [c for c in variants if (c.task_count, c.critic_width) == (count, width)]
            if here:
                success[row, column] = np.mean(np.concatenate([c.scores.mean(-1) for c in here]))
                ends = np.concatenate([at_the_end(c, "dormant_critic") for c in here])
                dormant[row, column] = ends.mean() if len(ends) else np.nan
    drawing = figures.maps({"success": success, "dormant neurons of the critic": dormant}, tasks, widths)
    fewest = min(len(variant.seeds) for variant in variants)
    caption = f"Means over runs at the last evaluation, at least n = {fewest} per field."
    return [Drawing("tasks_by_width", "Tasks and width", caption, drawing)]


def _what_explains(found: Sequence[Variant], suffix: str) -> tuple[Items, list[str], list[str]]:
    """A regression of the critic's dormancy on width, tasks and total batch: a table, and sentences as in `section`.

    If the batch grows with the tasks, the two cannot be told apart, and a sentence says so.
    """
    rows = [(variant, value) for variant in found for value in at_the_end(variant, f"dormant_critic{suffix}")]
    design = {
        "width": np.array([variant.critic_width for variant, _ in rows]),
        "tasks": np.array([variant.task_count for variant, _ in rows]),
        "batch": np.array([variant.batch for variant, _ in rows]),
    }
    if not rows:
        return [], [], []
    varying = [name for name, values in design.items() if len(np.unique(values)) > 1 and values.min() > 0]
    if not varying or len(rows) < len(varying) + 4 or len({variant.system for variant in found}) > 1:
        return [], [], []
    confounded = {"tasks", "batch"} <= set(varying) and _collinear(design, varying)
    if confounded:
        varying.remove("batch")
    neurons = np.array([3 * variant.critic_width for variant, _ in rows])
    share = (np.array([value for _, value in rows]).clip(0, 1) * neurons + 0.5) / (neurons + 1)
    response = np.log2(share / (1 - share))
    x = np.stack([np.log2(design[name]) for name in varying], axis=-1)
    slopes = least_squares(x, response)
    names = [DOUBLING[name] + (" (and batch)" if confounded and name == "tasks" else "") for name in varying]
    caption = (
        f"By how much the odds that a neuron of the critic is dormant{FIXED[suffix]} change when one quantity "
        f"doubles and the others stay: least squares on logits over n = {len(rows)} runs."
    )
    lines = [[name, _factor(slope)[0], _factor(slope)[1]] for name, slope in zip(names, slopes, strict=True)]
    items: Items = [Table(caption, ["doubled", "odds times", "95% interval"], lines)]
    yes: list[str] = []
    no: list[str] = []
    for name, slope in zip(names, slopes, strict=True):
        estimate, interval = _factor(slope)
        doubled = f"doubling the {name} changes their odds {estimate}-fold ({interval})"
        line = f"Dormant neurons of the critic{FIXED[suffix]}: {doubled}"
        (yes if slope.low > 0 or slope.high < 0 else no).append(
            line + ("." if slope.low > 0 or slope.high < 0 else ", which may be no change.")
        )
    if confounded:
        no.append(
            "Whether more tasks or larger batches keep neurons alive: the batch grows with the tasks here; "
            "grid=task_batch takes them apart."
        )
    return items, yes, no


def _collinear(design: dict[str, Array], names: Sequence[str]) -> bool:
    x = np.stack([np.ones(len(design["width"])), *(np.log(design[name]) for name in names)], axis=-1)
    return bool(np.linalg.matrix_rank(x) < x.shape[1])


def _factor(slope: Slope) -> tuple[str, str]:
    return f"{2**slope.estimate:.2f}", f"{2**slope.low:.2f} – {2**slope.high:.2f}"
