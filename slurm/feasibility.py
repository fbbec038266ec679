"""Checks, before anything is submitted, whether a profile can ever run on its cluster."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mtrl.names import nearest
from slurm.commands import SlurmError, call
from slurm.partitions import Nodes, Partition, read_partitions
from slurm.profiles import Profile

UNAVAILABLE = "node configuration is not available"  # sbatch also says so of nodes that are only down now


class InfeasibleError(ValueError):
    """A profile that this cluster will never run; the message names every reason and its cure."""


def check_feasible(profile: Profile) -> list[str]:
    """Warnings about the profile. Raises InfeasibleError if its jobs can never start, SlurmError without an answer.

    This function compares the wall time, the nodes and the QOS, because `sbatch --test-only` accepts too long a wall
    time and an unknown QOS. Then `sbatch --test-only` checks the rest. While nodes of the partition are down, sbatch
    also refuses jobs that only wait for them: then its answer is a warning.
    """
    partition = find_partition(profile.partition, read_partitions())
    reasons = [*_time(profile, partition), *_nodes(profile, partition.nodes), *_qos(profile)]
    warnings = []
    if partition.available == "down":
        warnings.append(f"partition {partition.name} is down; its jobs wait until it is up")
    if not reasons and (said := _test_only(profile)):
        if UNAVAILABLE in said and any(one.away for one in partition.nodes):
            warnings.append(f"{said}; nodes of partition {partition.name} are away, jobs may wait for them")
        else:
            reasons.append(said)
    if reasons:
        raise InfeasibleError(f"profile {profile.name} can never run here:\n  " + "\n  ".join(reasons))
    return warnings


def find_partition(name: str, partitions: dict[str, Partition]) -> Partition:
    """The partition of that name, or the default one. Raises InfeasibleError, with the nearest names."""
    known = ", ".join(partitions)
    default = next((one.name for one in partitions.values() if one.default), "")
    if not (name or default):
        raise InfeasibleError(f"the cluster has no default partition; name one in a profile: {known}")
    if (name or default) not in partitions:
        raise InfeasibleError(f"no partition '{name}'{nearest(name, partitions)}; there are: {known}")
    return partitions[name or default]


def _time(profile: Profile, partition: Partition) -> Iterator[str]:
    if partition.available not in ("up", "down"):
        yield f"partition {partition.name} takes no jobs ({partition.available}); take another one that sinfo lists"
    if partition.minutes is not None and profile.minutes > partition.minutes:
        limit = partition.minutes
        yield f"minutes = {profile.minutes}: partition {partition.name} allows {limit}; write minutes = {limit}"


def _nodes(profile: Profile, nodes: Iterable[Nodes]) -> Iterator[str]:
    """Why no kind of node has everything that a job asks for; nothing if one has."""

    def gpus(one: Nodes) -> int:
        return one.gpus.get(profile.gpu_type, 0) if profile.gpu_type else one.gpu_count

    kinds = list(nodes)
    types = sorted({kind for one in kinds for kind in one.gpus if kind})
    if profile.gpus and profile.gpu_type and profile.gpu_type not in types:
        yield f"no node has GPUs of type {profile.gpu_type}; there are: {', '.join(types) or 'none with a type'}"
        return
    asked: tuple[tuple[str, int, str, Callable[[Nodes], int]], ...] = (
        ("cpus", profile.cpus, "CPUs", lambda one: one.cpus),
        ("memory_mb", profile.memory_mb, "MB", lambda one: one.memory_mb),
        ("gpus", profile.gpus, "GPUs", gpus),
    )
    alone = False
    for key, value, unit, has in asked:
        most = max(map(has, kinds), default=0)
        if value > most:
            alone = True
            yield f"{key} = {value}: the largest node has {most} {unit}; write {key} = {most}"
    if not alone and not any(all(value <= has(one) for _, value, _, has in asked) for one in kinds):
        yield (
            f"no node has {profile.cpus} CPUs, {profile.memory_mb} MB and {profile.gpus} GPUs together; "
            "ask for less of one"
        )


def _qos(profile: Profile) -> Iterator[str]:
    """An error for an unknown QOS, if the cluster has accounting that lists them."""
    if not profile.qos:
        return
    try:
        words = ["sacctmgr", "--noheader", "--parsable2", "show"]
        known = call([*words, "qos", "format=Name"], seconds=10, tries=1).split()
        allowed = call(
            [*words, "associations", f"user={getpass.getuser()}", "format=QOS"], seconds=10, tries=1
        )
    except SlurmError:
        return
    if profile.qos not in known:
        yield f"no QOS '{profile.qos}'{nearest(profile.qos, known)}; there are: {', '.join(known)}"
    elif (mine := set(allowed.replace(",", " ").split())) and profile.qos not in mine:
        yield f"qos = {profile.qos}: you may use {', '.join(sorted(mine))}"


def _test_only(profile: Profile) -> str:
    """Why sbatch would refuse a job of this profile; empty if it would not."""
    from slurm.executor import try_out

    with tempfile.TemporaryDirectory(prefix="mtrl-profile-") as folder:
        try:
            try_out(Path(folder), profile)
        except SlurmError as error:
            if error.passing:
                raise
            said = str(error).splitlines()[-1]
            return f"{said} (so says sbatch --test-only; compare the profile and its [options] with sinfo)"
    return ""
