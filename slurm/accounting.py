"""Slurm's accounting: why jobs ended that the queue no longer lists.

Optional. It gives only reasons; whether a cell is over never depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from slurm.commands import SlurmError, call
from slurm.queue import QueuedTask

FORMAT = "JobID,JobIDRaw,JobName,State,NodeList"


def read_ended(jobs: Iterable[str]) -> dict[tuple[str, int], QueuedTask]:
    """{(job number, array task): how it ended} of those jobs, from one call of sacct.

    Empty if the cluster has no accounting.
    """
    words = ["sacct", "--allocations", "--noheader", "--parsable2", f"--format={FORMAT}"]
    try:
        return parse_ended(call([*words, f"--jobs={','.join(sorted(jobs))}"], seconds=10, tries=1))
    except SlurmError:
        return {}


def parse_ended(text: str) -> dict[tuple[str, int], QueuedTask]:
    """The jobs from lines `12_3|15|mtrl-a|CANCELLED by 1000|n1`. A task that never started has no line."""
    ended = {}
    for line in text.splitlines():
        if line.count("|") != 4:
            continue
        job, number, name, state, node = line.split("|")
        array, _, task = job.partition("_")
        if array.isdigit() and (task.isdigit() or not task):
            node = "" if node == "None assigned" else node
            ended[array, int(task or 0)] = QueuedTask(state.partition(" ")[0], "", node, number, name)
    return ended
