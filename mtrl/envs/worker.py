"""The parent's end of a process that steps several envs (worker_process.py is the other end, child.py the protocol).

The first message is the pickled (configuration as JSON, seed, rows, copies); the later ones are calls of EnvGroup. STEP
stands for a call of `step`; its answer is empty.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Sequence
from typing import Any

from mtrl.config import EnvSettings
from mtrl.envs.child import Child

STEP = b"s"


class WorkerDied(RuntimeError):
    """An env worker ended though nobody asked it to; the message names its tasks and how it ended."""


class Worker(Child):
    """The parent's end of one worker process, which steps the envs of some rows."""

    def __init__(
        self, config: EnvSettings, *, seed: int, rows: Sequence[int], copies: int, memory: int
    ) -> None:
        """`memory` is the descriptor of the shared step buffers. Does not wait until the worker is ready."""
        super().__init__("mtrl.envs.worker_process", memory)
        self.rows = list(rows)
        self._tasks = [config.tasks[row // copies] for row in rows]
        self.send(pickle.dumps((config.model_dump_json(), seed, self.rows, copies)))

    def begin_step(self) -> None:
        """Begins a step of the worker; `result` waits for it."""
        self.send(STEP)  # shorter to make and to read than a pickle: this is the hot path

    def result(self) -> Any:
        """The worker's answer to the latest call. Raises the call's own error, or WorkerDied."""
        try:
            return super().result()
        except EOFError:
            raise self._died() from None

    def _died(self) -> WorkerDied:
        cure = " (out of memory? lower run.env_workers)" if self.exit_code() == -signal.SIGKILL else ""
        tasks = ", ".join(self._tasks)
        return WorkerDied(f"env worker {self.pid} {self.ending()}{cure}; it stepped {tasks}")
