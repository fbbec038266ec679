"""The replay in a GPU's memory. See `mtrl.replay`."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl import config
from mtrl.cuda import ops
from mtrl.replay import Array, Batch, Replay, Segment, block_bytes, views_of
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE


class ReplayCuda:
    """`mtrl.replay.Replay` in a GPU's memory: the same transitions, priorities and seed give the same batches, bit for
    bit, and its checkpoints are the same files. Batches are on the GPU, and only saving and loading wait for it.

    What only waiting could tell is not raised: `update_priorities` leaves the state as it was for a bad row and
    `check_priorities` tells. Full rows only; not safe from several threads.
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
        # the batch that the next `sample` gives, by counts
        self._ahead: tuple[list[int], Batch] | None = None
        self._updated = 0  # rows of the last update of priorities
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
        """As `Replay.add`, by one copy from pinned memory and one launch."""
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
        if self._ahead and self._ahead[0] != counts:
            raise ValueError(
                f"per_task = {counts}: with replay.lag = 1 this batch was drawn before, with {self._ahead[0]}; "
                "use lag 0 where counts change"
            )
        batch = self._ahead[1] if self._ahead else self._draw(counts)
        self._ahead = (counts, self._draw(counts))
        return batch

    def sample_in_graph(self, counts: Sequence[int]) -> Batch:
        """As `sample`, without a look at what is there: for a CUDA graph, whose later calls do not come here."""
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
        """As `Replay.update_priorities`, without waiting and so without an answer; see `check_priorities`."""
        id, priority = id.to(self._device), priority.to(self._device, torch.float32)
        self._core.update_priorities(id, priority, self._room(4 * len(id)), self._stream())
        self._updated = len(id)

    def check_priorities(self) -> int:
        """How many of the last update's ids were overwritten and so dropped; waits for the GPU.

        Raises ValueError where the update was refused, for a bad priority or an id that never was.
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
        """As `Replay.state_dict`, which can load it."""
        return {"replay": np.frombuffer(b"".join(self._file()), np.uint8)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues bit for bit from a state of this or of the CPU's replay. Raises ValueError as `Replay` does."""
        self._load(np.ascontiguousarray(state["replay"]).data, None)

    def save(
        self, path: str | os.PathLike[str], segments: str | os.PathLike[str] | None = None
    ) -> list[Segment]:
        """As `Replay.save`; one file with all rows in it, which the CPU's replay can load."""
        unfinished = Path(f"{os.fspath(path)}.unfinished")
        with unfinished.open("wb") as file:
            file.writelines(self._file())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        return []

    def load(self, path: str | os.PathLike[str], segments: str | os.PathLike[str] | None = None) -> None:
        """As `Replay.load`."""
        self._load(_mapped(Path(path)), None if segments is None else Path(segments))

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
            if len(self._firsts) == 16:  # counts that are drawn anew each time
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

    def _parts_of(self, task: int) -> _Ring:
        tasks, rows, stride = self._shape["tasks"], self._shape["capacity"] + 1, self._core.stride
        leaves = self._core.blocks * 256
        return _Ring(
            begin=self._part("begin", torch.int64, tasks)[task],
            end=self._part("end", torch.int64, tasks)[task],
            open=self._part("open", torch.int64, tasks)[task],
            row=self._part("row", torch.float32, tasks, rows, stride)[task],
            final=self._part("final", torch.float32, tasks, rows, self._shape["observation"])[task],
            leaves=self._part("leaves", torch.float32, tasks, leaves)[task] if self._prioritized else None,
            words=self._shape["observation"] + self._shape["action"] + 1,
        )

    def _file(self) -> Iterator[bytes]:
        draws = int(self._part("draws", torch.int64, 1))
        alphas = (self._config.alpha, self._numbers["alpha"])  # at first and by now
        ahead = sum(self._ahead[0]) if self._ahead else 0
        identity = (self._prioritized, *self._shape.values(), self._seed, draws, *alphas, 0, ahead, 0)
        header = HEADER.pack(MAGIC, VERSION, *identity)
        yield header + struct.pack("<I", zlib.crc32(header))
        for chunk in self._chunks():
            yield CHUNK.pack(len(chunk), zlib.crc32(chunk))
            yield chunk

    def _chunks(self) -> Iterator[bytes]:
        yield b""  # no segments
        for task in range(self._shape["tasks"]):
            yield from self._parts_of(task).chunks()
        if self._ahead:
            counts, batch = self._ahead
            yield np.array(counts, np.int64).tobytes()
            for column in batch:
                yield column.cpu().numpy().tobytes()

    def _load(self, source: memoryview, folder: Path | None) -> None:
        source = source.cast("B")
        if len(source) < HEADER.size + 4:
            raise ValueError("the replay checkpoint is damaged: it ends too early")
        magic, version, *identity, seed, draws, alpha, present_alpha, segments, ahead, frame = (
            HEADER.unpack_from(source)
        )
        (checksum,) = struct.unpack_from("<I", source, HEADER.size)
        if magic != MAGIC or checksum != zlib.crc32(source[: HEADER.size]):
            raise ValueError("the replay checkpoint is damaged: its header")
        here = (VERSION, int(self._prioritized), *self._shape.values(), 0)
        names = (
            "format version",
            "prioritized",
            "tasks",
            "capacity",
            "observation size",
            "action size",
            "frame size",
        )
        for name, file, mine in zip(names, (version, *identity, frame), here, strict=True):
            if file != mine:
                raise ValueError(f"the replay checkpoint has {name} = {file}, this replay has {mine}")
        if self._prioritized and alpha != self._config.alpha:
            raise ValueError(
                f"the replay checkpoint has alpha = {alpha}, this replay has {self._config.alpha}"
            )
        waiting: tuple[list[int], Batch] | None = None
        for apply in (False, True):  # nothing is changed before all has been checked
            chunks = _Chunks(source, HEADER.size + 4)
            named = SEGMENT.iter_unpack(chunks.take(SEGMENT.size * segments).data)
            rows = [self._open_segment(folder, *segment) for segment in named]
            for task in range(self._shape["tasks"]):
                size = self._parts_of(task).read(chunks, rows, apply)
                self._size[task] = size if apply else self._size[task]
            if ahead:
                waiting = self._read_ahead(chunks, ahead)
            for each in (chunks, *(segment.chunks for segment in rows)):
                each.expect_end()
        self._ahead = waiting
        self._part("draws", torch.int64, 1).fill_(draws)
        self._seed, self._numbers["alpha"] = seed, present_alpha
        self._core = self._build_core()
        if self._prioritized:
            self._core.rebuild(self._stream())

    def _open_segment(self, folder: Path | None, first: int, last: int, checksum: int, _: int) -> _Segment:
        if folder is None:
            raise ValueError("the state names files of rows; load it from where they are")
        content = _mapped(folder / Segment(first, last, checksum).name)
        header = SEGMENT_HEADER.pack(
            SEGMENT_MAGIC, VERSION, 4 * self._core.stride, self._shape["tasks"], first, last, 0
        )
        header += struct.pack("<I", zlib.crc32(header))
        if zlib.crc32(content) != checksum or bytes(content[: len(header)]) != header:
            raise ValueError(f"the replay checkpoint is damaged: segment {first} does not match its checksum")
        return _Segment(first, last, _Chunks(content, len(header)))

    def _read_ahead(self, chunks: _Chunks, rows: int) -> tuple[list[int], Batch]:
        counts = chunks.take(8 * self._shape["tasks"]).view(np.int64).tolist()
        batch = self._empty_batch(rows)
        for column in batch:
            content = torch.from_numpy(chunks.take(column.numel() * column.itemsize).copy())
            column.copy_(content.view(column.dtype).view(column.shape))
        return counts, batch


