"""The replay buffer of all tasks. The work is done in csrc/replay.

Every task has its own ring of the newest `capacity` transitions. A batch has the same number of transitions of every
task (or a number per task), ordered by task, and is drawn, gathered and weighted in one call.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl import _core, config
from mtrl.tasks import ACTION_SIZE, FRAME_SIZE, OBSERVATION_SIZE

Array = NDArray[Any] | torch.Tensor


class Batch(NamedTuple):
    """B transitions, on the CPU.

    `sample` reuses the memory of a batch once nobody holds any of its tensors. A view of a tensor does not count: clone
    it to keep it beyond the next `sample`.
    """

    observation: torch.Tensor  # float32 [B, observation_size]
    action: torch.Tensor  # float32 [B, action_size]
    reward: torch.Tensor  # float32 [B]
    terminated: torch.Tensor  # float32 [B], 1 where the episode ended for good; 0 where it was cut off
    next_observation: torch.Tensor  # float32 [B, observation_size]
    task: torch.Tensor  # int64 [B]
    weight: torch.Tensor  # float32 [B], importance weights
    id: torch.Tensor  # int64 [B], names for `update_priorities`
    discount: torch.Tensor  # float32 [B], of the value of next_observation: `discount` ** steps taken


class Segment(NamedTuple):
    """A file with the rows of transitions [first, last) of every task."""

    first: int
    last: int
    checksum: int  # CRC-32 of the file

    @property
    def name(self) -> str:
        """The file's name."""
        name: str = _core.segment_name(*self)
        return name


