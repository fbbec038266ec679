"""The page of a sweep of 10,000 cells: seconds to write it the first time and when ten cells moved, its bytes, and how
long a browser takes to open it, to scroll through it and to sort it.

Run files are copies of a few real ones, of 20 evaluations of 10 to 50 tasks; eight of ten cells are over. Each case
runs in a process of its own, as `mtrl-sweep page` does, by the clock on the wall; run it on an idle machine. The
browser is headless Chromium without a GPU, where one is installed.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from slurm.state import cell_directory, write_done, write_json
from sweeps.grid import expand, load_grid, override
from sweeps.manifest import Entry, add_cells, open_sweep_folder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.analysis.reference_analysis import write_run
from tests.browser import INSTALLED, browser

ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    "network.actor.width+network.critic.width=16,32,64,128,256",
    "train.vector_steps=100000",
    "evaluate.every=5000",
)
SCROLL = """
window.frames_ms = []; let last = performance.now(); const step = document.body.scrollHeight / 200;
function frame(now) { frames_ms.push(now - last); last = now; scrollBy(0, step);
  if (frames_ms.length < 200) requestAnimationFrame(frame); }
requestAnimationFrame(frame);"""
SORT = """
const start = performance.now(); document.querySelectorAll(".head th button")[6].click();
document.body.getBoundingClientRect(); return performance.now() - start;"""
CURVE = [0.3 * (1 - 0.85**number) for number in range(1, 21)]


def make_sweep(sweep: Path, count: int) -> list[Entry]:
    """Eight of ten cells over, one of ten at work, the others missing."""
    open_sweep_folder(sweep)
    entries = add_cells(
        sweep, expand(override(load_grid("scaling"), [*WORDS, f"train.seed=range({count // 15})"]))
    )
    templates: dict[tuple[int, bool], Path] = {}
    for number, entry in enumerate(entries):
        share = number / len(entries)
        if share > 0.9:
            break
        directory = cell_directory(sweep, entry.run_id)
        directory.mkdir(parents=True)
        over = share < 0.8
        key = len(entry.config["env"]["tasks"]), over
        if key not in templates:
            curve = CURVE if over else CURVE[:7]
            templates[key] = write_run(sweep / f"{key}.h5", entry.cell.config, success=curve, layers=3)
        shutil.copyfile(templates[key], directory / "run.h5")
        if over:
            write_done(directory, entry.run_id, "done", seconds=600.0, attempts=1, job=None)
        else:
            beat(sweep, entry, number)
    return entries


def beat(sweep: Path, entry: Entry, number: int) -> None:
    facts = {"run_id": entry.run_id, "host": f"node{number % 17}", "pid": 1, "state": "running", "vector_step": 35_000,
             "vector_steps": 100_000, "started": time.time() - 3000, "time": time.time()}  # fmt: skip
    write_json(cell_directory(sweep, entry.run_id) / "heartbeat.json", facts)


def move(sweep: Path, entries: list[Entry]) -> None:
    """Ten cells at work evaluate once more."""
    working = [
        entry for entry in entries if (cell_directory(sweep, entry.run_id) / "heartbeat.json").exists()
    ]
    for number, entry in enumerate(working[:10]):
        (cell_directory(sweep, entry.run_id) / "run.h5").touch()
        beat(sweep, entry, number)


def seconds_to_write(sweep: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "sweeps/launch.py"), "page", str(sweep)], check=True, capture_output=True
    )
    return time.perf_counter() - start


def in_a_browser(page: Path, profile: Path) -> dict[str, float]:
    """Milliseconds: until the page is there, between two frames of a scroll from end to end, and to sort the table."""
    with browser(profile) as window:
        start = time.perf_counter()
        window.open(page.as_uri())
        opened = 1000 * (time.perf_counter() - start)
        window.run(SCROLL)
        while len(frames := window.run("return window.frames_ms")) < 200:
            time.sleep(0.2)
        frames = sorted(frames[1:])
        return {"opened_ms": opened, "frame_median_ms": statistics.median(frames), "frame_p95_ms": frames[188],
                "frame_longest_ms": frames[-1], "sort_ms": window.run(SORT)}  # fmt: skip


@click.command()
@click.option("--cells", default=10_000)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the result to this file.")
def main(cells: int, path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        sweep = Path(place) / "sweep"
        entries = make_sweep(sweep, cells)
        first, again = [], []
        for _ in range(3):
            shutil.rmtree(sweep / "page", ignore_errors=True)
            first.append(seconds_to_write(sweep))
            move(sweep, entries)
            again.append(seconds_to_write(sweep))
        page = sweep / "page" / "index.html"
        size = page.stat().st_size
        seen = in_a_browser(page, Path(place) / "profile") if INSTALLED else {}
    found = {
        "cells": len(entries),
        "first_seconds": first,
        "again_seconds": again,
        "bytes": size,
        "browser": seen,
    }
    click.echo(
        f"{len(entries):,} cells: first {statistics.median(first):.2f} s, again {statistics.median(again):.2f} s, "
        f"{size / 1e6:.2f} MB; in a browser "
        + ", ".join(f"{name} {value:.0f}" for name, value in seen.items())
    )
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
