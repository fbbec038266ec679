"""The command `mtrl` as a user types it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mtrl.cli import main
from mtrl.sizing import match_system
from mtrl.train import Progress, train
from tests.mtrl.short_runs import SHORT, contents, short_config, stop_after

SETTINGS = [f"{key}={value}" for key, value in SHORT.items()]


def mtrl(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mtrl.cli", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def in_process(*words: str, code: int = 0) -> str:
    """The same without a process of its own, for what trains nothing."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done.output


def test_train_then_evaluate(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    output = mtrl("train", "preset=debug", *SETTINGS, "--out", run)
    assert "run.h5" in output
    assert " updates run as one fused step, " in output  # the log
    assert re.findall(r" step (\d+) of 90: success [01]\.\d{3}\n", output) == ["40", "80", "90"]
    assert "finished" in mtrl("train", "preset=debug", *SETTINGS, "--out", run)
    assert "reach-v3" in mtrl("evaluate", run, "--episodes", "1")
    assert "did you mean 'reach-v3'" in mtrl("video", run, "--task", "rech-v3", code=1)


def test_a_folder_that_is_over_is_not_trained_again(tmp_path: Path) -> None:
    run, settings = tmp_path / "run", ["train", "preset=debug", *SETTINGS, "--out", str(tmp_path / "run")]
    weak = [*settings, "divergence.q_limit=1e-4"]
    told = "diverged at vector step 31: "
    assert told in mtrl(*weak, code=1)
    assert f"holds this run, {told}" in mtrl(*weak, code=1)
    other = mtrl(*settings, "agent.polyak=1", code=1)
    assert "agent.polyak is 1.0, was 0.005; divergence.q_limit is None, was 0.0001" in other
    (run / "agent.pt").touch()
    (run / "run.h5").unlink()
    assert "no run.h5 that says which run" in mtrl(*settings, code=1)


def test_a_longer_run_goes_on_from_a_finished_one_and_is_the_run_from_the_start(tmp_path: Path) -> None:
    short, long, straight = (tmp_path / name for name in ("short", "long", "straight"))
    config, seen = short_config(train__vector_steps=60), list[Progress]()
    assert train(config, short, stop=lambda: stop_after(seen, 41), report=seen.append) == "stopped"
    assert train(config, short) == "done"  # the checkpoint of 41 stays behind
    before = sorted((path, path.stat().st_mtime_ns) for path in short.rglob("*"))
    words = ("train", "--extend", str(short), "--out", str(long), "train.vector_steps=90")
    mtrl(*words)
    assert "holds this run" in in_process(*words)
    assert sorted((path, path.stat().st_mtime_ns) for path in short.rglob("*")) == before
    train(short_config(), straight)
    ours, theirs = contents(long / "run.h5"), contents(straight / "run.h5")
    assert ours.pop("attribute extended_from") == config.run_id
    assert ours.pop("attribute index") != theirs.pop("attribute index")
    assert ours == theirs
    assert (long / "agent.pt").read_bytes() == (straight / "agent.pt").read_bytes()

    again = ("train", "--out", str(tmp_path / "none"), "--extend", str(short))
    assert "differ in train.vector_steps alone" in in_process(
        *again, "train.vector_steps=90", "train.seed=1", code=1
    )
    assert "already has 60 vector steps" in in_process(*again, "train.vector_steps=50", code=1)
    shutil.rmtree(short / "checkpoint")
    assert "has no checkpoint to continue from" in in_process(*again, "train.vector_steps=90", code=1)


def test_a_video_of_a_run(tmp_path: Path) -> None:
    mtrl("train", "preset=debug", *SETTINGS, "--out", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "mtrl.cli", "video", str(tmp_path), "--task", "reach-v3"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        assert "EGL" in done.stderr
        pytest.skip(done.stderr)
    assert done.stdout.split() == [str(tmp_path / "reach-v3.gif")]
    assert (tmp_path / "reach-v3.gif").read_bytes().startswith(b"GIF8")
    assert not (tmp_path / "drawer-close-v3.gif").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "preset=debg"], "did you mean 'debug'"),
        (["train", "env.tasks=nothing"], "no task 'nothing'"),
        (["train", "network.actor.width=0"], "network.actor.width = 0"),
        (["train", "widht"], "write key=value"),
        (["params", "system=more", "--match", "actor"], "did you mean 'moore'"),
        (["train", "preset=debug", "--out", "/proc/run"], "/proc/run"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], message: str) -> None:
    output = mtrl(*words, code=1)
    assert message in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize("words", ["mtrl.cli params preset=debug", "sweeps.launch grids"])
def test_a_reader_that_leaves_is_no_error(words: str) -> None:
    command = [sys.executable, "-m", *words.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""


def test_doctor_names_every_part() -> None:
    output = mtrl("doctor")
    for subject in ("Python", "torch", "extension", "CUDA", "MuJoCo", "Meta-World", "Slurm", "disk"):
        assert subject in output


def total_of(output: str) -> int:
    return int(output.splitlines()[-1].split()[1].replace(",", ""))


def test_params_counts_and_matches() -> None:
    assert "1,379,320" in mtrl("params", "system=moore")
    output = mtrl("params", "env.tasks=MT10", "system=moore", "--match", "actor").splitlines()
    assert (
        output[0]
        == f"width {match_system('moore', 'actor', 10)}: the MLP nearest to 1,379,320 parameters (actor)"
    )
    found = int(output[1].split()[1].replace(",", ""))
    assert found == pytest.approx(1_379_320, rel=0.002)
    assert "'actor', 'critic', 'total'" in mtrl("params", "--match", "width", code=2)
    own = ["network.actor.kind=paco", "network.actor.experts=7", "agent.value=c51", "agent.scaling=return"]
    wanted, matched = (total_of(mtrl("params", *own, *more)) for more in ([], ["--match", "total"]))
    assert matched == pytest.approx(wanted, rel=0.01)
