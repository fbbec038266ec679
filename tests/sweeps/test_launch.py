"""The command as a user types it: real cells, tiny, on the executors of one machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mtrl import _core
from slurm.state import cell_directory, write_done
from slurm.worker import CellJob, Heartbeat
from sweeps.grid import expand, grid_names, load_grid, override
from sweeps.launch import main
from sweeps.manifest import add_cells, open_sweep_folder, read_manifest
from sweeps.question import confirm
from sweeps.watch import WATCH_SECONDS

ROOT = Path(__file__).resolve().parents[2]
GRID = """
preset = "debug"
[fixed]
"env.horizon" = 20
"env.goals_per_task" = 1
"agent.batch_per_task" = 8
"network.actor.width" = 8
"network.critic.width" = 8
"train.vector_steps" = 60
"train.random_steps" = 30
"evaluate.every" = 30
"evaluate.episodes" = 1
"run.device" = "cpu"
[axes]
"train.seed" = [0, 1, 2]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(GRID)
    return path


def command(*words: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "sweeps/launch.py"), *map(str, words)]


def sweep(*words: str | Path, code: int = 0) -> str:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def cells(folder: Path) -> list[Path]:
    return [folder / "cells" / entry.run_id for entry in read_manifest(folder)]


def test_a_failed_cell_is_named_with_its_log(grid: Path, tmp_path: Path) -> None:
    words = (f"grid={grid}", "train.seed=0,1", "executor=inline", "--runs", tmp_path)
    rows = json.loads(sweep("plan", *words, "--json"))["cells"]
    broken = tmp_path / "tiny/cells" / rows[1]["run_id"]
    (broken / "run.h5").mkdir(parents=True)  # stands in the run file's way
    output = sweep(*words, code=1)
    assert f"failed: seed 1 ({broken.name}): IsADirectoryError" in output
    assert f"log: {broken / 'log.txt'}" in output
    assert "1 of 2 cells are over. The same command runs the others." in output
    assert "Traceback" in (broken / "log.txt").read_text()
    well = (broken.parent / rows[0]["run_id"] / "log.txt").read_text()
    assert re.search(r" step (\d+) of \1: success [01]\.\d{3}\n", well)
    said = json.loads(sweep("tail", "tiny", broken.name[:5], "--json", "--runs", tmp_path))
    assert (said["run_id"], "Traceback (most recent call last):" in said["lines"]) == (broken.name, True)
    stands = "failed on"
    assert said["stands"].startswith(stands)
    assert [row["state"] for row in json.loads(sweep("plan", *words, "--json"))["cells"]] == [
        "done",
        "failed",
    ]


def test_ctrl_c_ends_cells_with_a_checkpoint_and_the_next_launch_goes_on(grid: Path, tmp_path: Path) -> None:
    words = (f"grid={grid}", "train.vector_steps=100000", "evaluate.every=100000", "--runs", tmp_path)
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)  # fmt: skip
    tiny = tmp_path / "tiny"
    wait_until(lambda: any(step_of(cell) > 40 for cell in cells(tiny)))
    os.killpg(
        process.pid, signal.SIGINT
    )  # what a terminal does: launcher, controllers and workers all get it
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "The same command runs the others" in output
    assert "Traceback" not in output
    at_work = [cell for cell in cells(tiny) if step_of(cell) > 0]
    assert at_work
    for cell in at_work:
        assert list((cell / "checkpoint").glob("[0-9]*/checksums.json"))
        assert json.loads((cell / "heartbeat.json").read_text())["state"] == "stopped"
    assert "stopped" in sweep("plan", *words)


def test_what_was_cancelled_is_named_with_the_way_back(grid: Path, tmp_path: Path) -> None:
    words = (f"grid={grid}", "train.seed=0", "executor=inline", "--runs", tmp_path)
    add_cells_of(grid, tmp_path / "tiny")
    assert "3 cells cancelled" in sweep("cancel", "tiny", "--runs", tmp_path)
    output = sweep(*words, code=1)
    assert (
        f"1 cells are cancelled and were left out. To run them all the same: mtrl-sweep retry {tmp_path / 'tiny'}"
        in output
    )
    assert "over" in sweep("retry", "tiny", "--cancelled", "--runs", tmp_path)
    assert "All 1 cells are over" in sweep(*words)


