"""What measuring plasticity costs: the clocks of short real runs, put to the interval between two evaluations.

    OMP_NUM_THREADS=1 python benchmarks/bench_plasticity.py --json benchmarks/results/plasticity.json

A row of the JSON is {"case", "interval", "step_ms", "measure_ms", "share"}: vector steps between evaluations, time of a
vector step with its update, of one measurement, and the measurement's share of both. The time of the evaluation itself
is left out, so that the share of a whole run is smaller.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from mtrl.overrides import build_config
from mtrl.results import CLOCKS, read_run
from mtrl.train import train

# Random steps, those until the first evaluation that measures (a warm-up), and the steps that are timed.
SHORT = {"train.random_steps": 150, "evaluate.every": 200, "evaluate.episodes": 1, "env.horizon": 20}
CASES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "debug": (1_000, "debug", {}),
    "MT10, width 256": (5_000, "paper", SHORT | {"train.vector_steps": 300}),
    "MT50, width 256": (5_000, "paper", SHORT | {"train.vector_steps": 220, "env.tasks": "MT50"}),
    "MT10, width 1024": (5_000, "paper", SHORT | {"train.vector_steps": 220}),
}


def timed(case: str) -> dict[str, Any]:
    interval, preset, settings = CASES[case]
    if "width" in case:
        width = int(case.split()[-1])
        settings = settings | {"network.actor.width": width, "network.critic.width": width}
    config = build_config(preset, {"run.device": "cpu"} | settings)
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder))
        run = read_run(Path(folder) / "run.h5")
    steps = np.diff(run.env_steps[-2:]).item() / len(run.tasks)
    spent = dict(zip(CLOCKS, np.diff(run.timing[-2:], axis=0)[0].tolist(), strict=True))
    step, measure = (spent["env_seconds"] + spent["update_seconds"]) / steps, spent["measure_seconds"]
    return {
        "case": case,
        "interval": interval,
        "step_ms": 1e3 * step,
        "measure_ms": 1e3 * measure,
        "share": measure / (interval * step + measure),
    }


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows to this file.")
def main(path: Path | None) -> None:
    rows = []
    for case in CASES:
        row = timed(case)
        rows.append(row)
        click.echo(
            f"{case:20} step {row['step_ms']:8.2f} ms   measurement {row['measure_ms']:9.1f} ms   "
            f"every {row['interval']:,} steps: {row['share']:.2%}"
        )
    if path:
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
