"""Completion as bash does it: the words that it would offer, from the script that a user sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.grid import expand, load_grid
from sweeps.manifest import add_cells, open_sweep_folder

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def offered(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words; like bash, one gives `=` as a word of its own."""
    program = tmp_path / "mtrl-sweep"
    program.write_text(f"#!{sys.executable}\nfrom sweeps.launch import main\nmain(prog_name='mtrl-sweep')\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = subprocess.run(["mtrl-sweep"], env={**environment, "_MTRL_SWEEP_COMPLETE": "bash_source"},
                            capture_output=True, text=True, check=True, cwd=tmp_path).stdout  # fmt: skip
    quoted = " ".join(f"'{word}'" for word in ("mtrl-sweep", *words))
    lines = [script, f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}",
             "_mtrl_sweep_completion mtrl-sweep", "printf '%s\\n' \"${COMPREPLY[@]}\""]  # fmt: skip
    done = subprocess.run(["bash", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True,
                          check=True, cwd=tmp_path)  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gr"], ["grid=actor_critic", "grid=scaling", "grid=smoke"]),
        (["grid", "=", "sm"], ["smoke"]),
        (["grid", "="], ["scaling", "smoke"]),
        (["plan", "grid", "=", "smoke", "profile", "=", "mi"], ["mini"]),
        (["launch", "grid", "=", "smoke", "network.actor.w"], ["network.actor.width="]),
        (["grid", "=", "smoke", "executor", "=", "in"], ["inline"]),
        (["grid", "=", "smoke", "~train."], ["~train.seed", "~train.vector_steps"]),
        (["doctor", "prof"], ["profile=example", "profile=mini"]),
        (["retry", "--ca"], ["--cancelled"]),
        (["st"], ["status"]),
    ],
)
def test_words(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    assert set(expected) <= set(offered(tmp_path, *words))


def test_sweeps_and_cells_by_name(tmp_path: Path) -> None:
    sweep = tmp_path / "runs/smoke"
    open_sweep_folder(sweep)
    run_id = add_cells(sweep, expand(load_grid("smoke")))[0].run_id
    assert offered(tmp_path, "status", "sm") == ["smoke"]
    assert offered(tmp_path, "tail", "smoke", run_id[:4]) == [run_id]
