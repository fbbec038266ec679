"""What a cluster allows, read from the cluster itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slurm.commands import call


@dataclass(frozen=True)
class Limits:
    max_array: int = 1_001  # tasks in one array; the largest task number is one less
    max_jobs: int = 10_000  # jobs and array tasks that the controller holds at once, of all users
    preempt_mode: str = "OFF"
    requeue: bool = True  # whether jobs are requeued unless they say otherwise
    accounting: bool = False  # whether sacct knows ended jobs
    version: str = ""


def read_limits() -> Limits:
    """One `scontrol show config`. Raises SlurmError."""
    return parse_limits(call(["scontrol", "show", "config"]))


def parse_limits(text: str) -> Limits:
    """The limits from the text of `scontrol show config`; what is not there keeps Slurm's default."""
    values = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    return Limits(
        max_array=int(values.get("MaxArraySize", 1_001)),
        max_jobs=int(values.get("MaxJobCount", 10_000)),
        preempt_mode=values.get("PreemptMode", "OFF"),
        requeue=values.get("JobRequeue", "1") != "0",
        accounting="none" not in values.get("AccountingStorageType", "none"),
        version=values.get("SLURM_VERSION", ""),
    )
