"""How near the estimates of `sweeps.cost` come to short real runs of every system.

    python benchmarks/bench_costs.py --json benchmarks/results/costs.json

Each run is a process of its own on one core, and its CPU time is what counts: the estimates are of one core without
neighbours. A row of the JSON is {"case", "settings", "estimated_s", "measured_s", "ratio", "update_ms",
"measure_ms"}; tests/sweeps/test_cost.py holds the estimates against these rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from mtrl.overrides import build_config
from mtrl.sizing import updates
from mtrl.systems import SYSTEMS
from sweeps.cost import estimate_cost

ONE, TWO = "drawer-close-v3", "drawer-close-v3+reach-v3"
SHORT: dict[str, Any] = {
    "evaluate.episodes": 1,
    "env.horizon": 100,
    "replay.capacity": 1_000,
    "replay.mode": "uniform",
    "run.env_workers": 0,
    "run.device": "cpu",
}


def case(tasks: str, updates: int, width: int | None = None, **more: Any) -> dict[str, Any]:
    steps = {"train.random_steps": 110, "train.vector_steps": 110 + updates, "evaluate.every": 110 + updates}
    widths = {} if width is None else {"network.actor.width": width, "network.critic.width": width}
    return SHORT | steps | widths | {"env.tasks": tasks} | {k.replace("__", "."): v for k, v in more.items()}


CASES: dict[str, dict[str, Any]] = {
    "mtmhsac width 32, 1 task": case(ONE, 600, 32),
    "mtmhsac width 128, 2 tasks": case(TWO, 300, 128),
    "mtmhsac width 400, MT10": case("MT10", 20),
    "mtmhsac width 1024, MT10": case("MT10", 8, 1024),
    **{f"{system}, MT10": case("MT10", 8, system=system) for system in SYSTEMS if system != "mtmhsac"},
    **{
        f"{system} width 32, 2 tasks": case(TWO, 100, 32, system=system)
        for system in SYSTEMS
        if system != "mtmhsac"
    },
    "long evaluation, 2 tasks": case(TWO, 20, 32, evaluate__episodes=10, env__horizon=200),
}


def measure(settings: dict[str, Any]) -> dict[str, float]:
    """Trains in this process, which must be a fresh one; CPU seconds of it all and of its parts."""
    time.perf_counter = time.process_time  # the clocks of the run file
    from mtrl.results import CLOCKS, read_run
    from mtrl.train import train

    with tempfile.TemporaryDirectory() as folder:
        train(build_config("paper", settings), Path(folder))
        total = time.process_time()
        clocks = read_run(Path(folder) / "run.h5").timing[-1].tolist()
    return {"total": total, **dict(zip(CLOCKS, clocks, strict=True))}


def row(name: str) -> dict[str, Any]:
    settings = CASES[name]
    words = [sys.executable, __file__, "--one", json.dumps(settings)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    config = build_config("paper", settings)
    estimated = estimate_cost(config, gpu=False).seconds
    return {
        "case": name,
        "settings": settings,
        "estimated_s": round(estimated, 2),
        "measured_s": round(measured["total"], 2),
        "ratio": round(measured["total"] / estimated, 3),
        "update_ms": round(1e3 * measured["update_seconds"] / updates(config), 2),
        "measure_ms": round(1e3 * measured["measure_seconds"], 1),
    }


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--one", hidden=True, help="Run these settings in this process.")
def main(path: Path | None, one: str | None) -> None:
    if one:
        click.echo(json.dumps(measure(json.loads(one))))
        return
    rows = []
    for name in CASES:
        rows.append(row(name))
        click.echo(
            "{case:32} estimated {estimated_s:7.1f} s, took {measured_s:7.1f} s: {ratio:.2f}".format(
                **rows[-1]
            )
        )
        if path:
            path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
