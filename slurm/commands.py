"""Calls Slurm's commands, with a timeout, a few tries with growing pauses, and errors that name the cure."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence

# Messages of sbatch, squeue and scontrol when the controller is busy, restarts or cannot be reached for the moment.
PASSING = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Zero Bytes were transmitted",
    "Transport endpoint",
    "Resource temporarily unavailable",
    "Unexpected message received",
)
# After this message sbatch waits minutes for room in the queue. The message is the answer; the wait is cut short.
FULL = "temporarily unable to accept job"
LOOK_SECONDS = 0.5  # between two looks at the output of a command that has not ended


class SlurmError(RuntimeError):
    """A command of Slurm that failed. `passing`: whether the same command may succeed a little later."""

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
    """The standard output of a command of Slurm, run without a shell, by default in this process's environment.

    Each try may take `seconds`. If the controller does not answer, it tries again after 1, 2, 4, ... seconds. Raises
    SlurmError if the command fails.
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
    """The command's output and errors. Kills it and raises SlurmError after `seconds`, or if the queue is full."""
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
