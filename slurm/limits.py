"""The limits of a cluster on arrays and jobs, read from the cluster."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from slurm.commands import SlurmError, call


@dataclass(frozen=True)
class Limits:
    """The limits of a cluster on arrays and jobs; the defaults are Slurm's."""

    max_array: int = 1_001  # tasks in one array; the largest task number is one less
    max_jobs: int = 10_000  # jobs and array tasks that the controller holds at once, of all users
    max_submit: int | None = (
        None  # jobs and array tasks that this user may have in the queue; None: no such limit
    )
    preempt_mode: str = "OFF"
    requeue: bool = True  # whether jobs are requeued unless they say otherwise
    accounting: bool = False  # whether sacct knows ended jobs
    version: str = ""


def read_limits(account: str = "", qos: str = "") -> Limits:
    """The cluster's limits, from `scontrol show config`, and this user's submit limit if there is accounting.

    Raises SlurmError if Slurm does not answer.
    """
    limits = parse_limits(call(["scontrol", "show", "config"]))
    if not limits.accounting:
        return limits
    return replace(limits, max_submit=_read_max_submit(account, qos))


def parse_limits(text: str) -> Limits:
    """The limits from the output of `scontrol show config`; a missing one has Slurm's default."""
    values = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    return Limits(
        max_array=int(values.get("MaxArraySize", 1_001)),
        max_jobs=int(values.get("MaxJobCount", 10_000)),
        preempt_mode=values.get("PreemptMode", "OFF"),
        requeue=values.get("JobRequeue", "1") != "0",
        accounting="none" not in values.get("AccountingStorageType", "none"),
        version=values.get("SLURM_VERSION", ""),
    )


def _read_max_submit(account: str, qos: str) -> int | None:
    """The smallest submit limit of this user, in the account and the QOS if they are named.

    None if there is no limit or accounting does not answer; then only sbatch can refuse.
    """
    form = ["--noheader", "--parsable2", "show"]
    try:
        associations = call(
            ["sacctmgr", *form, "associations", f"user={getpass.getuser()}", "format=Account,MaxSubmitJobs"],
            seconds=10, tries=1,
        )  # fmt: skip
        kinds = call(["sacctmgr", *form, "qos", "format=Name,MaxSubmitJobsPerUser"], seconds=10, tries=1)
    except SlurmError:
        return None
    return min([*_numbers(associations, account), *(_numbers(kinds, qos) if qos else [])], default=None)


def _numbers(text: str, name: str) -> Iterator[int]:
    """The limits in lines `name|limit`: of that name, or of all names if none is given."""
    for line in text.splitlines():
        key, _, limit = line.partition("|")
        if limit.isdigit() and name in ("", key):
            yield int(limit)