def add_cells_of(grid: Path, folder: Path) -> None:
    open_sweep_folder(folder)
    add_cells(folder, expand(load_grid(str(grid))))


def test_every_grid_is_listed_with_its_question_its_cells_and_its_cost() -> None:
    listed = sweep("grids")
    facts = json.loads(sweep("grids", "--json"))
    assert [fact["name"] for fact in facts] == grid_names()
    for fact in facts:
        assert f"{fact['name']}: {fact['cells']} cells, about " in listed
        assert fact["about"] in listed
    smoke = next(fact for fact in facts if fact["name"] == "smoke")
    plan = json.loads(sweep("plan", "grid=smoke", "--runs", "/nowhere", "--json"))
    assert (smoke["cells"], smoke["core_hours"]) == (8, pytest.approx(plan["hours"][1]))


def test_a_dry_run_in_a_pipe_keeps_every_column(grid: Path, tmp_path: Path) -> None:
    head, *rows = sweep(f"grid={grid}", "--dry-run", "--runs", tmp_path).splitlines()[:4]
    assert head.split() == ["run", "id", "cell", "actor", "critics", "total", "time", "state"]
    assert all(row.endswith("missing") for row in rows)


def step_of(cell: Path) -> int:
    try:
        return json.loads((cell / "heartbeat.json").read_text())["vector_step"] or 0
    except OSError:
        return 0


def wait_until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid=smok"], "no grid 'smok'; did you mean 'smoke'"),
        (["smoke"], "did you mean 'grid=smoke'"),
        (["grid=smoke", "executor=lokal"], "did you mean 'local'"),
        (["grid=smoke", "network.actor.widht=1"], "did you mean 'width'"),
        (["grid=smoke", "network.actor.width=0"], "network.actor.width = 0"),
        (["grid=smoke", "env.tasks=reach-v2"], "did you mean 'reach-v3'"),
        (["grid=smoke", "profile=labb"], "no profile 'labb'"),
        (["grid=smoke", "--name", "../x"], "is no name of a folder"),
        (["grid=smoke", "--name", "a\nb"], "is no name of a folder"),
        (["grid=smoke", "--name", "a" * 300], "--name is 300 characters long; write one of at most 200"),
        (["plan", "grid=smoke", "--name", "a" * 300], "--name is 300 characters long"),
        (["status", "a" * 300], "File name too long"),
        (["gather", "a" * 300], "File name too long"),
        (
            ["grid=smoke", "train.seed=range(100000)"],
            "'smoke' has 800,000 cells. Nobody is here to ask: say --yes",
        ),
        (["grid=smoke", "--then", "gather,fitt"], "and 'fitt' is none; did you mean 'fit'?"),
        (["doctor", "mini"], "write profile=NAME"),
        (["grid=smoke", "--runs", "/proc/runs"], "cannot write to /proc/runs/smoke"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], message: str) -> None:
    output = sweep(*words, code=1)
    assert message in output
    assert len(output.strip().splitlines()) == 1


def test_a_disk_too_small_is_refused_before_work_begins(tmp_path: Path) -> None:
    output = sweep(
        "grid=scaling",
        "network.actor.width+network.critic.width=65536",
        "executor=local",
        "--yes",
        "--runs",
        tmp_path,
        code=1,
    )
    assert "make room" in output
    assert not any((tmp_path / "scaling/cells").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--max-gpu-hours", "5"],
            "GPU hours are more than --max-gpu-hours 5; take a smaller grid or raise the cap",
        ),
        ([], "say --yes to launch so much without being asked"),
    ],
)
def test_much_is_refused_or_asked_about(words: list[str], message: str, tmp_path: Path) -> None:
    words = [*words, "--without-kernels"]
    assert message in sweep("grid=scaling", "profile=example", "--runs", tmp_path, *words, code=1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["executor=local"], ["executor=inline"]])
