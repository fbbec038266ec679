"""What an update of the agent takes: transitions, one per row."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Transitions(Protocol):
    """A batch of transitions, one per row, as `mtrl.replay` returns it. `task` is int64, the others float32."""

    @property
    def observation(self) -> Tensor: ...  # [B, 39]
    @property
    def action(self) -> Tensor: ...  # [B, 4]
    @property
    def reward(self) -> Tensor: ...  # [B]
    @property
    def terminated(self) -> Tensor: ...  # [B]; 1 if the episode ended for good; 0 if it was cut off
    @property
    def next_observation(self) -> Tensor: ...  # [B, 39]
    @property
    def task(self) -> Tensor: ...  # [B]
    @property
    def weight(self) -> Tensor: ...  # [B]; importance weights, 1 if sampling is uniform
    @property
    def discount(self) -> Tensor: ...  # [B]; of the value of next_observation


class Columns(NamedTuple):
    """Transitions, in the order that updates in one call take."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    next_observation: Tensor
    task: Tensor
    weight: Tensor
    discount: Tensor


def check_finite(batch: Transitions) -> None:
    """Raises ValueError, which names the first column and row with NaN or infinity."""
    for name in ("observation", "action", "reward", "terminated", "next_observation", "weight", "discount"):
        column: Tensor = getattr(batch, name)
        bad = (~column.isfinite()).view(len(column), -1).any(1).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"batch.{name}[{row}] is not finite (task {int(batch.task[row])}); check its env"
            )
