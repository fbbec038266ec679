"""Gathering run files into one dataset, against loops of `xarray.open_dataset` and `xarray.open_mfdataset`.

    python benchmarks/bench_gather.py [--quick] [--json PATH]

Run it in an environment of its own with benchmarks/requirements.txt (netCDF4 and dask). Files are 200 evaluations x 6
metrics x 50 tasks, in the page cache. The peers stack `per_task` alone, which is less than we deliver. The memory
lines give the growth of a fresh process's peak over the bytes of the dataset.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import h5py
import numpy as np
import xarray as xr
from interleave import Case, run

from analysis.frames import open_sweep, save
from mtrl.overrides import build_config
from mtrl.results import read_index
from mtrl.run_writer import RunFileWriter

EVALUATIONS = 200
CHILD = """
import re, sys
from pathlib import Path
from analysis.frames import open_sweep
def peak():  # not ru_maxrss, which a child inherits
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
open_sweep(sys.argv[2])
before = peak()
dataset = open_sweep(sys.argv[1])
print((peak() - before) / sum(v.nbytes for v in dataset.variables.values()))
"""


def write_files(root: Path, number: int) -> None:
    """A sweep of `number` files that differ in width and seed."""
    first: bytes | None = None
    for place in range(number):
        width = 2 ** (4 + place % 5)
        config = build_config(
            "paper",
            {
                "env.tasks": "MT50",
                "network.actor.width": width,
                "network.critic.width": width,
                "train.seed": place // 5,
                "train.vector_steps": EVALUATIONS * 1000,
                "evaluate.every": 1000,
            },
        )
        path = root / "cells" / config.run_id / "run.h5"
        path.parent.mkdir(parents=True)
        if first is None:
            parameters = {"actor": 1, "critic": 2, "target": 2, "total": 3}
            names = [f"metric_{number}" for number in range(20)]
            RunFileWriter.create(
                path,
                config,
                run_metrics=names,
                parameters=parameters,
                code_version="bench",
                products="float32",
            ).close()
            with h5py.File(path, "r+") as file:
                file["per_task"][...] = np.random.default_rng(0).random(file["per_task"].shape)
                file["committed"][()] = EVALUATIONS
            first = path.read_bytes()
        path.write_bytes(first)
        with h5py.File(path, "r+") as file:
            file.attrs["config"] = config.model_dump_json()
            file.attrs["run_id"] = config.run_id
            file.attrs["index"] = json.dumps(read_index(file))


def loop(root: Path) -> None:
    """The usual loop: open, load, stack."""
    arrays = []
    for path in sorted(root.glob("cells/*/run.h5")):
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            arrays.append(dataset.per_task.load())
    xr.concat(arrays, "run")


def open_mfdataset(root: Path) -> None:
    paths = sorted(root.glob("cells/*/run.h5"))
    with xr.open_mfdataset(paths, combine="nested", concat_dim="run", engine="netcdf4") as dataset:
        dataset.per_task.load()


def memory(root: Path, small: Path) -> float:
    """Growth of the peak while gathering, over the bytes of the dataset."""
    child = [sys.executable, "-c", CHILD, str(root), str(small)]
    return float(subprocess.run(child, capture_output=True, text=True, check=True).stdout)


def cases(quick: bool) -> Iterator[Case]:
    for number in (100,) if quick else (100, 1_000, 5_000):
        with tempfile.TemporaryDirectory() as folder:
            root, small = Path(folder) / "sweep", Path(folder) / "small"
            write_files(root, number)
            write_files(small, 2)
            case, ours = f"{number} files", partial(open_sweep, root)
            assert open_sweep(root).run_id.size == number
            click.echo(f"{case}: peak memory over result {memory(root, small):.2f}")
            yield Case(case, "open_dataset(netcdf4) loop", ours, partial(loop, root))
            if number <= 100:  # minutes beyond
                yield Case(case, "open_mfdataset(nested)", ours, partial(open_mfdataset, root))
            # Old enough that an unchanged mtime is proof.
            for path in root.glob("cells/*/run.h5"):
                os.utime(path, ns=(10**18, 10**18))
            whole = Path(folder) / "whole"
            whole.mkdir()
            (whole / "cells").symlink_to(root / "cells")
            save(open_sweep(root), root / "dataset.nc")
            yield Case(f"{case}, gathered before", "first gather", ours, partial(open_sweep, whole))


if __name__ == "__main__":
    run(cases, runs=2, quick_runs=2)