# The file of csrc/replay/checkpoint.cpp, which says what is in it; the header's checksum follows it.
MAGIC, VERSION = b"mtrlRPLY", 3
HEADER = struct.Struct("<8sIIqqqqQQddqqI")
SEGMENT = struct.Struct("<qqII")
SEGMENT_MAGIC, SEGMENT_HEADER = b"mtrlROWS", struct.Struct("<8sIIqqqI")
CHUNK = struct.Struct("<II")
RING = struct.Struct("<qqIIII")
CHUNK_BYTES = 1 << 20
LAST = 4  # the flag of a row whose next observation is kept elsewhere


def _mapped(path: Path) -> memoryview:
    return np.memmap(path, np.uint8, "r").data


class _Chunks:
    """The chunks of a checkpoint, one after another."""

    def __init__(self, source: memoryview, at: int) -> None:
        self._source, self._at = source, at

    def take(self, size: int) -> NDArray[np.uint8]:
        """The next chunk, which must be `size` bytes long. Raises ValueError where it is damaged."""
        begin = self._at + CHUNK.size
        self._at = begin + size
        if self._at > len(self._source):
            raise ValueError("the replay checkpoint is damaged: it ends too early")
        length, checksum = CHUNK.unpack_from(self._source, begin - CHUNK.size)
        chunk = self._source[begin : self._at]
        if length != size or zlib.crc32(chunk) != checksum:
            raise ValueError("the replay checkpoint is damaged: a chunk does not match its checksum")
        return np.frombuffer(chunk, np.uint8)

    def expect_end(self) -> None:
        if self._at != len(self._source):
            raise ValueError("the replay checkpoint is damaged: there is more after its end")


class _Segment(NamedTuple):
    first: int
    last: int
    chunks: _Chunks


