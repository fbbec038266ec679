"""This user's jobs in Slurm's queue, from one call of squeue."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from slurm.commands import call

ALIVE = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD",
    "RESIZING", "SIGNALING", "STAGE_OUT", "PREEMPTED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REQUEUE_FED",
}  # fmt: skip
# A pending job with such a reason never starts unless a person changes something.
HELD = (
    "held", "JobHeld", "JobHoldMaxRequeue", "DependencyNeverSatisfied", "BadConstraints", "PartitionTimeLimit",
    "PartitionNodeLimit", "MaxWallDurationPerJobLimit", "InvalidAccount", "InvalidQOS", "AccountNotAllowed",
    "QOSNotAllowed",
)  # fmt: skip


@dataclass(frozen=True)
class QueuedTask:
    """One job, or one task of an array, as Slurm sees it."""

    state: str  # PENDING, RUNNING, NODE_FAIL, ...
    reason: str
    node: str
    number: str = ""  # the job number of this task alone; array tasks get it when they start
    name: str = ""

    @property
    def held(self) -> bool:
        """It is pending and never starts unless a person changes something."""
        return self.state == "PENDING" and any(word in self.reason for word in HELD)

    @property
    def alive(self) -> bool:
        """It runs, or will run without help."""
        return self.state in ALIVE and not self.held


@dataclass(frozen=True)
class Queue:
    """{(job number, array task): task}. Jobs that ended in the last minutes (Slurm's MinJobAge) are still there."""

    tasks: dict[tuple[str, int], QueuedTask] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)  # job name -> job number


def read_queue(*, seconds: float = 30, tries: int = 5) -> Queue:
    """This user's jobs. Raises SlurmError if Slurm does not answer."""
    # Without this variable squeue cuts off the list of an array's pending tasks.
    os.environ["SLURM_BITSTR_LEN"] = "0"
    form = "--format=%F|%K|%T|%N|%A|%j|%r"
    return parse_queue(
        call(["squeue", f"--user={getpass.getuser()}", "--states=all", "--noheader", form], tries=tries)
    )


def parse_queue(text: str) -> Queue:
    """The queue from lines `job|array tasks|state|node|own number|name|reason`."""
    queue = Queue()
    for line in text.splitlines():
        if line.count("|") < 6:
            continue
        job, tasks, state, node, number, name, reason = line.split("|", 6)
        queue.jobs[name] = job
        for task in _task_numbers(tasks):
            queue.tasks[job, task] = QueuedTask(state, reason, node, number, name)
    return queue


def _task_numbers(text: str) -> Iterator[int]:
    """The task numbers 0, 1, 2, 7 from `0-2,7%5`, and 0, 2, 4, 6 from `0-6:2`; 0 for a job that is no array (`N/A`)."""
    if text == "N/A":
        yield 0
        return
    for part in text.partition("%")[0].split(","):
        first, _, rest = part.partition("-")
        last, _, step = rest.partition(":")
        yield from range(int(first), int(last or first) + 1, int(step or 1))
