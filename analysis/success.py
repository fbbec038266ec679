"""Reads only the success from a run file, for pages that look at thousands of files repeatedly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.run_reader import open_file, read_array
from mtrl.results import TASK_METRICS

SUCCESS = TASK_METRICS.index("success")


def read_success(path: Path) -> tuple[NDArray[np.float64], int]:
    """The success at each committed evaluation, mean over tasks, [committed], and the number of planned evaluations."""
    with open_file(path) as file:
        committed = int(
            read_array(file, "committed", "i8")
        )  # before the rows, so that those it counts are complete
        values = read_array(file, "per_task", "f4")
    return values[:committed, SUCCESS].mean(axis=1, dtype=np.float64), len(values)


def read_random_success(path: Path) -> float:
    """The success of the random policy, mean over tasks; NaN before it was measured."""
    with open_file(path) as file:
        return float(read_array(file, "random_policy", "f4")[SUCCESS].mean())
