"""A process that answers its parent's calls, one at a time: `Child` is the parent's end, `serve` the child's.

The child is a module with a `main`: `python -m MODULE SOCKET ...`, with descriptors as arguments. A call is a pickled
(method, arguments); an answer is empty, or a pickled (ok, value). Neither end imports torch.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PATIENCE = 2.0  # seconds without a message after which the child checks that its parent lives
# Terminals and schedulers send these to the whole process group. The child ignores them: its parent decides when to
# stop.
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Child:
    """The parent's end of one process."""

    def __init__(self, module: str, *descriptors: int) -> None:
        """`descriptors` stay open in the child. Does not wait until it is ready."""
        ours, theirs = socket.socketpair()
        with theirs:
            passed = (theirs.fileno(), *descriptors)
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        self._connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def begin(self, method: str, *arguments: Any) -> None:
        """Begins a call; `result` waits for it."""
        self.send(pickle.dumps((method, arguments)))

    def send(self, message: bytes) -> None:
        """Sends `message`. If the child died, `result` reports it."""
        with suppress(OSError):
            self._connection.send_bytes(message)

    def result(self) -> Any:
        """The last call's result. Raises RuntimeError with the call's traceback, or EOFError if the child ended."""
        try:
            answer = self._connection.recv_bytes()
        except OSError as error:
            raise EOFError from error
        ok, value = pickle.loads(answer) if answer else (True, None)
        if not ok:
            raise RuntimeError(f"an env worker failed:\n{value}")
        return value

    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process; kills it if it does not end within 10 seconds."""
        self._connection.close()
        self.exit_code()

    def exit_code(self) -> int:
        """The exit code, once the process ended; minus the number of the signal that killed it. Kills it after 10 s."""
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def ending(self) -> str:
        """How the process ended, in words."""
        code = self.exit_code()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


Answer = Callable[[bytes], bytes]


def serve(descriptor: int, prepare: Callable[[Connection], Answer | None]) -> None:
    """Answers each message of the parent, until the parent ends or closes its end of the socket.

    `descriptor` is the child's end. `prepare` takes the connection and returns the function from message to answer;
    None if there is nothing to serve.
    """
    for number in _PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    connection, parent = Connection(descriptor), os.getppid()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        answer = prepare(connection)
        while answer and os.getppid() == parent:  # another process may hold the parent's end open
            if connection.poll(_PATIENCE):
                connection.send_bytes(answer(connection.recv_bytes()))


def call(target: object, message: bytes) -> bytes:
    """The answer to a message of `Child.begin`: calls that method of `target`."""
    try:
        method, arguments = pickle.loads(message)
        return pickle.dumps((True, getattr(target, method)(*arguments)))
    except Exception:
        return failure()


def failure() -> bytes:
    """The answer that reports the exception being handled."""
    return pickle.dumps((False, traceback.format_exc()))


def _environment() -> dict[str, str]:
    """This process's environment, in which the child finds this package and starts no threads."""
    package_root = str(Path(__file__).resolve().parents[2])
    path = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": ":".join(path), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
