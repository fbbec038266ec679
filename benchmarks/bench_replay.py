"""The replay against its peers: the work of one update at MT10 and MT50, on one thread.

    /tmp/peers/bin/python benchmarks/bench_replay.py --json benchmarks/results/replay.json

Every peer holds the same transitions, one buffer per task where it knows no tasks, and gives a batch as flat arrays. A
peer that is not installed, or whose own extension does not load, is named and left out. "hot": ten calls in a row;
"cold": 64 MB of other memory is written between two calls, untimed, as a network's update would.

With --device cuda the rows are on the GPU, and so is every batch; the peers are our own replay on the host with its
batches shipped, and tensors on the GPU gathered by torch.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from interleave import Case, gpu_clock, run

from mtrl import config
from mtrl.replay import Replay
from mtrl.replay_place import build_replay

SIZES = {"MT10": (10, 100_000), "MT50": (50, 50_000)}  # tasks, transitions per task
QUICK_SIZES = {"MT10": (10, 2_000)}
PER_TASK, OBSERVATION, ACTION, EPISODE = 128, 39, 4, 500
ALPHA, BETA = 0.6, 0.4

# A peer's work: one `add` for all tasks, one `sample`, and one `update` of what was sampled last.
Work = dict[str, Callable[[], object]]


class Stream:
    """Transitions of all tasks, made before they are timed."""

    def __init__(self, tasks: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.observations = rng.standard_normal((1_001, tasks, OBSERVATION)).astype(np.float32)
        self.action = rng.uniform(-1, 1, (tasks, ACTION)).astype(np.float32)
        self.reward = rng.standard_normal(tasks).astype(np.float32)
        self.terminated = np.zeros(tasks, bool)
        self.truncated = (np.zeros(tasks, bool), np.ones(tasks, bool))
        self.priority = rng.exponential(size=tasks * PER_TASK).astype(np.float32)
        self.time = 0

    def step(self) -> tuple[np.ndarray, ...]:
        now, self.time = self.time % 1_000, self.time + 1
        ended = self.truncated[self.time % EPISODE == 0]
        return (
            self.observations[now], self.action, self.reward, self.terminated, ended, self.observations[now + 1]
        )  # fmt: skip


def ours(tasks: int, capacity: int, mode: str) -> Work:
    stream = Stream(tasks)
    replay = Replay(
        config.ReplaySettings(capacity=capacity, mode=mode, alpha=ALPHA, beta=BETA),
        tasks=tasks,
        seed=0,
        discount=0.99,
    )
    return work_of(replay, stream, capacity, torch.device("cpu"))


def work_of(replay: Replay, stream: Stream, capacity: int, device: torch.device) -> Work:
    """What is timed of a full replay of ours on `device`."""
    for _ in range(capacity):
        replay.add(*stream.step())
    priority = torch.from_numpy(stream.priority).to(device)
    last = [replay.sample(PER_TASK)]

    def sample() -> None:
        last[0] = replay.sample(PER_TASK)

    return {
        "add": lambda: replay.add(*stream.step()),
        "sample": sample,
        "update": lambda: replay.update_priorities(last[0].id, priority),
    }


def cpprb(tasks: int, capacity: int) -> Work:
    """One PrioritizedReplayBuffer per task, next observations shared as it offers."""
    from cpprb import PrioritizedReplayBuffer

    stream = Stream(tasks)
    shape = {"obs": {"shape": OBSERVATION}, "act": {"shape": ACTION}, "rew": {}, "done": {}}
    buffers = [
        PrioritizedReplayBuffer(capacity, shape, next_of="obs", alpha=ALPHA, eps=0.0) for _ in range(tasks)
    ]
    columns = many(stream, capacity)
    for task, buffer in enumerate(buffers):
        buffer.add(**{name: column[task] for name, column in columns.items()})

    def add() -> None:
        o, a, r, d, ended, n = stream.step()
        for task, buffer in enumerate(buffers):
            buffer.add(obs=o[task], act=a[task], rew=r[task], done=d[task], next_obs=n[task])
            if ended[task]:
                buffer.on_episode_end()

    last: list[list[dict[str, np.ndarray]]] = [[]]

    def sample() -> object:
        last[0] = [buffer.sample(PER_TASK, BETA) for buffer in buffers]
        return {name: np.concatenate([part[name] for part in last[0]]) for name in last[0][0]}

    def update() -> None:
        for task, (buffer, part) in enumerate(zip(buffers, last[0], strict=True)):
            buffer.update_priorities(
                part["indexes"], stream.priority[task * PER_TASK : (task + 1) * PER_TASK]
            )

    return {"add": add, "sample": sample, "update": update}


def torchrl(tasks: int, capacity: int) -> Work:
    """One prioritised TensorDict buffer per task over contiguous tensors."""
    from tensordict import TensorDict
    from torchrl._torchrl import SumSegmentTreeFp32  # noqa: F401  its extension, without which it cannot prioritise
    from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer

    stream = Stream(tasks)
    buffers = [
        TensorDictPrioritizedReplayBuffer(
            alpha=ALPHA, beta=BETA, storage=LazyTensorStorage(capacity), batch_size=PER_TASK
        )
        for _ in range(tasks)
    ]
    columns = {name: torch.from_numpy(column) for name, column in many(stream, capacity).items()}
    for task, buffer in enumerate(buffers):
        buffer.extend(
            TensorDict({name: column[task] for name, column in columns.items()}, batch_size=[capacity])
        )

    def add() -> None:
        o, a, r, d, _, n = map(torch.from_numpy, map(np.asarray, stream.step()))
        for task, buffer in enumerate(buffers):
            buffer.add(
                TensorDict(
                    {"obs": o[task], "act": a[task], "rew": r[task], "done": d[task], "next_obs": n[task]}, []
                )
            )

    last: list[list[TensorDict]] = [[]]
    priority = torch.from_numpy(stream.priority)

    def sample() -> object:
        last[0] = [buffer.sample() for buffer in buffers]
        return torch.cat(last[0])

    def update() -> None:
        for task, (buffer, part) in enumerate(zip(buffers, last[0], strict=True)):
            buffer.update_priority(part["index"], priority[task * PER_TASK : (task + 1) * PER_TASK])

    return {"add": add, "sample": sample, "update": update}


def tianshou(tasks: int, capacity: int) -> Work:
    """Its prioritised vector buffer: one tree for all tasks, so it does not stratify."""
    from tianshou.data import Batch, PrioritizedVectorReplayBuffer

    stream = Stream(tasks)
    buffer = PrioritizedVectorReplayBuffer(tasks * capacity, tasks, alpha=ALPHA, beta=BETA)

    def add() -> None:
        o, a, r, d, ended, n = stream.step()
        buffer.add(Batch(obs=o, act=a, rew=r, terminated=d, truncated=ended, obs_next=n, info={}))

    for _ in range(capacity):
        add()
    last = [buffer.sample(tasks * PER_TASK)]

    def sample() -> None:
        last[0] = buffer.sample(tasks * PER_TASK)

    return {
        "add": add,
        "sample": sample,
        "update": lambda: buffer.update_weight(last[0][1], stream.priority),
    }


def stable_baselines3(tasks: int, capacity: int) -> Work:
    """Its uniform buffer with one env per task; a row's task is drawn too."""
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    stream = Stream(tasks)
    buffer = ReplayBuffer(
        tasks * capacity, Box(-1, 1, (OBSERVATION,)), Box(-1, 1, (ACTION,)), device="cpu", n_envs=tasks
    )

    def add() -> None:
        o, a, r, d, _, n = stream.step()
        buffer.add(o, n, a, r, d, [{}] * tasks)

    for _ in range(capacity):
        add()
    return {"add": add, "sample": lambda: buffer.sample(tasks * PER_TASK)}