def test_much_is_asked_about_wherever_it_runs(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # a machine without Slurm
    launched = CliRunner().invoke(main, ["launch", "grid=scaling", "--runs", str(tmp_path), *words])
    assert launched.exit_code == 1
    assert re.search(r"takes about [\d,]+ core hours on this machine\. .*say --yes", launched.output)
    assert not any(tmp_path.iterdir())


def test_who_answers_the_question_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    answers = iter(["n", "y"])
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: next(answers))
    with pytest.raises(click.Abort):
        confirm("This takes long.", yes=False)
    confirm("This takes long.", yes=False)
    confirm("This takes long.", yes=True)
    assert next(answers, None) is None, "asked twice, and not where --yes is given"


@pytest.mark.parametrize(
    ("build", "more", "refused"),
    [
        (None, [], True),
        (None, ["--without-kernels"], False),
        (None, ["agent.backend=torch"], False),
        (None, ["run.device=cpu"], False),
        ({"version": "13.0"}, [], False),
    ],
)
def test_a_build_without_kernels_is_refused_for_gpus(
    build: Any, more: list[str], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "cuda_build", lambda: build)
    words = ["grid=scaling", "profile=example", "--runs", str(tmp_path), *more]
    output = CliRunner().invoke(main, ["launch", *words]).output
    assert ("its jobs would run on plain torch. Build them with `make build CUDA=1`" in output) == refused
    assert ("say --yes" in output) != refused
    if "--without-kernels" not in more:
        plan = CliRunner().invoke(main, ["plan", *words]).output
        assert ("A launch would be refused: profile 'example' asks for GPUs" in plan) == refused


def test_a_build_of_another_python_is_not_judged_by_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "cuda_build", lambda: None)
    profile = tmp_path / "lab.toml"
    profile.write_text('gpus = 1\ncontainer = ["apptainer", "exec", "--nv", "mtrl.sif"]\n')
    words = ["launch", "grid=scaling", f"profile={profile}", "--runs", str(tmp_path)]
    assert "say --yes" in CliRunner().invoke(main, words).output


def test_plan_prints_cells_parameters_and_cost(tmp_path: Path) -> None:
    output = sweep("grid=scaling", "--dry-run", "--runs", tmp_path)
    assert "164,944" in output
    assert "150 cells" in output
    assert not any(tmp_path.iterdir())
    rows = json.loads(sweep("plan", "grid=scaling", "--json", "--runs", tmp_path))["cells"]
    assert len(rows) == 150
    assert rows[0]["parameters"] == {"actor": 164944, "critic": 295956, "target": 295956, "total": 460900}


def test_watching_as_json_is_one_document_per_line_and_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two looks: at a cell at work, and once it is over, which ends the watching."""
    sweep_folder = tmp_path / "tiny"
    open_sweep_folder(sweep_folder)
    words = ["train.seed=0,1", "train.vector_steps=60"]
    entries = add_cells(sweep_folder, expand(override(load_grid("smoke"), words))[:2])
    directories = [cell_directory(sweep_folder, entry.run_id) for entry in entries]
    for directory in directories:
        directory.mkdir()
    job = CellJob(entries[0].run_id, directories[0], "")
    Heartbeat(job).write("running")

    def finish(seconds: float) -> None:
        assert seconds == WATCH_SECONDS
        for entry, directory in zip(entries, directories, strict=True):
            (directory / "run.h5").write_bytes(b"x")
            write_done(directory, entry.run_id, "done", seconds=1.0, attempts=1, job=None)

    monkeypatch.setattr("sweeps.watch.time", types.SimpleNamespace(sleep=finish, monotonic=time.monotonic))
    done = CliRunner().invoke(main, ["status", "tiny", "--watch", "--json", "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.output
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[cell["state"] for cell in look["cells"]] for look in looks] == [
        ["running", "missing"],
        ["done", "done"],
    ]
    assert {look["sweep"] for look in looks} == {str(sweep_folder)}


HELP = """
import sys
from sweeps.launch import main
sys.argv = ["launch", "--help"]
try:
    main()
except SystemExit:
    heavy = {"torch", "numpy", "h5py", "submitit", "pydantic", "rich"} & set(sys.modules)
    sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_help_needs_no_heavy_import() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
