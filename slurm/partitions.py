"""The cluster's partitions and their nodes, from one call of sinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from slurm.commands import call

FORMAT = "%P|%a|%l|%D|%c|%m|%G|%t"
AWAY = ("down", "drain", "drng", "fail", "maint", "unk", "boot", "inval")  # states of nodes that take no jobs


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind; CPUs, memory and GPUs are those of one node."""

    count: int
    cpus: int
    memory_mb: int
    gpus: dict[str, int] = field(default_factory=dict)  # type -> GPUs per node; type "" where none is named
    away: bool = False

    @property
    def gpu_count(self) -> int:
        """GPUs per node, of all types."""
        return sum(self.gpus.values())


@dataclass(frozen=True)
class Partition:
    """A partition of the cluster."""

    name: str
    default: bool
    available: str  # up; down: its jobs wait; drain or inact: it takes no jobs
    minutes: int | None  # the longest wall time; None: no limit
    nodes: tuple[Nodes, ...]


def read_partitions() -> dict[str, Partition]:
    """{name: partition} of the cluster. Raises SlurmError if Slurm does not answer."""
    return parse_partitions(
        call(["sinfo", "--noheader", "--exact", f"--format={FORMAT}"], seconds=10, tries=2)
    )


def parse_partitions(text: str) -> dict[str, Partition]:
    """{name: partition} from lines `gpu*|up|2-00:00:00|4|64|512000|gpu:a100:8(S:0-1)|idle`, one per kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        if line.count("|") != FORMAT.count("|"):
            continue
        name, available, limit, count, cpus, memory, resources, state = line.strip().split("|")
        nodes = Nodes(
            int(count),
            _number(cpus),
            _number(memory),
            parse_gpus(resources),
            state.startswith(AWAY) or state.endswith("*"),  # *: it does not answer
        )
        before = found[name.rstrip("*")].nodes if name.rstrip("*") in found else ()
        found[name.rstrip("*")] = Partition(
            name.rstrip("*"), name.endswith("*"), available, parse_minutes(limit), (*before, nodes)
        )
    return found


def parse_minutes(text: str) -> int | None:
    """Whole minutes from Slurm's `2-12:00:00`, `1:00:00` or `30:00`; None for `infinite`."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def parse_gpus(text: str) -> dict[str, int]:
    """{type: GPUs} from a list of generic resources: `gpu:a100:4(S:0-1),shard:8`, `gpu:2` or `(null)`."""
    gpus: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu:(?:([^:,()]+):)?(\d+)", text):
        gpus[kind] = gpus.get(kind, 0) + int(count)
    return gpus


def _number(text: str) -> int:
    """The number in `64` or `64+`; Slurm writes `+` if nodes differ."""
    return int(text.rstrip("+"))
