"""Slurm's commands, one function: a timeout, a few tries with growing pauses, an error that names the cure."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence

# What sbatch, squeue and scontrol print when the controller is busy, restarting or not reachable for the moment.
PASSING = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Zero Bytes were transmitted",
    "Transport endpoint",
    "Resource temporarily unavailable",
    "Unexpected message received",
)
# sbatch then waits by itself for the queue to empty, for minutes: that is an answer, and the wait is cut short.
FULL = "temporarily unable to accept job"
LOOK_SECONDS = 0.5  # between looks at what a command that takes long has said so far


class SlurmError(RuntimeError):
    """A command of Slurm that failed. `passing` says that the same command may succeed in a while."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


def call(
    words: Sequence[str],
    *,
    seconds: float = 30,
    tries: int = 5,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The standard output of a command of Slurm, by default in this process's environment. No shell is involved.

    Tries again, after 1, 2, 4, ... seconds, while the controller does not answer. Raises SlurmError.
    """
    for left in reversed(range(tries)):
        try:
            return _call_once(words, seconds, environment)
        except SlurmError as error:
            if not (error.passing and left):
                raise
        time.sleep(2.0 ** (tries - 1 - left))
    raise AssertionError("tries must be positive")


def _call_once(words: Sequence[str], seconds: float, environment: Mapping[str, str] | None) -> str:
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmError(f"no command {words[0]}; run this on a login node of the cluster") from None
    with process:
        answer, said = _communicate(process, words[0], seconds)
    if process.returncode:
        said = said.strip() or answer.strip() or f"exit code {process.returncode}"
        raise SlurmError(f"{words[0]}: {said}", passing=any(text in said for text in PASSING))
    return answer


def _communicate(process: subprocess.Popen[str], name: str, seconds: float) -> tuple[str, str]:
    """What the command prints. Ends it, and raises, when `seconds` are over or it says that the queue is full."""
    end = time.monotonic() + seconds
    while True:
        try:
            return process.communicate(timeout=max(0.0, min(LOOK_SECONDS, end - time.monotonic())))
        except subprocess.TimeoutExpired as error:
            said = error.stderr.decode(errors="replace").strip() if isinstance(error.stderr, bytes) else ""
            full, late = FULL in said, time.monotonic() >= end
            if full or late:
                process.kill()
                process.communicate()
                what = f"{name}: {said}" if full else f"{name} did not answer within {seconds:.0f} s. {said}"
                raise SlurmError(what.strip(), passing=not full) from None