def numpy_shared(tasks: int, capacity: int, one_hot: bool) -> Work:
    """The paper's way in numpy: arrays [time, task, ...], one list of times for all tasks. Its observations hold the
    task's one-hot; without it there is less to copy."""
    stream, rng = Stream(tasks), np.random.default_rng(0)
    size = OBSERVATION + (tasks if one_hot else 0)
    widths = (size, ACTION, 1, 1, size)
    arrays = [np.ones((capacity, tasks, width), np.float32) for width in widths]
    place = [0]

    def add() -> None:
        o, a, r, d, _, n = stream.step()
        for array, column in zip(arrays, (o, a, r[:, None], d[:, None], n), strict=True):
            array[place[0], :, : column.shape[1]] = column
        place[0] = (place[0] + 1) % capacity

    def sample() -> object:
        times = rng.integers(0, capacity, PER_TASK)
        return [array[times].reshape(PER_TASK * tasks, -1) for array in arrays]

    return {"add": add, "sample": sample}


def floor(tasks: int, capacity: int) -> Work:
    """What the machine allows: as many random runs of the same 348 bytes copied as a batch has rows."""
    rng = np.random.default_rng(0)
    rows = np.ones((tasks * capacity, 87), np.float32)
    out = np.empty((tasks * PER_TASK, 87), np.float32)
    indices = rng.integers(0, tasks * capacity, (64, tasks * PER_TASK))
    turn = iter(range(1 << 60))
    return {"sample": lambda: rows.take(indices[next(turn) % 64], axis=0, out=out, mode="clip")}


def many(stream: Stream, capacity: int) -> dict[str, np.ndarray]:
    """[tasks, capacity, ...] columns, where a peer takes many transitions at once."""
    steps = [stream.step() for _ in range(capacity)]
    o, a, r, d, _, n = (np.stack(column, 1) for column in zip(*steps, strict=True))
    return {"obs": o, "act": a, "rew": r, "done": d, "next_obs": n}