class _Ring:
    """One task's part of the GPU's memory, as the file has it."""

    def __init__(
        self,
        begin: Tensor,
        end: Tensor,
        open: Tensor,
        row: Tensor,
        final: Tensor,
        leaves: Tensor | None,
        words: int,
    ) -> None:
        self.begin, self.end, self.open, self.row, self.final = begin, end, open, row, final
        self.leaves, self.words = leaves, words

    def _runs(self, begin: int, count: int) -> list[slice]:
        first, rows = begin % len(self.row), len(self.row)
        return [slice(first, min(first + count, rows)), slice(0, max(first + count - rows, 0))]

    def _pieces(self, first: int, last: int) -> list[NDArray[np.int64]]:
        """The transitions of each chunk of rows."""
        most = max(1, CHUNK_BYTES // (self.row.shape[1] * 4))
        return [np.arange(at, min(at + most, last)) for at in range(first, last, most)]

    def chunks(self) -> Iterator[bytes]:
        begin, end, open = int(self.begin), int(self.end), int(self.open)
        live = self._runs(begin, end - begin)
        row = self.row.cpu().numpy().copy()
        words = row.view(np.uint32)[:, self.words : self.words + 2]
        order = np.concatenate([np.arange(run.start, run.stop) for run in live])
        last = order[words[order, 0] & LAST != 0]
        words[last, 1] = np.arange(len(last))
        yield RING.pack(begin, end, 0, len(last), open, 0)
        for piece in self._pieces(begin, end + open):
            yield row[piece % len(row)].tobytes()
        yield self.final.cpu().numpy()[last].tobytes()
        for run in self._runs(begin, end - begin + open) if self.leaves is not None else []:
            assert self.leaves is not None
            yield self.leaves[run].cpu().numpy().tobytes()

    def read(self, chunks: _Chunks, segments: list[_Segment], apply: bool) -> Any:
        """Takes this ring's chunks; where `apply`, puts them into the memory. Returns how many rows there are."""
        take = chunks.take
        begin, end, kept_begin, kept_end, open, _ = RING.unpack(take(RING.size).tobytes())
        kept, rows, width = kept_end - kept_begin, end - begin, self.final.shape[1]
        if not 0 <= rows < len(self.row) or begin < 0 or not 0 <= kept <= rows:
            raise ValueError("the replay checkpoint is damaged: a ring is impossible")
        first = max(begin, segments[-1].last) if segments else begin
        row = np.zeros(tuple(self.row.shape), np.float32)
        for start, past, source in (*segments, _Segment(first, end + open, chunks)):
            for piece in self._pieces(start, past):
                content = source.take(len(piece) * row.shape[1] * 4).view(np.float32)
                held = piece >= begin
                row[piece[held] % len(row)] = content.reshape(-1, row.shape[1])[held]
        finals = take(kept * width * 4).view(np.float32).reshape(kept, width)
        leaves = np.zeros(0 if self.leaves is None else len(self.leaves), np.float32)
        for run in self._runs(begin, rows + open) if self.leaves is not None else []:
            leaves[run] = take((run.stop - run.start) * 4).view(np.float32)
        if not apply:
            return rows
        order = np.concatenate([np.arange(run.start, run.stop) for run in self._runs(begin, rows)])
        words = row.view(np.uint32)[:, self.words : self.words + 2]
        last = order[words[order, 0] & LAST != 0]
        final = np.zeros(tuple(self.final.shape), np.float32)
        final[last] = finals[(words[last, 1] - np.uint32(kept_begin)).astype(np.int64)]
        for part, value in ((self.begin, begin), (self.end, end), (self.open, open)):
            part.fill_(value)
        self.row.copy_(torch.from_numpy(row))
        self.final.copy_(torch.from_numpy(final))
        if self.leaves is not None:
            self.leaves.copy_(torch.from_numpy(leaves))
        return rows


class _Staging:
    """Columns on their way to a GPU: written in pinned memory, one of two turns, and copied in one piece."""

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
        """The columns on the GPU, until the next call. Raises TypeError or ValueError for another dtype or shape."""
        given = {name: torch.as_tensor(column) for name, column in columns.items()}
        for name, column in given.items():
            place = self._views[name]
            if column.shape != place.shape:
                raise ValueError(f"{name} has shape {list(column.shape)}; expected {list(place.shape)}")
            wanted = {torch.bool} if place.dtype == torch.bool else {torch.float32, torch.float64}
            if column.dtype not in wanted:
                raise TypeError(f"{name} has dtype {column.dtype}; expected {' or '.join(map(str, wanted))}")
        self._turn = 1 - self._turn
        sent = self._sent[self._turn]
        if sent is not None:
            sent.synchronize()  # of the copy before the last one: long done
        for name, column in given.items():
            self._host_views[self._turn][name].copy_(column)
        self._on_device.copy_(self._hosts[self._turn], non_blocking=True)
        if self._pinned:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._on_device.device))
            self._sent[self._turn] = event
        return self._views
