"""The process that steps several envs for its parent: `python -m mtrl.envs.worker_process SOCKET MEMORY`.

Both arguments are descriptors; worker.py describes the messages. The process ends when the socket is closed, or soon
after its parent ends.
"""

from __future__ import annotations

import pickle
import sys
from multiprocessing.connection import Connection

from mtrl.config import EnvSettings
from mtrl.envs.child import Answer, call, failure, serve
from mtrl.envs.env_group import EnvGroup
from mtrl.envs.step_buffers import shared_buffers
from mtrl.envs.worker import STEP


def main(socket: int, memory: int) -> None:
    """Serves the parent until it closes the socket or ends."""
    serve(socket, lambda connection: _prepare(connection, memory))


def _prepare(connection: Connection, memory: int) -> Answer | None:
    text, seed, rows, copies = pickle.loads(connection.recv_bytes())
    config = EnvSettings.model_validate_json(text)
    buffers = shared_buffers(memory, copies * len(config.tasks))
    try:
        group = EnvGroup(config, seed=seed, rows=rows, buffers=buffers, copies=copies)
    except Exception:
        connection.send_bytes(failure())
        return None
    connection.send_bytes(b"")
    return lambda message: _step(group) if message == STEP else call(group, message)


def _step(group: EnvGroup) -> bytes:
    try:
        group.step()
    except Exception:
        return failure()
    return b""


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
