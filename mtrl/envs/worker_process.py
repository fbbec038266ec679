"""A process that steps several envs for its parent: `python -m mtrl.envs.worker_process SOCKET MEMORY`.

Both arguments are descriptors; worker.py describes the messages. The process ends with the socket or, should
a child of its parent have kept the socket open, soon after its parent.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from mtrl.config import EnvSettings
from mtrl.envs.env_group import EnvGroup
from mtrl.envs.step_buffers import shared_buffers
from mtrl.envs.worker import STEP

_PATIENCE = 2.0  # seconds without a message between looks at whether the parent still is
# Meant for the parent, which decides when to stop; terminals and schedulers send them to the whole group.
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(socket_descriptor: int, memory: int) -> None:
    """Serves the parent until it closes the socket or ends."""
    for number in _PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    connection, parent = Connection(socket_descriptor), os.getppid()
    try:
        group = _make_group(connection, memory)
        while group is not None and os.getppid() == parent:
            if connection.poll(_PATIENCE):
                connection.send_bytes(_answer(group, connection.recv_bytes()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _make_group(connection: Connection, memory: int) -> EnvGroup | None:
    text, seed, rows = pickle.loads(connection.recv_bytes())
    config = EnvSettings.model_validate_json(text)
    try:
        group = EnvGroup(config, seed=seed, rows=rows, buffers=shared_buffers(memory, len(config.tasks)))
    except Exception:
        connection.send_bytes(pickle.dumps((False, traceback.format_exc())))
        return None
    connection.send_bytes(b"")
    return group


def _answer(group: EnvGroup, message: bytes) -> bytes:
    try:
        if message == STEP:
            group.step()
            return b""
        method, arguments = pickle.loads(message)
        return pickle.dumps((True, getattr(group, method)(*arguments)))
    except Exception:
        return pickle.dumps((False, traceback.format_exc()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
