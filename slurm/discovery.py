"""Makes a profile for a cluster that has none yet, from the answers of Slurm's commands."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path

from slurm.commands import SlurmError, call
from slurm.feasibility import find_partition
from slurm.partitions import Nodes, Partition, read_partitions
from slurm.profiles import DEFAULT, Profile

MINUTES = 240  # shorter jobs start sooner; a cell that needs more continues in the next job
NO_CLUSTER = (
    "Could not establish a configuration source",
    "no command sinfo",
    "Unable to process configuration file",
)


def has_cluster() -> bool:
    """Whether Slurm's commands are installed and configured. Raises SlurmError if Slurm does not answer."""
    if not (shutil.which("sbatch") and shutil.which("sinfo")):
        return False
    if not Path(os.environ.get("SLURM_CONF", "/")).exists():  # sinfo would wait for the file for a minute
        return False
    try:
        return bool(read_partitions())
    except SlurmError as error:
        if any(text in str(error) for text in NO_CLUSTER):
            return False
        raise


def discover() -> Profile:
    """A profile named `default` for this cluster.

    It has the default partition (or SBATCH_PARTITION) and its wall time, at most four hours. A job gets one GPU of the
    commonest node with its share of CPUs and memory; without GPUs it gets one CPU. Raises SlurmError or
    InfeasibleError.
    """
    partition = find_partition(os.environ.get("SBATCH_PARTITION", ""), read_partitions())
    minutes = min(MINUTES, partition.minutes or MINUTES)
    node = commonest_node(partition)
    shares = node.gpu_count or node.cpus
    gpus = f", {node.gpu_count} GPUs" if node.gpu_count else ""
    return Profile(
        name=DEFAULT,
        about=f"Found on the cluster: {node.count} nodes of {node.cpus} CPUs, {node.memory_mb:,} MB{gpus}",
        partition=partition.name,
        account="" if "SBATCH_ACCOUNT" in os.environ else default_account(),
        minutes=minutes,
        signal_seconds=min(120, 15 * minutes),
        cpus=max(1, node.cpus // shares),
        memory_mb=max(1, node.memory_mb // shares),
        gpus=min(1, node.gpu_count),
        slurm_conf=os.environ.get("SLURM_CONF", ""),
    )


def commonest_node(partition: Partition) -> Nodes:
    """The commonest kind of node in the partition. Nodes that take no jobs now count only if there are no others."""
    return max(partition.nodes, key=lambda nodes: (not nodes.away, nodes.count))


def default_account() -> str:
    """This user's default account; empty if the cluster has no accounting."""
    words = [
        "sacctmgr",
        "--noheader",
        "--parsable2",
        "show",
        "user",
        getpass.getuser(),
        "format=DefaultAccount",
    ]
    try:
        return call(words, seconds=10, tries=1).partition("\n")[0].strip()
    except SlurmError:
        return ""
