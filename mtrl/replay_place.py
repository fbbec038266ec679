"""Where a run's replay lies: on the host, on the host with batches sent to a GPU, or in the GPU's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mtrl import config, devices
from mtrl.replay import Batch, Replay, batch_columns, block_bytes, expand_next, views_of
from mtrl.tasks import ACTION_SIZE, FRAME_SIZE, OBSERVATION_SIZE

if TYPE_CHECKING:
    from mtrl.cuda.replay import ReplayCuda


def build_replay(
    settings: config.ReplaySettings, *, device: torch.device, place: str = "auto", **more: Any
) -> Replay | ReplayCuda:
    """The replay for an agent on `device`; `place` is `run.replay`, `more` is what `Replay` takes.

    Its batches are on `device`, with the same bits wherever the rows lie. Raises ConfigError if the rows cannot lie at
    `place`.
    """
    if not devices.is_gpu(device):
        if place == "device":
            raise config.ConfigError(f"run.replay = 'device' needs a GPU, this run's is '{device}'; use auto")
        return Replay(settings, **more)
    obstacle = _obstacle(settings, device, more["tasks"], more.get("folder", ""))
    if place == "device" and obstacle:
        raise config.ConfigError(f"run.replay = 'device': {obstacle}; use auto or host")
    if place == "host" or obstacle:
        return ShippedReplay(settings, device=device, **more)
    for name in ("folder", "prefetch"):
        more.pop(name, None)
    from mtrl.cuda.replay import ReplayCuda

    return ReplayCuda(settings, device=device, **more)


def _obstacle(settings: config.ReplaySettings, device: torch.device, tasks: int, folder: object) -> str:
    """Why the rows cannot lie on the GPU; empty if they can."""
    from mtrl.cuda import ops, preflight

    if fault := preflight.fault(device):
        return fault
    if folder:
        return "run.replay_folder puts its rows into a file"
    if settings.rows != "full":
        return f"replay.rows = '{settings.rows}' is for rows on the host"
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        size = ops.kernels.replay_bytes(tasks, settings.capacity, OBSERVATION_SIZE, ACTION_SIZE, True)
        if size > free / 2:
            return f"its rows take {size / 2**30:.1f} GiB of the GPU's free {free / 2**30:.1f} GiB"
    return ""


class ShippedReplay(Replay):
    """Rows on the host, batches on a GPU: each is sent in one piece through pinned memory, and the host does not wait.

    With frame_stack a compact batch is sent, and expanded on the GPU. `id` stays on the host for `update_priorities`.
    """

    def __init__(
        self,
        settings: config.ReplaySettings,
        *,
        device: torch.device,
        frame_size: int = FRAME_SIZE,
        **more: Any,
    ) -> None:
        self._device, self._frame_size, self._stacked = device, frame_size, settings.rows == "frame_stack"
        super().__init__(settings, frame_size=frame_size, compact=self._stacked, **more)
        self._pinned = device.type == "cuda"
        self._under_way: list[tuple[torch.cuda.Event, Batch]] = []

    def sample(self, per_task: int | Sequence[int]) -> Batch:
        """As `Replay.sample`, with all but `id` on the GPU."""
        batch = super().sample(per_task)
        columns = batch_columns(len(batch.id), *self._sizes)[:-1]
        block = torch.empty(0, dtype=torch.uint8).set_(batch.observation.untyped_storage())
        sent = block[: block_bytes(columns)].to(self._device, non_blocking=True, copy=True)
        if self._device.type == "cuda":  # the host's batch may be overwritten only after it is sent
            self._under_way = [(event, held) for event, held in self._under_way if not event.query()]  # type: ignore[no-untyped-call]
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._under_way.append((event, batch))
        shipped = Batch(id=batch.id, **views_of(sent, columns))
        if not self._stacked:
            return shipped
        return shipped._replace(next_observation=expand_next(shipped, self._frame_size))
