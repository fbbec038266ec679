"""Completion as shells do it: the words that bash, zsh and fish would offer, from the script that a user sources."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.grid import expand, load_grid
from sweeps.manifest import add_cells, open_sweep_folder

# Each defines what a line being edited would, calls the function of the script, and prints what that offers.
BASH = """
source "$1"; shift
COMP_WORDS=(mtrl-sweep "$@"); COMP_CWORD=$#
_mtrl_sweep_completion mtrl-sweep
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { }
_describe() { for pair in "${(@P)3}"; do print -r -- "${pair%%:*}"; done }
compadd() { print -rl -- "${(@P)@[-1]}" }
source "$1"; shift
words=(mtrl-sweep "$@"); CURRENT=${#words}
_mtrl_sweep_completion
"""
FISH = """
source $argv[1]
complete -C "mtrl-sweep $argv[2..-1]" | string split --fields 1 \\t
"""
SHELLS = {
    "bash": ["bash", "-c", BASH, "bash"],
    "zsh": ["zsh", "-f", "-c", ZSH, "zsh"],
    "fish": ["fish", "--no-config", "-c", FISH],
}


def offered(tmp_path: Path, shell: str, *words: str) -> list[str]:
    """What the shell offers for the last of these words."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "mtrl-sweep"
    program.write_text(f"#!{sys.executable}\nfrom sweeps.launch import main\nmain(prog_name='mtrl-sweep')\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = subprocess.run([program], env={**environment, "_MTRL_SWEEP_COMPLETE": f"{shell}_source"},
                            capture_output=True, text=True, check=True, cwd=tmp_path).stdout  # fmt: skip
    (tmp_path / "script").write_text(script)
    done = subprocess.run([*SHELLS[shell], "./script", *words], env=environment, capture_output=True, text=True,
                          cwd=tmp_path)  # fmt: skip
    assert "rror" not in done.stderr + done.stdout, done.stderr + done.stdout
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
def test_words_in_bash(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    """bash gives `=` as a word of its own."""
    assert set(expected) <= set(offered(tmp_path, "bash", *words))


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plan", "grid=sm"], ["grid=smoke"]),
        (["grid=smoke", "~train.s"], ["~train.seed"]),
        (["st"], ["status"]),
    ],
)
def test_words_in_other_shells(tmp_path: Path, shell: str, words: list[str], expected: list[str]) -> None:
    assert offered(tmp_path, shell, *words) == expected


def test_sweeps_and_cells_by_name(tmp_path: Path) -> None:
    sweep = tmp_path / "runs/smoke"
    open_sweep_folder(sweep)
    run_id = add_cells(sweep, expand(load_grid("smoke")))[0].run_id
    assert offered(tmp_path, "bash", "status", "sm") == ["smoke"]
    assert offered(tmp_path, "bash", "tail", "smoke", run_id[:4]) == [run_id]
