"""The replay buffer in a GPU's memory. See `mtrl.replay`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl import _core, config
from mtrl.cuda import ops
from mtrl.replay import Array, Batch, Replay, ReusedBatch, Segment, block_bytes, save_segments, views_of
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

_Image = tuple[Tensor, Tensor, Tensor, Tensor | None]  # of `_core.ReplayBuffer.save_elsewhere`


class ReplayCuda:
    """`mtrl.replay.Replay` in a GPU's memory.

    The same transitions, priorities and seed give the same batches as there, bit for bit, and the same checkpoint
    files. Batches are on the GPU, and only saving and loading wait for it. So `update_priorities` raises no error:
    given a bad row it changes nothing, and `check_priorities` reports it. Full rows only; not safe from several
    threads.
    """

    def __init__(
        self,
        settings: config.ReplaySettings,
        *,
        tasks: int,
        seed: int,
        device: torch.device | str,
        observation_size: int = OBSERVATION_SIZE,
        action_size: int = ACTION_SIZE,
        discount: float,
    ) -> None:
        if settings.rows != "full":
            raise config.ConfigError(f"replay.rows = '{settings.rows}' is not for GPUs; use full")
        self._config = settings
        self._kernels, self._device, self._seed = ops.built(), torch.device(device), seed
        self._shape = {
            "tasks": tasks,
            "capacity": settings.capacity,
            "observation": observation_size,
            "action": action_size,
        }
        self._numbers: dict[str, Any] = {
            "mode": settings.mode,
            "alpha": settings.alpha,
            "beta": settings.beta,
            "normalization": settings.weights,
            "n_step": settings.n_step,
            "discount": discount,
        }
        self._prioritized = settings.prioritized
        size = self._kernels.replay_bytes(*self._shape.values(), self._prioritized)
        self._memory = torch.zeros(size, dtype=torch.uint8, device=self._device)
        self._core = self._build_core()
        self._size = np.zeros(tasks, np.int64)
        # what the next `sample` gives, and its counts
        self._prefetched: tuple[list[int], Batch] | None = None
        self._updated = 0  # rows of the last update of priorities
        self._numbers_of_rings = torch.zeros((tasks, 5), dtype=torch.int64)  # see RingImage
        self._segments: list[Segment] = []  # files that hold rows of this replay as they are
        self._firsts: dict[tuple[int, ...], Tensor] = {}
        columns = {
            "observation": (tasks, observation_size),
            "action": (tasks, action_size),
            "reward": (tasks,),
            "next_observation": (tasks, observation_size),
        }
        self._staging = _Staging(columns, ("terminated", "truncated"), self._device)

    def _build_core(self) -> Any:
        return self._kernels.ReplayBuffer(self._memory, **self._shape, **self._numbers, seed=self._seed)

    @property
    def size(self) -> NDArray[np.int64]:
        """Transitions held of each task [T]."""
        return self._size.copy()

    def add(
        self,
        observation: Array,
        action: Array,
        reward: Array,
        terminated: Array,
        truncated: Array,
        next_observation: Array,
    ) -> None:
        """As `Replay.add`, with one copy from pinned memory and one launch."""
        on_device = self._staging.ship(
            observation=observation,
            action=action,
            reward=reward,
            next_observation=next_observation,
            terminated=terminated,
            truncated=truncated,
        )
        order = ("observation", "action", "reward", "terminated", "truncated", "next_observation")
        self._core.add(*(on_device[name] for name in order), self._stream())
        self._size = np.minimum(self._size + 1, self._shape["capacity"])

    def sample(self, per_task: int | Sequence[int]) -> Batch:
        """As `Replay.sample`. A task whose priorities are all zero gives its oldest transition."""
        tasks = self._shape["tasks"]
        counts = [per_task] * tasks if isinstance(per_task, int) else [int(n) for n in per_task]
        if len(counts) != tasks or min(counts) < 0 or sum(counts) < 1:
            raise ValueError(f"per_task = {per_task}: give one count, or {tasks}, at least 1 in all")
        empty = [task for task, count in enumerate(counts) if count and not self._size[task]]
        if empty:
            raise ValueError(f"task {empty[0]} has no transitions to sample; add some first")
        if not self._config.lag:
            return self._draw(counts)
        if self._prefetched and self._prefetched[0] != counts:
            raise ValueError(
                f"per_task = {counts}: with replay.lag = 1 this batch was prefetched, with {self._prefetched[0]}; "
                "use lag 0 where counts change"
            )
        batch = self._prefetched[1] if self._prefetched else self._draw(counts)
        self._prefetched = (counts, self._draw(counts))
        return batch

    def sample_in_graph(self, counts: Sequence[int]) -> Batch:
        """As `sample`, without its checks: for a CUDA graph, which later runs without calling this function."""
        return self._draw(list(counts))

    @property
    def prioritized(self) -> bool:
        """Whether transitions have priorities."""
        return self._prioritized

    @property
    def sampling_state(self) -> Tensor:
        """The part of the memory that `sample` and `update_priorities` change: all but the rows."""
        return self._memory[: self._core.offsets()["row"]]

    def _draw(self, counts: list[int]) -> Batch:
        batch = self._empty_batch(sum(counts))
        space = self._room(self._core.sample_workspace(sum(counts)))
        self._core.sample(self._first(tuple(counts)), tuple(batch), space, self._stream())
        return batch

    def update_priorities(self, id: Tensor, priority: Tensor) -> None:
        """As `Replay.update_priorities`, but it does not wait for the GPU: `check_priorities` gives its result."""
        id, priority = id.to(self._device), priority.to(self._device, torch.float32)
        self._core.update_priorities(id, priority, self._room(4 * len(id)), self._stream())
        self._updated = len(id)

    def check_priorities(self) -> int:
        """How many ids the last `update_priorities` skipped, because their transitions were overwritten. Waits.

        Raises ValueError if the update was refused, for a bad priority or an id that was never given.
        """
        stale, bad = self._part("report", torch.int64, 2).tolist()
        if bad:
            raise ValueError(
                f"row {self._updated - bad} of the last update of priorities: a priority must be finite and not "
                "negative, and its id one that `sample` gave; nothing was changed"
            )
        return int(stale)

    anneal: Any = Replay.anneal

    def set_beta(self, beta: float) -> None:
        """As `Replay.set_beta`."""
        if not 0 <= beta < float("inf"):
            raise ValueError("beta must be finite and not negative")
        self._numbers["beta"] = beta
        self._core.set_beta(beta)

    def set_alpha(self, alpha: float) -> None:
        """As `Replay.set_alpha`."""
        self._core.set_alpha(alpha, self._stream())
        self._numbers["alpha"] = alpha

    def state_dict(self) -> dict[str, Any]:
        """As `Replay.state_dict`; `Replay` can load it too."""
        return {"replay": self._file().elsewhere_state(*self._elsewhere())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues bit for bit from a state of this class or of `Replay`. Raises ValueError as `Replay` does."""
        self._load(np.ascontiguousarray(state["replay"]), "")

    def save(
        self, path: str | os.PathLike[str], segments: str | os.PathLike[str] | None = None
    ) -> list[Segment]:
        """As `Replay.save`; `Replay` can load it too."""
        file, replay = self._file(), self._elsewhere()
        used: list[Segment] = []
        if segments is not None:

            def save_rows(path: str, first: int, last: int) -> int:
                return file.save_rows_elsewhere(path, first, last, *replay[:2])

            least = self._shape["capacity"] // 32
            used = self._segments = save_segments(
                Path(segments), self._segments, self._settled_rows(), least, save_rows
            )
        file.save_elsewhere(os.fspath(path), used, *replay)
        return used

    def _settled_rows(self) -> tuple[int, int]:
        tasks = self._shape["tasks"]
        oldest, end = (int(self._part(name, torch.int64, tasks)[0]) for name in ("begin", "end"))
        return oldest, max(oldest, end - 1)

    def load(self, path: str | os.PathLike[str], segments: str | os.PathLike[str] | None = None) -> None:
        """As `Replay.load`."""
        self._load(os.fspath(path), "" if segments is None else os.fspath(segments))

    def check_valid(self) -> None:
        """Raises AssertionError naming what is wrong inside. Slow: for tests."""
        numbers = {"mode": self._numbers["mode"], "alpha": self._config.alpha}
        settings = config.ReplaySettings(capacity=self._shape["capacity"], **numbers)
        host = Replay(
            settings,
            tasks=self._shape["tasks"],
            seed=self._seed,
            discount=self._numbers["discount"],
            observation_size=self._shape["observation"],
            action_size=self._shape["action"],
        )
        host.load_state_dict(self.state_dict())
        host.check_valid()
        assert (host.size == self._size).all(), "the host's count of transitions is not the GPU's"

    def _stream(self) -> int:
        return ops.stream_of(self._memory)

    def _room(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def _first(self, counts: tuple[int, ...]) -> Tensor:
        if counts not in self._firsts:
            if len(self._firsts) == 16:  # counts that differ at each call must not fill the memory
                self._firsts.clear()
            self._firsts[counts] = torch.tensor([0, *np.cumsum(counts)], device=self._device)
        return self._firsts[counts]

    def _empty_batch(self, rows: int) -> Batch:
        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty((rows, *shape), dtype=dtype, device=self._device)

        observation, action = self._shape["observation"], self._shape["action"]
        return Batch(
            observation=empty(observation),
            action=empty(action),
            reward=empty(),
            terminated=empty(),
            next_observation=empty(observation),
            task=empty(dtype=torch.int64),
            weight=empty(),
            id=empty(dtype=torch.int64),
            discount=empty(),
        )

    def _part(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """A view of a part of the state."""
        at = self._core.offsets()[name]
        return self._memory[at : at + prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def _ring(self, task: int) -> list[Tensor]:
        """A task's ring in the GPU's memory: begin, end and open [1], row, final, and leaves if prioritized."""
        tasks, rows = self._shape["tasks"], self._shape["capacity"] + 1
        ring = [self._part(name, torch.int64, tasks)[task : task + 1] for name in ("begin", "end", "open")]
        ring.append(self._part("row", torch.float32, tasks, rows, self._core.stride)[task])
        ring.append(self._part("final", torch.float32, tasks, rows, self._shape["observation"])[task])
        if self._prioritized:
            leaves = self._part("leaves", torch.float32, tasks, self._core.blocks * 256)
            ring.append(leaves[task, :rows])
        return ring

    def _file(self) -> _core.ReplayBuffer:
        """A buffer on the host that reads and writes the file. It holds one task at a time."""
        settings: dict[str, Any] = {**self._shape, "tasks": 1, **self._numbers, "alpha": self._config.alpha}
        place: dict[str, Any] = {"frame": 0, "instruction_set": "auto", "folder": "", "next": 0}
        return _core.ReplayBuffer(**settings, **place, seed=self._seed)

    def _elsewhere(self) -> tuple[Any, ...]:
        """The arguments of `_core.ReplayBuffer.save_elsewhere` for this replay."""
        numbers = (self._shape["tasks"], self._seed, int(self._part("draws", torch.int64, 1)))
        counts, batch = self._prefetched or ([], None)
        held = None
        if batch:
            held = self._host_batch(len(batch.id))
            for column, here in zip(held.batch, batch, strict=True):
                column.copy_(here)

        def image_of(task: int) -> _Image:
            begin, end, open, row, final, *leaves = (part.cpu() for part in self._ring(task))
            numbers = self._numbers_of_rings[task]
            numbers[:3] = torch.cat((begin, end, open))
            return numbers, row, final, leaves[0] if leaves else None

        return (*numbers, self._numbers["alpha"]), image_of, counts, held.outputs if held else None

    def _host_batch(self, rows: int) -> ReusedBatch:
        return ReusedBatch(rows, self._shape["observation"], self._shape["action"], 0, pinned=False)

    def _load(self, state: str | NDArray[np.uint8], folder: str) -> None:
        image: _Image | None = None

        def image_of(task: int) -> _Image:
            nonlocal image
            *_, row, final = (torch.zeros(part.shape, dtype=part.dtype) for part in self._ring(task)[:5])
            leaves = torch.zeros(len(row)) if self._prioritized else None
            image = (self._numbers_of_rings[task], row, final, leaves)
            return image

        def filled(task: int) -> None:
            assert image is not None
            numbers, *parts = image
            for place, part in zip(self._ring(task), (*numbers[:3, None], *parts), strict=False):
                place.copy_(part)
            self._size[task] = numbers[1] - numbers[0]

        file = self._file()
        (_, seed, draws, alpha), segments, counts = file.load_elsewhere(
            state, folder, self._shape["tasks"], image_of, filled
        )
        self._segments = [Segment(*segment) for segment in segments]
        self._prefetched = None
        if counts:
            held = self._host_batch(sum(counts))
            file.take_prefetched(held.outputs)
            self._prefetched = (counts, Batch(*(column.to(self._device, copy=True) for column in held.batch)))
        self._part("draws", torch.int64, 1).fill_(draws)
        self._seed, self._numbers["alpha"] = seed, alpha
        self._core = self._build_core()
        if self._prioritized:
            self._core.rebuild(self._stream())


class _Staging:
    """Sends columns to a GPU: writes them to one of two blocks of pinned memory, in turn, and copies the block."""

    def __init__(
        self, columns: dict[str, tuple[int, ...]], flags: tuple[str, ...], device: torch.device
    ) -> None:
        self._pinned = device.type == "cuda"
        shapes = [(name, shape, torch.float32) for name, shape in columns.items()]
        shapes += [(name, columns["reward"], torch.bool) for name in flags]
        size = block_bytes(shapes)
        self._hosts = [torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned) for _ in range(2)]
        self._host_views = [views_of(host, shapes) for host in self._hosts]
        self._sent: list[torch.cuda.Event | None] = [None, None]
        self._on_device = torch.empty(size, dtype=torch.uint8, device=device)
        self._views = views_of(self._on_device, shapes)
        self._turn = 0

    def ship(self, **columns: Array) -> dict[str, Tensor]:
        """The columns on the GPU; the next call overwrites them. Raises TypeError or ValueError for a wrong column."""
        given = {name: torch.as_tensor(column) for name, column in columns.items()}
        for name, column in given.items():
            place = self._views[name]
            if column.shape != place.shape:
                raise ValueError(f"{name} has shape {list(column.shape)}; expected {list(place.shape)}")
            wanted = {torch.bool} if place.dtype == torch.bool else {torch.float32, torch.float64}
            if column.dtype not in wanted:
                raise TypeError(f"{name} has dtype {column.dtype}; expected {' or '.join(map(str, wanted))}")
            if column.dtype == torch.bool and not column.is_cuda and (column.view(torch.uint8) > 1).any():
                raise ValueError(f"{name} is a bool with a byte that is neither 0 nor 1; pass {name} != 0")
        self._turn = 1 - self._turn
        sent = self._sent[self._turn]
        if sent is not None:
            sent.synchronize()  # the copy before the last one, so it has long ended
        for name, column in given.items():
            self._host_views[self._turn][name].copy_(column)
        self._on_device.copy_(self._hosts[self._turn], non_blocking=True)
        if self._pinned:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._on_device.device))
            self._sent[self._turn] = event
        return self._views
