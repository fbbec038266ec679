"""What sinfo says of partitions and nodes."""

from pathlib import Path

import pytest

from slurm.discovery import commonest_node, has_cluster
from slurm.partitions import Nodes, Partition, parse_gpus, parse_minutes, parse_partitions

SINFO = """\
debug|up|30:00|2|32|128000|(null)|idle
gpu*|up|2-00:00:00|3|64|512000|gpu:a100:4(S:0-1)|mix
gpu*|up|2-00:00:00|9|64|512000|gpu:v100:8|drain*
old|inact|infinite|1|16+|64000+|gpu:2,shard:8|down~
a line of another kind
"""


def test_partitions_and_their_nodes() -> None:
    found = parse_partitions(SINFO)
    assert list(found) == ["debug", "gpu", "old"]
    assert found["debug"] == Partition("debug", False, "up", 30, (Nodes(2, 32, 128_000),))
    gpu = found["gpu"]
    assert (gpu.default, gpu.minutes, [nodes.gpus for nodes in gpu.nodes]) == (
        True,
        2_880,
        [{"a100": 4}, {"v100": 8}],
    )
    assert commonest_node(gpu).gpus == {"a100": 4}, "most nodes are drained"
    assert (found["old"].available, found["old"].minutes) == ("inact", None)
    assert found["old"].nodes == (Nodes(1, 16, 64_000, {"": 2}, away=True),)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1:00:00", 60), ("30:00", 30), ("7-12:00:00", 10_800), ("infinite", None), ("n/a", None)],
)
def test_wall_times(text: str, minutes: int | None) -> None:
    assert parse_minutes(text) == minutes


def test_slurms_commands_without_a_cluster_are_no_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_CONF", f"{tmp_path}/gone/slurm.conf")
    assert not has_cluster()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_cluster()


def test_gpus_are_counted_by_type() -> None:
    assert parse_gpus("gpu:a100:4(S:0-1),gpu:a100:2(S:1),craynetwork:4,gpu:h100:1") == {"a100": 6, "h100": 1}
    assert parse_gpus("(null)") == {}
