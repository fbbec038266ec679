"""CPU time of writing reports, on one thread. Takes a few minutes.

    python benchmarks/bench_report.py [--case NAME] [--repeats 3] [--json benchmarks/results/report.json]

paper        `mtrl-fit --paper`, from start to end
curves       a report over 150 runs of MT10 (5 widths, 30 seeds) with 100 evaluations: with its laws in parameters and
             env steps, whose intervals need no resamples, and 2,000 resamples behind each score
many_runs    a report over 3,000 runs with 20 evaluations: MT10, MT25 and MT50, 5 widths, 10 learning rates of the
             critic, 20 seeds

The last two read a kept dataset (`--keep`), so that gathering run files, which bench_gather.py times, is not in them.
As on a user's machine, Python has compiled the modules before. Beside each time stands that of a loop of 20 million
additions on the same machine, to compare machines by.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import xarray as xr

from analysis.frames import open_sweep, save
from analysis.gridding import to_runs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.analysis.reference_analysis import config_of, write_run

ROOT = Path(__file__).resolve().parent.parent

LIMITS = {"paper": 3.0, "curves": 10.0, "many_runs": 15.0}  # seconds
WIDTHS = (128, 256, 512, 1024, 2048)
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


def additions() -> float:
    """Seconds of CPU of 20 million additions."""
    start, total = time.process_time(), 0
    for number in range(20_000_000):
        total += number
    return time.process_time() - start


def cpu_seconds(words: list[str], compiled: Path) -> float:
    """Seconds of CPU, user and system, of a command on one thread; compiled modules are kept in a folder."""
    environment = os.environ | ONE_THREAD | {"PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def dataset(file: Path, benchmarks: tuple[str, ...], rates: int, seeds: int, evaluations: int) -> None:
    """A kept dataset: one run of each variant is written and read, the other seeds are drawn beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for benchmark in benchmarks:
            for width in WIDTHS:
                for rate in range(rates):
                    config = config_of(
                        benchmark, width, 0, agent__critic_lr=1e-4 * (rate + 3),
                        train__vector_steps=2_000_000, evaluate__every=2_000_000 // evaluations,
                        evaluate__episodes=50,
                    )  # fmt: skip
                    curve = success(width, rate, evaluations)
                    write_run(Path(folder) / "cells" / config.run_id / "run.h5", config, success=curve)
        first = to_runs(open_sweep(folder))
    generator = np.random.default_rng(0)
    copies = []
    for seed in range(seeds):
        own = generator.normal(0, 0.15, (first.sizes["run"], 1, 1)) + generator.normal(
            0, 0.1, first.success.shape
        )
        failure = (1 - first.success) * np.exp(own.astype(np.float32))
        copies.append(
            first.assign(success=(1 - failure).clip(0, 1)).assign_coords(
                seed=("run", np.full(first.sizes["run"], seed)),
                run_id=("run", [f"{name}-{seed}" for name in first.run_id.values]),
            )
        )
    save(
        xr.concat(copies, "run", data_vars="minimal", coords="minimal", compat="override", join="override"),
        file,
    )


def success(width: int, rate: int, evaluations: int) -> np.ndarray:
    """A law in parameters and env steps, a little worse the higher the learning rate."""
    steps = np.arange(1, evaluations + 1) * 2e7 / evaluations
    failure = 0.05 * (9 * width**2 / 1e6) ** -0.35 + 0.1 * (steps / 4e6) ** -0.7
    return np.asarray(1 - failure * (1 + 0.05 * rate) - 0.05).clip(0, 1)


def command(case: str, folder: Path) -> list[str]:
    """The command of a case; its dataset is made first."""
    words = [sys.executable, "analysis/fit_scaling_laws.py", "--out", str(folder / "report")]
    if case == "paper":
        return [*words, "--paper"]
    file = folder / f"{case}.nc"
    if case == "curves":
        dataset(file, ("MT10",), 1, 30, 100)
    else:
        dataset(file, ("MT10", "MT25", "MT50"), 10, 20, 20)
    return [*words, str(file)]


@click.command()
@click.option(
    "--case", "cases", multiple=True, type=click.Choice(list(LIMITS)), help="Only these.  [default: all]"
)
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(cases: tuple[str, ...], repeats: int, path: Path | None) -> None:
    rows = json.loads(path.read_text()) if path and path.exists() else {}
    for case in cases or LIMITS:
        with tempfile.TemporaryDirectory() as folder:
            words, compiled = command(case, Path(folder)), Path(folder) / "compiled"
            cpu_seconds(words, compiled)
            taken = [(additions(), cpu_seconds(words, compiled)) for _ in range(repeats)]
        loops, seconds = (list(column) for column in zip(*taken, strict=True))
        rows[case] = {
            "cpu_seconds": [round(value, 2) for value in seconds],
            "least": round(min(seconds), 2),  # other work on the machine only adds
            "additions_seconds": round(min(loops), 2),
            "limit": LIMITS[case],
        }
        click.echo(f"{case:10} {rows[case]}")
        if path:
            path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
