"""What the replay's state costs a run: its part of a checkpoint, and a prefetched batch.

    OMP_NUM_THREADS=1 python benchmarks/bench_replay_state.py [--quick] [--json PATH]

Checkpoints: a full buffer of MT10, 100,000 transitions per task; before each save 5,000 new ones of each. Ours writes
them into a file that later checkpoints share; the peer is one file with all rows, read again for its checksum, as a
checkpoint was before. Both sync to the disk, so the disk is part of it. The bytes are printed.

Batches ahead: sample, update (width 256, two critics) and new priorities, with `replay.lag` 1 and a thread beside,
against lag 0. There are no envs between the updates.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from interleave import Case, run

from mtrl.agent import Agent
from mtrl.checkpoint import save_checkpoint
from mtrl.config import Config
from mtrl.overrides import build_config
from mtrl.replay import Replay

CPU = torch.device("cpu")


def filled(config: Config, steps: int) -> tuple[Replay, Callable[[int], None]]:
    """The run's replay with `steps` transitions of each task, and what adds more."""
    tasks, random = len(config.env.tasks), np.random.default_rng(0)
    replay = Replay(config.replay, tasks=tasks, seed=0, discount=0.99)
    observation, action = random.standard_normal((64, tasks, 39)), random.uniform(-1, 1, (64, tasks, 4))
    reward, ends = random.standard_normal((64, tasks)), np.zeros((2, tasks), bool)
    added = 0

    def add(steps: int) -> None:
        nonlocal added
        for _ in range(steps):
            at, after = added % 64, (added + 1) % 64
            replay.add(observation[at], action[at], reward[at], *ends, observation[after])
            added += 1

    add(steps)
    return replay, add


def checkpoints(quick: bool, folder: Path) -> Case:
    config = build_config("paper", {"replay.mode": "prioritized"})
    replay, add = filled(config, 5_000 if quick else config.replay.capacity)
    one_file, step = folder / "one file", 0

    def shared() -> None:
        nonlocal step
        step += 1
        save_checkpoint(folder / "checkpoint", step, {}, replay, config, CPU)

    def whole() -> None:
        replay.save(one_file)
        zlib.crc32(one_file.read_bytes())

    def written() -> int:
        """Bytes of the files of the newest checkpoint that no earlier one had."""
        before = {path.name for path in (folder / "checkpoint/rows").glob("*")}
        shared()
        new = [path for path in (folder / "checkpoint/rows").iterdir() if path.name not in before]
        return sum(path.stat().st_size for path in (*new, *(folder / f"checkpoint/{step}").iterdir()))

    first, last = written(), 0
    add(5_000)
    last = written()
    whole()
    click.echo(
        f"MB written: one file {one_file.stat().st_size / 1e6:.1f}, first checkpoint {first / 1e6:.1f}, "
        f"next one {last / 1e6:.1f}"
    )
    return Case("MT10 save, 5,000 steps later", "one file", shared, whole, before=lambda: add(5_000))


def ahead(tasks: str, mode: str, quick: bool) -> Case:
    changes: dict[str, Any] = {"env.tasks": tasks, "replay.mode": mode, "agent.critics": 2}
    changes |= {"network.actor.width": 256, "network.critic.width": 256}

    def updates(lag: int) -> Callable[[], None]:
        config = build_config("paper", changes | {"replay.lag": lag})
        replay, _ = filled(config, 1_000 if quick else 20_000)
        agent = Agent(config)

        def work() -> None:
            batch = replay.sample(config.batch_rows)
            update = agent.update(batch)
            if mode.startswith("prioritized"):
                replay.update_priorities(batch.id, update.priority)

        return work

    return Case(
        f"{tasks} {mode} update",
        "lag 0",
        updates(1),
        updates(0),
        calls=5 if tasks == "MT10" and not quick else 1,
    )


def cases(quick: bool) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        yield checkpoints(quick, Path(folder))
    for tasks in ("MT10",) if quick else ("MT10", "MT50"):
        for mode in ("uniform_shared", "prioritized"):
            yield ahead(tasks, mode, quick)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(cases)