def both(work: Work, first: str, second: str) -> Callable[[], object]:
    def one_after_the_other() -> None:
        work[first]()
        work[second]()

    return one_after_the_other


def on_gpu(tasks: int, capacity: int, mode: str, place: str) -> Work:
    stream, device = Stream(tasks), torch.device("cuda")
    settings = config.ReplaySettings(capacity=capacity, mode=mode, alpha=ALPHA, beta=BETA)
    replay = build_replay(settings, device=device, place=place, tasks=tasks, seed=0, discount=0.99)
    return work_of(replay, stream, capacity, device)


def torch_on_gpu(tasks: int, capacity: int, mode: str) -> Work:
    """The obvious way: columns [task, time, ...] on the GPU, drawn by torch.multinomial or torch.randint."""
    stream, device = Stream(tasks), "cuda"
    widths = (OBSERVATION, ACTION, 1, 1, OBSERVATION)
    columns = [torch.ones((tasks, capacity, width), device=device) for width in widths]
    weights = torch.ones((tasks, capacity), device=device)
    priority = torch.from_numpy(stream.priority).to(device).view(tasks, PER_TASK)
    task, drawn = torch.arange(tasks, device=device)[:, None], [weights[:, :PER_TASK].long()]

    def sample() -> object:
        if mode == "prioritized":
            drawn[0] = torch.multinomial(weights, PER_TASK, replacement=True)
            chance = weights[task, drawn[0]] * capacity / weights.sum(1, keepdim=True)
            importance = (chance / chance.min()) ** -BETA
        else:
            drawn[0], importance = torch.randint(capacity, (tasks, PER_TASK), device=device), weights
        return [column[task, drawn[0]] for column in columns], importance

    def update() -> None:
        weights[task, drawn[0]] = priority**ALPHA

    return {"sample": sample, "update": update} if mode == "prioritized" else {"sample": sample}


def cuda_cases(quick: bool) -> Iterator[Case]:
    for name, size in (QUICK_SIZES if quick else SIZES).items():
        for mode in ("prioritized", "uniform"):
            mine = on_gpu(*size, mode, "device")
            peers = {"ours on the host": on_gpu(*size, mode, "host"), "torch": torch_on_gpu(*size, mode)}
            for peer_name, peer in peers.items():
                for work in ("sample", "update", "add"):
                    if work in peer and (work != "update" or mode == "prioritized"):
                        case = f"{name} {mode} {work}"
                        yield Case(case, peer_name, mine[work], peer[work], calls=50, clock=gpu_clock)


def compare(name: str, peer_name: str, mine: Work, make_peer: Callable[[], Work]) -> Iterator[Case]:
    try:
        peer = make_peer()
    except ImportError as error:
        click.echo(f"{name:32} {peer_name:24} left out: {str(error)[:100]}")
        return
    trash = np.zeros(1 << 23)

    def cool() -> None:
        trash[:] += 1

    works = [("sample", mine["sample"], peer["sample"])]
    if "update" in peer:
        works = [("cycle", both(mine, "sample", "update"), both(peer, "sample", "update")), *works]
        works.append(("update", mine["update"], peer["update"]))
    for work, one, other in works:
        yield Case(f"{name} {work} hot", peer_name, one, other, calls=10)
        yield Case(f"{name} {work} cold", peer_name, one, other, before=cool)
    if "add" in peer:
        yield Case(f"{name} add", peer_name, mine["add"], peer["add"], calls=20)


def cases(quick: bool) -> Iterator[Case]:
    torch.set_num_threads(1)
    for name, (tasks, capacity) in (QUICK_SIZES if quick else SIZES).items():
        size = (tasks, capacity)
        peers: dict[str, list[tuple[str, Callable[[], Work]]]] = {
            "prioritized": [
                ("cpprb", functools.partial(cpprb, *size)),
                ("torchrl", functools.partial(torchrl, *size)),
                ("tianshou", functools.partial(tianshou, *size)),
            ],
            "uniform": [
                ("stable-baselines3", functools.partial(stable_baselines3, *size)),
                ("floor: numpy take", functools.partial(floor, *size)),
            ],
            "uniform_shared": [
                ("numpy with one-hot", functools.partial(numpy_shared, *size, True)),
                ("numpy without one-hot", functools.partial(numpy_shared, *size, False)),
            ],
        }
        for mode, makers in peers.items():
            mine = ours(*size, mode)
            for peer_name, make_peer in makers:
                yield from compare(f"{name} {mode}", peer_name, mine, make_peer)
                gc.collect()


if __name__ == "__main__":
    run(cases, cuda_cases=cuda_cases)
