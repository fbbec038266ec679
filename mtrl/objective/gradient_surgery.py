"""How the gradients of the tasks become one: their mean, PCGrad, or GradNorm. T tasks, B rows, P parameters.

Each is called with the flat gradient [P] to fill, which the parameters' `.grad` are views of, and with a function
that gives the losses of chosen rows. The loss of a task is T/B times the sum over its rows, so that the mean over tasks
is the mean over rows for any number of rows of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mtrl.adam import Adam
from mtrl.config import AgentSettings

RowLoss = Callable[[Tensor | slice], Tensor]  # which rows -> the loss of each
Counts = (
    Sequence[int] | None
)  # rows of each task, if the rows are ordered by task; None: computed from `task`
_EPSILON = 1e-8


class GradientRule(Protocol):
    """Combines the gradients of the tasks into one."""

    def __call__(self, gradient: Tensor, row_loss: RowLoss, task: Tensor, counts: Counts = None) -> Tensor:
        """Fills `gradient` [P] and returns the mean loss, 0-d. `task` [B] is the task of each row.

        `row_loss` gives the losses of the rows it is passed. Without `counts` [T], a rule that needs them waits for the
        GPU.
        """

    def reset(self) -> None: ...  # for a network drawn anew
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build_gradient_rule(
    settings: AgentSettings, tasks: int, generator: torch.Generator, device: torch.device
) -> GradientRule:
    """The rule that `agent.gradient_surgery` names. It draws its random numbers from `generator` (CPU)."""
    if settings.gradient_surgery == "pcgrad":
        return PCGrad(tasks, generator)
    if settings.gradient_surgery == "gradnorm":
        return GradNorm(tasks, asymmetry=settings.gradnorm_asymmetry, lr=settings.gradnorm_lr, device=device)
    return MeanGradient()


class MeanGradient:
    """The gradient of the mean over rows: no surgery."""

    def __call__(self, gradient: Tensor, row_loss: RowLoss, task: Tensor, counts: Counts = None) -> Tensor:
        loss = row_loss(slice(None)).mean()
        gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def reset(self) -> None: ...
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PCGrad:
    """Removes from each task's gradient the part that opposes another task's, then takes the mean (Yu et al. 2020).

    The other tasks come in a random order, the same for all tasks, which each call draws from `generator` (CPU).
    """

    def __init__(self, tasks: int, generator: torch.Generator) -> None:
        self._tasks, self._generator = tasks, generator

    def __call__(self, gradient: Tensor, row_loss: RowLoss, task: Tensor, counts: Counts = None) -> Tensor:
        loss, each = per_task(gradient, row_loss, task, self._tasks, counts)
        order = torch.randperm(self._tasks, generator=self._generator).tolist()
        shares = pcgrad_shares(each @ each.T, order)
        torch.mv(each.T, shares, out=gradient)
        return loss.mean()

    def reset(self) -> None: ...
    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())


def pcgrad_shares(products: Tensor, order: list[int]) -> Tensor:
    """The share [T] of each task's gradient in PCGrad's result, from their inner products [T, T].

    The algorithm: for each j of `order`, for each i but j: g_i -= min(0, g_i . g_j / (|g_j|^2 + 1e-8)) g_j. Each g_i is
    always a combination of the original gradients, row i of `mixture`, so a projection costs T^2 instead of T P.
    """
    mixture = torch.eye(len(order), dtype=products.dtype, device=products.device)
    for j in order:
        against = (mixture @ products[:, j] / (products[j, j] + _EPSILON)).clamp(max=0)
        against[j] = 0
        mixture[:, j] -= against
    return mixture.mean(0)


class GradNorm:
    """Learns a weight of each task, so that tasks that learn slowly get larger gradients (Chen et al. 2018).

    The weights move each weighted gradient norm towards (the mean norm) r^asymmetry, where r is |loss| / |first loss|
    divided by its mean over tasks. Absolute values, because an actor's loss may have either sign. Norms are over all
    parameters. The weights (positive, with mean 1) have an Adam of their own.
    """

    def __init__(self, tasks: int, *, asymmetry: float, lr: float, device: torch.device) -> None:
        self._asymmetry = asymmetry
        self.weight = torch.ones(tasks, device=device)
        self._first_loss = torch.zeros(tasks, device=device)  # 0 before the first call
        gradient = torch.zeros_like(self.weight)
        self._adam = Adam(self.weight, gradient, lr=lr, eps=_EPSILON, clip=float("inf"), backend="torch")

    def __call__(self, gradient: Tensor, row_loss: RowLoss, task: Tensor, counts: Counts = None) -> Tensor:
        loss, each = per_task(gradient, row_loss, task, len(self.weight), counts)
        torch.mv(each.T, self.weight / len(self.weight), out=gradient)
        self._update_weights(loss.abs(), torch.linalg.vector_norm(each, dim=1))
        return loss.mean()

    def _update_weights(self, loss: Tensor, norm: Tensor) -> None:
        if self._adam.steps == 0:
            self._first_loss.copy_(loss)
        progress = loss / (self._first_loss + _EPSILON)
        relative = progress / (progress.mean() + _EPSILON)
        weighted = self.weight * norm
        wanted = weighted.mean() * relative**self._asymmetry
        self._adam.gradient.copy_(norm * (weighted - wanted).sign())
        self._adam.step()
        self.weight.clamp_(min=1e-3)
        self.weight.div_(self.weight.mean())

    def reset(self) -> None:
        self.weight.fill_(1)
        self._adam.reset()

    def state_dict(self) -> dict[str, Any]:
        moments = self._adam.state_dict()
        return {"weight": self.weight.clone(), "first_loss": self._first_loss.clone(), "adam": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight.copy_(state["weight"])
        self._first_loss.copy_(state["first_loss"])
        self._adam.load_state_dict(state["adam"])


def per_task(
    gradient: Tensor, row_loss: RowLoss, task: Tensor, tasks: int, counts: Counts = None
) -> tuple[Tensor, Tensor]:
    """The loss of each task [T] and its gradient [T, P]; zeros for a task without rows. Overwrites `gradient` [P]."""
    loss = gradient.new_zeros(tasks)
    each = gradient.new_zeros((tasks, len(gradient)))
    for t, own in each_task(gradient, row_loss, task, tasks, counts):
        loss[t] = own
        each[t] = gradient
    return loss, each


def each_task(
    gradient: Tensor, row_loss: RowLoss, task: Tensor, tasks: int, counts: Counts = None
) -> Iterator[tuple[int, Tensor]]:
    """Yields each task that has rows with its loss (0-d); until the next, `gradient` [P] holds that loss's gradient.

    Each task's rows pass through the network separately, which is as much work in all as one pass over the batch.
    """
    for t, rows in _rows_of_tasks(task, tasks, counts):
        gradient.zero_()
        own = row_loss(rows).sum() * (tasks / len(task))
        own.backward()  # type: ignore[no-untyped-call]
        yield t, own.detach()


def _rows_of_tasks(task: Tensor, tasks: int, counts: Counts) -> Iterator[tuple[int, Tensor | slice]]:
    if counts is None:
        found = task.bincount(minlength=tasks).tolist()
        split = torch.split(task.argsort(stable=True), found)
        yield from ((t, rows) for t, rows in enumerate(split) if len(rows))
        return
    ends = itertools.accumulate(counts)
    yield from ((t, slice(end - n, end)) for t, (n, end) in enumerate(zip(counts, ends, strict=True)) if n)
