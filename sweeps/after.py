"""The commands that run when the cells of a sweep have ended: the argument of `--then`.

A word is gather, fit, or a shell command: --then 'gather,fit,"cp -r runs/a/report ~/results"'.
"""

from __future__ import annotations

import csv
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mtrl.names import nearest
from sweeps.manifest import LaunchError

STANDARD_ERROR = 2  # the launch's own JSON is alone on the standard output
MODULES = {"gather": "analysis.gather", "fit": "analysis.fit_scaling_laws"}


def split_words(text: str | None) -> list[str]:
    """The words of `--then`. Commas separate them; a word with a comma is in double quotes."""
    [words] = csv.reader([text or ""], skipinitialspace=True)
    return [word.strip() for word in words if word.strip()]


def commands_after(sweeps: Sequence[Path], words: Sequence[str]) -> list[list[str]]:
    """The commands for `words`, each for all these sweeps together. Raises LaunchError for any other word."""
    places = [str(sweep.resolve()) for sweep in sweeps]
    return [_command(word, places) for word in words]


def _command(word: str, places: Sequence[str]) -> list[str]:
    if word in MODULES:
        return [sys.executable, "-m", MODULES[word], *places]
    if word.isidentifier() and not shutil.which(word):  # more likely a typing error than a command
        raise LaunchError(
            f"--then knows {', '.join(MODULES)} and commands, and '{word}' is none{nearest(word, MODULES)}"
        )
    return ["/bin/sh", "-c", word]


def run_after(commands: Sequence[Sequence[str]]) -> None:
    """Runs the commands one after another, with their output on the standard error.

    Stops at the first that fails and raises LaunchError, which names it.
    """
    for command in commands:
        if code := subprocess.run(command, stdout=STANDARD_ERROR).returncode:
            raise LaunchError(f"{shlex.join(command)} ended with exit code {code}")
