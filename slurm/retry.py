"""Decides whether a cell that is not over runs again, depending on why it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from slurm.queue import QueuedTask
from slurm.records import History
from slurm.state import CellState

EXCEPTIONS = 1  # retries after an exception
GROWTHS = 2  # retries with more memory
STALLS = 2  # attempts in a row without a vector step of progress
BLAMES = 2  # failures of a node before new jobs avoid it
ENDED_BY_THE_CLUSTER = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED")


@dataclass(frozen=True)
class Verdict:
    """The decision: resubmit, give up, or leave (over, running, queued or cancelled).

    `history` is for the next submission.
    """

    action: Literal["resubmit", "give up", "leave"]
    reason: str
    history: History


def judge(cell: CellState, queued: QueuedTask | None, before: History) -> Verdict:
    """The verdict on a cell. `queued` is its latest job if the queue still has it, `before` its history at that job.

    Preemption, failed nodes and held jobs do not count as retries. A cell that ran out of memory gets more memory,
    twice. After an exception it runs once more. After any other end it runs again as long as it advances; it is given
    up after two attempts in a row without a vector step.
    """
    if cell.state not in ("failed", "stopped", "missing", "held"):
        return Verdict("leave", cell.state, before)
    step = int(cell.heartbeat.get("vector_step") or 0)
    begun = int(cell.heartbeat.get("attempt") or 0)
    after = replace(before, attempts=before.attempts + 1, begun=begun, vector_step=step)
    state = queued.state if queued else ""
    cause = str(cell.marker.get("cause", ""))
    if cell.state == "missing" and not queued and not cell.reason:
        return Verdict("resubmit", "never ran", before)
    if state == "OUT_OF_MEMORY" or cause == "memory":
        if before.grown >= GROWTHS:
            return Verdict("give up", f"out of memory, also with {GROWTHS} times more", after)
        return Verdict("resubmit", "out of memory", replace(after, grown=before.grown + 1, stalls=0))
    if cause == "no gpu":  # another job with this profile and environment would see none either
        return Verdict("give up", cell.reason, after)
    if cell.state == "failed" and cause != "killed":
        if before.exceptions >= EXCEPTIONS:
            return Verdict("give up", cell.reason, after)
        return Verdict("resubmit", cell.reason, replace(after, exceptions=before.exceptions + 1, stalls=0))
    if cell.state == "held":
        return Verdict("resubmit", f"held: {cell.reason}", after)
    if state in ENDED_BY_THE_CLUSTER:
        nodes = (*before.nodes, queued.node) if queued and state == "NODE_FAIL" else before.nodes
        return Verdict("resubmit", state.lower().replace("_", " "), replace(after, stalls=0, nodes=nodes))
    stalls = 0 if step > before.vector_step else before.stalls + 1
    if stalls >= STALLS:
        return Verdict(
            "give up", f"no progress in {STALLS} attempts ({cell.reason})", replace(after, stalls=stalls)
        )
    return Verdict("resubmit", cell.reason or "stopped", replace(after, stalls=stalls))


def insist(verdict: Verdict) -> Verdict:
    """The verdict if a person launches the cell again: it runs, its retries count from 0, and raised memory stays."""
    if verdict.action != "give up":
        return verdict
    return Verdict("resubmit", verdict.reason, replace(verdict.history, exceptions=0, stalls=0))


def blamed_nodes(histories: Iterable[History]) -> list[str]:
    """The nodes that failed for at least BLAMES cells; new jobs avoid them."""
    blames = Counter(node for history in histories for node in set(history.nodes))
    return sorted(node for node, count in blames.items() if count >= BLAMES)