class Replay:
    """Transitions of `tasks` tasks, sampled as `config.mode` says.

    uniform: with replacement, for every task on its own. uniform_shared: one list of time indices for all tasks, as in
    the paper. prioritized: stratified per task in proportion to priority ** alpha, with weights (N P) ** -beta over
    their maximum in the batch, in the task's part of it, in the buffer, or none (Schaul et al. 2016).
    prioritized_independent: the same without strata. New transitions enter at their task's highest live priority.

    With `config.n_step` above 1, rewards are summed over that many transitions with `discount`, fewer where the episode
    was terminated or truncated and at the newest transition; `next_observation`, `terminated` and `discount` are the
    last one's. `config.rows` = frame_stack halves the memory of observations that are [frame, previous frame, goal],
    each frame of `frame_size`: what repeats is stored once, and `add` raises ValueError if it does not repeat. With
    `folder` the rows lie in an unnamed file there, for buffers larger than memory; a crash leaves no file behind.

    With `config.lag` 1 each batch is prefetched: drawn when the one before it is returned, from the buffer as it is
    then. With `prefetch` a thread of the replay draws it. Calls that change or save the buffer wait for the thread, so
    results are the same with and without it.

    With `compact`, for frame_stack only, next_observation lacks the numbers that observation has too; `expand_next`
    puts them back, bit for bit. Such a batch is a quarter smaller to send to a GPU.

    The same seed gives the same batches on every machine, whatever the number of threads. Safe from several threads.
    """

    def __init__(
        self,
        config: config.ReplaySettings,
        *,
        tasks: int,
        seed: int,
        discount: float,
        observation_size: int = OBSERVATION_SIZE,
        action_size: int = ACTION_SIZE,
        frame_size: int = FRAME_SIZE,
        folder: str | os.PathLike[str] = "",
        prefetch: bool = True,
        compact: bool = False,
        instruction_set: str = "auto",
    ) -> None:
        self._config, self._prefetch = config, prefetch
        if compact and config.rows != "frame_stack":
            raise ValueError(f"compact batches are of stacked rows; replay.rows is {config.rows}")
        frames = 2 if config.n_step > 1 else 1  # after several steps the previous frame is another as well
        self._tasks = tasks
        self._sizes = (observation_size, action_size, frames * frame_size if compact else 0)
        self._core = _core.ReplayBuffer(
            tasks=tasks,
            capacity=config.capacity,
            observation=observation_size,
            action=action_size,
            frame=frame_size if config.rows == "frame_stack" else 0,
            mode=config.mode,
            alpha=config.alpha,
            beta=config.beta,
            normalization=config.weights,
            n_step=config.n_step,
            discount=discount,
            seed=seed,
            instruction_set=instruction_set,
            folder=os.fspath(folder),
            next=self._sizes[2],
        )
        self._batches: dict[int, list[ReusedBatch]] = {}
        self._pinned = False  # memory from which a copy to a GPU needs no second copy; opens a CUDA context
        self._lock = threading.Lock()
        self._prefetched: tuple[_core.ReplayOutputs, Batch] | None = None  # what the next `sample` gives
        self._one_sampler = threading.Lock()
        self._segments: list[Segment] = []  # files that hold rows of this replay as they are

    @property
    def size(self) -> NDArray[np.int64]:
        """Transitions held of each task [T]."""
        size: NDArray[np.int64] = self._core.size()
        return size

    def add(
        self,
        observation: Array,
        action: Array,
        reward: Array,
        terminated: Array,
        truncated: Array,
        next_observation: Array,
    ) -> None:
        """Adds one transition per task: [T, ...] each, float32 or float64, the two flags bool.

        `next_observation` is the true successor, also if the episode ended. Raises TypeError or ValueError, with
        nothing added, for another dtype, shape or device.
        """
        self._core.add(observation, action, reward, terminated, truncated, next_observation)

    def sample(self, per_task: int | Sequence[int]) -> Batch:
        """`per_task` transitions of every task, or per_task[t] of task t, ordered by task.

        Raises ValueError if a task has nothing to draw, in mode uniform_shared also if tasks have different numbers of
        transitions, with lag 1 also for counts other than the last ones. No random number is used up then.
        """
        counts = [per_task] * self._tasks if isinstance(per_task, int) else [int(n) for n in per_task]
        if len(counts) != self._tasks or min(counts) < 0 or sum(counts) < 1:
            raise ValueError(f"per_task = {per_task}: give one count, or {self._tasks}, at least 1 in all")
        if self._config.lag:
            return self._sample_prefetched(counts)
        outputs, batch = self._free_batch(sum(counts))
        self._core.sample(counts, outputs)
        return batch

    def _sample_prefetched(self, counts: list[int]) -> Batch:
        with self._one_sampler:
            prefetched = self._core.prefetched()
            if prefetched and prefetched != counts:
                raise ValueError(
                    f"per_task = {counts}: with replay.lag = 1 this batch was prefetched, with {prefetched}; "
                    "use lag 0 where counts change"
                )
            outputs, batch = self._prefetched or self._free_batch(sum(counts))
            self._core.sample(counts, outputs)
            self._prefetched = None
            following = self._free_batch(sum(counts))
            self._core.prefetch(counts, following[0], self._prefetch)
            self._prefetched = following
            return batch

    def update_priorities(self, id: Array, priority: Array) -> int:
        """Sets the priorities [B] of the transitions `id` [B].

        Returns how many ids were skipped, because their transitions were overwritten. The last of equal ids wins.
        Raises ValueError naming the row, with nothing changed, for a priority that is NaN, infinite or negative and for
        an id that was never given.
        """
        if isinstance(priority, torch.Tensor):
            priority = priority.cpu()  # it is computed where the networks are
        stale: int = self._core.update_priorities(id, priority)
        return stale

    def anneal(self, fraction: float) -> None:
        """Moves alpha and beta linearly towards alpha_end and beta_end; `fraction` of the run, 0 to 1, is over.

        Alpha changes only a hundred times, because each change computes all priorities again: about 10 ns each.
        """
        now = self._config
        if now.beta_end is not None:
            self.set_beta(now.beta + fraction * (now.beta_end - now.beta))
        if now.alpha_end is not None:
            self.set_alpha(now.alpha + int(100 * fraction) / 100 * (now.alpha_end - now.alpha))

    def set_beta(self, beta: float) -> None:
        """Sets the importance-weight exponent."""
        self._core.set_beta(beta)

    def set_alpha(self, alpha: float) -> None:
        """Sets the priority exponent, for priorities already set as well. Raises ValueError for 0."""
        self._core.set_alpha(alpha)

    def state_dict(self) -> dict[str, Any]:
        """The whole state, the random generators included, as one array of bytes in the file's format."""
        return {"replay": self._core.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues bit for bit. Raises ValueError, with nothing changed, for a damaged state or another shape."""
        self._core.load_state(state["replay"])
        self._prefetched, self._segments = None, []

    def save(
        self, path: str | os.PathLike[str], segments: str | os.PathLike[str] | None = None
    ) -> list[Segment]:
        """Writes the state to `path`: a whole checksummed file or, after a crash, the one that was there.

        With `segments`, a folder kept from save to save, most rows go into files there, each row once. `path` then
        names the files that it needs and holds only newer rows. Returns these files. Files there that no saved `path`
        names may be deleted.
        """
        used: list[Segment] = []
        if segments is not None:
            settled, least = self._core.settled_rows(), self._config.capacity // 32
            used = self._segments = save_segments(
                Path(segments), self._segments, settled, least, self._core.save_rows
            )
        self._core.save(os.fspath(path), used)
        return used

    def load(self, path: str | os.PathLike[str], segments: str | os.PathLike[str] | None = None) -> None:
        """As `load_state_dict`, from a file of `save` and its folder of segments.

        Rows are read into their place: memory never holds them twice. All checksums are verified before anything
        changes.
        """
        used = self._core.load(os.fspath(path), "" if segments is None else os.fspath(segments))
        self._prefetched, self._segments = None, [Segment(*segment) for segment in used]

    def check_valid(self) -> None:
        """Raises AssertionError naming what is wrong inside. Slow: for tests."""
        wrong = self._core.check()
        if wrong:
            raise AssertionError(f"replay: {wrong}")

    def _free_batch(self, rows: int) -> tuple[_core.ReplayOutputs, Batch]:
        with self._lock:  # or two threads might take the same free batch
            pool = self._batches.setdefault(rows, [])
            for reused in tuple(pool):  # the one of longest ago first
                if not reused.is_free():
                    continue
                pool.remove(reused)
                if reused.outputs.is_intact():
                    break
                # else its user resized a tensor of it or gave one other memory: it is given up
            else:
                reused = ReusedBatch(rows, *self._sizes, pinned=self._pinned)
            pool.append(reused)
            return reused.outputs, reused.batch


def save_segments(
    folder: Path,
    known: Sequence[Segment],
    settled: tuple[int, int],
    least: int,
    save_rows: Callable[[str, int, int], int],
) -> list[Segment]:
    """The files in `folder` with the rows of transitions settled[0] to settled[1]; the newest may be in none yet.

    These are the `known` files that are still needed and, for at least `least` transitions that are in none, a new
    file, written by `save_rows(path, first, last)`. If a needed file is gone, all rows are written again.
    """
    oldest, newest = settled
    used = [segment for segment in known if segment.last > oldest]
    if not all((folder / segment.name).exists() for segment in used):
        used = []
    first = used[-1].last if used else oldest
    if newest - first >= max(1, least):  # so that there are never many files
        unnamed = folder / "next"
        used.append(Segment(first, newest, save_rows(os.fspath(unnamed), first, newest)))
        unnamed.rename(folder / used[-1].name)
    return used


def expand_next(batch: Batch, frame_size: int) -> torch.Tensor:
    """The whole next_observation [B, observation_size] of a compact batch, on its device; one kernel on a GPU."""
    observation, following = batch.observation, batch.next_observation
    return torch.cat(
        (
            following,
            observation[:, following.shape[1] - frame_size : frame_size],
            observation[:, 2 * frame_size :],
        ),
        dim=1,
    )


Columns = Sequence[tuple[str, tuple[int, ...], torch.dtype]]


def batch_columns(rows: int, observation_size: int, action_size: int, next_size: int) -> Columns:
    """Name, shape and dtype of a batch's columns in one block of memory. `id` comes last: it stays on the host."""
    floats, names = torch.float32, torch.int64
    return (
        ("observation", (rows, observation_size), floats),
        ("next_observation", (rows, next_size or observation_size), floats),
        ("action", (rows, action_size), floats),
        ("reward", (rows,), floats),
        ("terminated", (rows,), floats),
        ("weight", (rows,), floats),
        ("discount", (rows,), floats),
        ("task", (rows,), names),
        ("id", (rows,), names),
    )


def block_bytes(columns: Columns) -> int:
    """The bytes of a block that holds the columns one after another, each at a multiple of 64 bytes."""
    return sum(_column_bytes(shape, dtype) for _, shape, dtype in columns)


def _column_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return -(-prod(shape) * dtype.itemsize // 64) * 64  # so that the next one is aligned


def views_of(block: torch.Tensor, columns: Columns) -> dict[str, torch.Tensor]:
    """{name: tensor} of the columns, as views of `block` (uint8)."""
    views, at = {}, 0
    for name, shape, dtype in columns:
        views[name] = block[at : at + prod(shape) * dtype.itemsize].view(dtype).view(shape)
        at += _column_bytes(shape, dtype)
    return views


def pooled_counts(size: NDArray[np.int64], rows: int, generator: np.random.Generator) -> list[int]:
    """How many transitions of each task to sample, if each row is drawn from all tasks' transitions alike.

    size [T] is the number of transitions of each task. The counts [T] sum to `rows`.
    """
    counts: list[int] = generator.multinomial(rows, size / size.sum()).tolist()
    return counts


class ReusedBatch:
    """A batch's tensors, overwritten once nobody holds them: new memory costs more time than the sampling."""

    def __init__(
        self, rows: int, observation_size: int, action_size: int, next_size: int, *, pinned: bool
    ) -> None:
        columns = batch_columns(rows, observation_size, action_size, next_size)
        memory = torch.empty(block_bytes(columns), dtype=torch.uint8, pin_memory=pinned).numpy()
        self.batch = Batch(**views_of(torch.from_numpy(memory), columns))
        sizes = (rows, observation_size, action_size, next_size)
        self.outputs = _core.ReplayOutputs(memory, *sizes, tuple(self.batch))
        self._references = self._count()

    def is_free(self) -> bool:
        """Whether nobody else holds the batch or one of its tensors."""
        return self._count() == self._references

    def _count(self) -> int:
        return sys.getrefcount(self.batch) + sum(map(sys.getrefcount, self.batch))
