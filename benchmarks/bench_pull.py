"""Jobs that pull against jobs with fixed lists: cells of unequal length on a real Slurm (slurm/mini), beside the ideal.

    python benchmarks/bench_pull.py --cells 150 --slots 8 --json benchmarks/results/pull.json

The cells sleep instead of training, each as long as its steps say, so that slots do not compete for this machine's
cores. The ideal is the sum of the sleeps over the slots; all else (Slurm, Python, imports, forks) counts against it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

from mtrl.overrides import build_config
from slurm.limits import read_limits
from slurm.mini.cluster import MiniSlurm
from slurm.profiles import Profile
from slurm.records import Task
from slurm.submit import CellRequest, plan_arrays, submit

SLEEPER = """
import sys, time, types
def train(config, directory, *, stop, report):
    time.sleep(config.train.vector_steps / 1000)
    (directory / "run.h5").write_bytes(b"x")
    return "done"
module = types.ModuleType("mtrl.train")
module.train = train
sys.modules["mtrl.train"] = module
"""


def write_cells(sweep: Path, seconds: list[float]) -> list[CellRequest]:
    """A manifest of cells that sleep so long."""
    (sweep / "cells").mkdir(parents=True)
    debug = build_config("debug")
    requests = []
    with (sweep / "manifest.jsonl").open("wb") as file:
        for number, one in enumerate(seconds):
            sleep = {"vector_steps": round(1000 * one), "seed": number}
            config = debug.model_copy(update={"train": debug.train.model_copy(update=sleep)})
            task = Task(config.run_id, file.tell())
            line = {"run_id": config.run_id, "config": config.model_dump(mode="json")}
            file.write(json.dumps(line).encode() + b"\n")
            requests.append(CellRequest(task, 500, seconds=one))
    return requests


def seconds_of(sweep: Path, seconds: list[float], profile: Profile) -> float:
    """From the submission to the end of the last cell."""
    requests = write_cells(sweep, seconds)
    start = time.time()
    done = submit(sweep, plan_arrays(requests, profile, read_limits()), lambda record: None)
    assert not done.left_over, done.refusal
    while len(markers := list(sweep.glob("cells/*/DONE.json"))) < len(seconds):
        time.sleep(0.2)
    return max(path.stat().st_mtime for path in markers) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=150)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--mean-seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="Write the result to this file.")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    seconds = [generator.lognormvariate(0, 1) for _ in range(options.cells)]
    seconds = [one * options.mean_seconds * options.cells / sum(seconds) for one in seconds]
    ideal = max(sum(seconds) / options.slots, *seconds)
    with tempfile.TemporaryDirectory(prefix="mtrl-pull-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        (Path(place) / "sitecustomize.py").write_text(SLEEPER)
        cluster = MiniSlurm(Path(place) / "cluster", nodes=1, cpus=options.slots, gpus=0)
        os.environ.update(cluster.environment)
        cluster.start()
        try:
            took = {}
            for name, settings in (("pull", {"pull": True}), ("fixed lists", {"cells_per_job": 1})):
                profile = Profile.model_validate(
                    {"name": "bench", "memory_mb": 500, "max_running": options.slots,
                     "setup": [f"export PYTHONPATH={place}"], **settings}
                )  # fmt: skip
                took[name] = seconds_of(Path(place) / name.replace(" ", "-"), seconds, profile)
        finally:
            cluster.stop()
    row = {"cells": options.cells, "slots": options.slots, "mean_seconds": options.mean_seconds}
    row |= {"ideal_s": round(ideal, 1), **{f"{name}_s": round(one, 1) for name, one in took.items()}}
    print(json.dumps(row), f"pull: {took['pull'] / ideal:.3f} of the ideal", sep="\n")
    if options.json:
        options.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
