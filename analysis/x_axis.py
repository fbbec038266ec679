"""What figures have along x: parameters and env steps, or in place of both the FLOPs of the updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from analysis.compute_study import flops_per_env_step
from analysis.errors import SweepError
from analysis.models import Array
from analysis.variants import Variant, groups

Name = Literal["size", "compute"]
Pairs = Iterable[tuple[float, float]]  # parameters, FLOPs of a whole run


@dataclass(frozen=True)
class XAxis:
    """`sizes` has, by group, the parameters and the FLOPs of whole runs, both rising; it is empty for sizes."""

    sizes: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def compute(self) -> bool:
        return bool(self.sizes)

    @property
    def size_label(self) -> str:
        return "FLOPs of all updates" if self.compute else "parameters, actor + critics"

    @property
    def size_word(self) -> str:
        return "FLOPs" if self.compute else "parameters"

    @property
    def steps_label(self) -> str:
        return "FLOPs of updates" if self.compute else "env steps per task"

    def size(self, group: str, parameters: Array) -> Array:
        """Where so many parameters stand; between the sizes that were run, along a straight line in logarithms."""
        if not self.compute:
            return np.asarray(parameters)
        known, flops = self.sizes[group]
        return np.asarray(np.exp(np.interp(np.log(parameters), np.log(known), np.log(flops))))

    def per_step(self, variant: Variant) -> float:
        """What one env step per task adds."""
        return flops_per_env_step(variant) * variant.task_count if self.compute else 1.0


SIZE = XAxis()


def compute_axis(known: Mapping[str, Pairs]) -> XAxis:
    """The axis of compute, from parameters and FLOPs of whole runs by group."""
    sizes = {}
    for group, pairs in known.items():
        by_size: dict[float, list[float]] = {}
        for parameters, flops in pairs:
            by_size.setdefault(parameters, []).append(flops)
        rising = sorted(by_size)
        sizes[group] = np.array(rising), np.array([np.mean(by_size[size]) for size in rising])
    return XAxis(sizes)


def compute_of(found: Sequence[Variant]) -> dict[str, Pairs]:
    """Parameters and FLOPs of the variants' whole runs, by group. Raises SweepError where FLOPs are not known."""
    known: dict[str, Pairs] = {}
    for name, group in groups(found).items():
        for variant in group:
            if not flops_per_env_step(variant):
                raise SweepError(
                    f"--x-axis compute: the FLOPs of {name}, {variant.name} are not known, since its batch is not; "
                    "give its history a column batch_per_task"
                )
        known[name] = [
            (float(v.parameters["total"]), flops_per_env_step(v) * float(v.env_steps.max())) for v in group
        ]
    return known
