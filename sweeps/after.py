"""What runs once the cells of a sweep have ended, by the words that `--then` takes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sweeps.manifest import SweepError

MODULES = {"gather": "analysis.gather", "fit": "analysis.fit_scaling_laws"}


def commands_after(sweeps: Sequence[Path], words: Sequence[str]) -> list[list[str]]:
    """The commands that `words` mean, for these sweeps taken together. Raises SweepError for an unknown word."""
    for word in words:
        if word not in MODULES:
            raise SweepError(f"--then knows {', '.join(MODULES)}, not '{word}'")
    places = [str(sweep.resolve()) for sweep in sweeps]
    return [[sys.executable, "-m", MODULES[word], *places] for word in words]


def run_after(commands: Sequence[Sequence[str]]) -> None:
    """Runs them one after another. Raises SweepError naming the first that fails."""
    for command in commands:
        if code := subprocess.run(command).returncode:
            raise SweepError(f"{shlex.join(command)} ended with exit code {code}")
