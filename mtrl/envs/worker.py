"""The parent's end of a process that steps several envs (worker_process.py is the other end).

Messages are bytes: STEP, or a pickled (method of EnvGroup, arguments). Answers are empty, or a pickled
(ok, value).
"""

from __future__ import annotations

import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from os import environ
from pathlib import Path
from typing import Any

from mtrl.config import EnvSettings

STEP = b"s"


class WorkerDied(RuntimeError):
    """An env worker ended unasked; the message names its tasks and how it ended."""


class Worker:
    """The parent's end of one worker process, which steps the envs of some rows."""

    def __init__(self, config: EnvSettings, *, seed: int, rows: Sequence[int], memory: int) -> None:
        """`memory` is the descriptor of the shared step buffers. Does not wait until the worker is ready."""
        self.rows = list(rows)
        self._tasks = [config.tasks[row] for row in rows]
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "mtrl.envs.worker_process", str(theirs.fileno()), str(memory)]
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(), memory), stdin=subprocess.DEVNULL, env=_environment()
            )
        self._connection = Connection(ours.detach())
        self._send(pickle.dumps((config.model_dump_json(), seed, self.rows)))

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin_step(self) -> None:
        """Lets the worker step; `result` waits for it."""
        self._send(STEP)  # shorter to make and to read than a pickle: this is the hot path

    def begin(self, method: str, *arguments: Any) -> None:
        """Lets the worker call a method of its EnvGroup; `result` waits for it."""
        self._send(pickle.dumps((method, arguments)))

    def result(self) -> Any:
        """What the worker answers to the call begun last. Raises what the call raised, or WorkerDied."""
        try:
            answer = self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._died() from None
        ok, value = pickle.loads(answer) if answer else (True, None)
        if not ok:
            raise RuntimeError(f"an env worker failed:\n{value}")
        return value

    def close(self) -> None:
        """Ends the process, by force when it does not end by itself."""
        self._connection.close()
        self._exit_code()

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # of a worker that died; `result` says so
            self._connection.send_bytes(message)

    def _died(self) -> WorkerDied:
        code = self._exit_code()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        cure = " (out of memory? lower run.env_workers)" if code == -signal.SIGKILL else ""
        return WorkerDied(f"env worker {self.pid} {how}{cure}; it stepped {', '.join(self._tasks)}")

    def _exit_code(self) -> int:
        """Waits for the end of the process, whose socket is closed; kills it when it does not come."""
        try:
            return self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _environment() -> dict[str, str]:
    """This process's environment, in which the worker finds this package and starts no threads."""
    package_root = str(Path(__file__).resolve().parents[2])
    path = [package_root, *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": ":".join(path), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
