"""Cells and jobs that fail on a real Slurm: memory, exceptions, full disks, broken setups; and their retries."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.slurm_cluster import ROOT, STEPS, Make, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


def test_out_of_memory_gets_more_memory(make: Make, tmp_path: Path) -> None:
    """The job holds 2.9 GB more than anybody planned for: 2,080 MB is too little, and 3,120; 4,680 are enough, with the
    CPU's torch (its two processes take .5 GB) and with CUDA's (up to 1.5 GB).

    Slurm looks every second, so the memory is there some seconds before the job may end."""
    ready = f"{tmp_path}/held-$SLURM_JOB_ID"
    code = 'import sys, time; held = b"x" * 2_900_000_000; open(sys.argv[1], "w").close(); time.sleep(90)'
    hog = f"{sys.executable} -c '{code}' {ready} &"
    profile = {"memory_mb": 130, "setup": [hog, f"while ! test -e {ready}; do sleep 0.2; done; sleep 3"]}
    sweep = make(steps=STEPS, profile=profile)
    asked: list[int] = []
    while not (asked and sweep.states() == ["done"]) and len(asked) < 4:
        assert (sweep.retry() if asked else sweep.launch())["submitted"] == 1
        record = max((sweep.place / "slurm").glob("*.json"))
        asked.append(json.loads(record.read_text())["memory_mb"])
        wait_until(lambda: not {"pending", "running"} & set(sweep.states()), every=0.5, what=sweep.output)
    assert asked == [2080, 3120, 4680]


def test_an_exception_is_tried_once_more_and_then_shown(make: Make) -> None:
    sweep = make(cells=2)
    rows = json.loads(sweep.answer("plan", f"grid={sweep.folder}/tiny.toml", "--json"))["cells"]
    broken = sweep.place / "cells" / rows[0]["run_id"]
    (broken / "run.h5").mkdir(parents=True)
    sweep.launch()
    sweep.wait_for("failed", "done")
    assert sweep.retry()["submitted"] == 1
    sweep.wait_for("failed", "done")
    answer = sweep.retry()
    assert answer["submitted"] == 0
    assert "directory" in answer["given_up"][broken.name].lower()
    row = next(row for row in sweep.status() if row["run_id"] == broken.name)
    assert (row["state"], "Traceback" in row["traceback"]) == ("failed", True)
    assert "Is a directory" in sweep.command("tail", "tiny", broken.name[:6])
    (broken / "run.h5").rmdir()
    launched = sweep.launch()
    assert launched["submitted"] == 1, f"a launch by hand is another try: {launched}"
    sweep.wait_until_done()


QUICK = """
import sweeps.watch
sweeps.watch.WATCH_SECONDS = sweeps.watch.RETRY_SECONDS = 2
from sweeps.launch import main
main()
"""


def test_a_launch_that_waits_tries_a_failing_cell_again_and_ends_with_exit_code_1(make: Make) -> None:
    sweep = make(cells=2)
    rows = json.loads(sweep.answer("plan", f"grid={sweep.folder}/tiny.toml", "--json"))["cells"]
    broken = sweep.place / "cells" / rows[0]["run_id"]
    (broken / "run.h5").mkdir(parents=True)
    words = [*sweep.launch_words()[:-1], "--wait", "--runs", f"{sweep.folder}/runs"]

    def wait() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", QUICK, *words], env=sweep.cluster.environment, cwd=ROOT,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    ended = wait()
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"failed: seed 0 ({broken.name}): " in ended.stderr
    assert "1 of 2 cells are over." in ended.stderr
    assert json.loads((broken / "heartbeat.json").read_text())["attempt"] == 2, "by cause: once more"
    (broken / "run.h5").rmdir()
    ended = wait()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 of 2 cells are over." in ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Puts a file system of its own, of that size, at a folder; again with another size, it grows."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        again = ["remount"] if folder in mounted else []
        words = ["mount", "-t", "tmpfs", "-o", ",".join([*again, f"size={size}"]), "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_fails_the_cell_and_the_next_launch_goes_on(
    make: Make, small_disk: Callable[[Path, str], None]
) -> None:
    sweep = make(steps=200)
    small_disk(sweep.place / "cells", "24k")
    sweep.launch()
    wait_until(lambda: sweep.states()[0] in ("failed", "stopped"), every=0.5, what=sweep.output)
    row = sweep.rows()[0]
    assert "space left" in row["reason"] or "FAILED" in row["reason"], row
    assert not (sweep.directory() / "DONE.json").exists()
    small_disk(sweep.place / "cells", "100m")
    assert sweep.launch()["submitted"] == 1
    wait_until(lambda: sweep.states() == ["done"], what=sweep.output)


def test_a_write_that_fails_fails_the_cell(make: Make) -> None:
    """A limit on the size of files does to a write what a quota does."""
    sweep = make(steps=200, profile={"setup": ["ulimit -f 8"]})
    sweep.launch()
    wait_until(lambda: sweep.states()[0] in ("failed", "stopped"), every=0.5, what=sweep.output)
    profile = sweep.folder / "test.toml"
    profile.write_text(profile.read_text().replace("ulimit -f 8", "true"))
    sweep.launch()
    wait_until(lambda: sweep.states() == ["done"], what=sweep.output)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"setup": ["module load nothing-like-this"]}, "module: command not found"),
        ({"python": "/nowhere/bin/python"}, "/nowhere/bin/python: "),
    ],
)
def test_the_cause_of_a_job_that_fails_before_its_cell_begins_is_shown(
    make: Make, settings: dict[str, Any], words: str
) -> None:
    sweep = make(profile=settings)
    sweep.launch()
    wait_until(lambda: "FAILED" in sweep.rows()[0]["reason"], what=sweep.output)
    output = str(next((sweep.place / "slurm").glob("*.out")))
    for command in ("status", "tail"):
        said = sweep.command(command, "tiny")
        assert words in said
        assert output in said
