"""An agent's work on a GPU as CUDA graphs: its updates, what it learns in a vector step, and acting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtrl.adam import Adam
from mtrl.cuda.graph import GraphedCall, Mode, StepCounts, Tensors
from mtrl.replay import Batch

if TYPE_CHECKING:
    from mtrl.cuda.replay import ReplayCuda

UpdateOf = Callable[[int, Tensor], Callable[..., Tensor]]


class LateMetrics:
    """The metrics of the latest update. They stay on the GPU until the next actions bring them along."""

    def __init__(self, on_device: Tensor) -> None:
        self._on_device = on_device
        self._here: list[float] | None = None

    def arrive(self, values: list[float]) -> None:
        """Takes the numbers, which came to the host with something else."""
        self._here = values

    def tolist(self) -> list[float]:
        """The numbers. Waits for the GPU unless they have arrived."""
        if self._here is None:
            self._here = self._on_device.tolist()
        return self._here


class AgentGraphs:
    """The graphs of one agent: an update for each number of rows, a vector step's learning, and acting.

    `update_of(rows, steps)` gives the update for so many rows, a function from columns (`mtrl.transitions`) and noise
    to priorities [B]. It writes `metrics` and changes only these, `target`, what the `adams` hold, and `steps`, int64
    [3], where it counts a step of each. `act` gives actions [T, A] from observations [T, O] of all tasks and noise.
    With `mode` = auto or on, the third call of each is captured, and no Python of it runs again; if CUDA refuses, auto
    continues launch by launch, and on raises RuntimeError.
    """

    def __init__(
        self,
        update_of: UpdateOf,
        act: Callable[[Tensor, Tensor], Tensor],
        adams: Sequence[Adam],
        target: Tensor,
        metrics: Tensor,
        mode: Mode,
    ) -> None:
        self._update_of, self._adams, self._metrics, self._mode = update_of, adams, metrics, mode
        self._steps = StepCounts(len(adams), target.device)
        for place, adam in enumerate(adams):
            adam.count_on(self._steps.on_device[place : place + 1])
        vectors = [(adam.value, adam.gradient, adam.mean, adam.square) for adam in adams]
        self._changes = [*(vector for four in vectors for vector in four), target]
        self._calls: dict[int | ReplayCuda, GraphedCall] = {}
        self._late: LateMetrics | None = None
        acts = torch.zeros(1, dtype=torch.int64, device=target.device)

        def acting(observation: Tensor, noise: Tensor) -> Tensors:
            acts.add_(1)
            return (torch.cat((act(observation, noise).view(-1), metrics)),)

        self._acting = GraphedCall("acting", acting, mode, counter=acts)

    def update(self, columns: Tensors, noise: Tensors) -> tuple[Tensor, Tensor]:
        """Metrics and priorities of an update. Both are on the device; the next call overwrites them."""
        rows = len(noise[0])
        if rows not in self._calls:
            run = self._update_of(rows, self._steps.on_device)
            self._calls[rows] = self._graphed("the update", lambda *inputs: (run(*inputs),))
        (priority,) = self._counted(self._calls[rows], (*columns, *noise))
        return self._metrics, priority

    def learn(
        self, replay: ReplayCuda, counts: Sequence[int], noise: Tensors
    ) -> tuple[Batch, LateMetrics, Tensor]:
        """Samples, updates and sets the priorities, all in one graph. Returns the batch, the metrics, the priorities.

        counts [T]: rows of each task. Pass the same replay and counts in every call. The next call overwrites all.
        """
        if replay not in self._calls:
            run, prioritized = self._update_of(sum(counts), self._steps.on_device), replay.prioritized

            def whole(*noise: Tensor) -> Tensors:
                batch = replay.sample_in_graph(counts)
                priority = run(*batch[:5], batch.task, batch.weight, batch.discount, *noise)
                if prioritized:
                    replay.update_priorities(batch.id, priority)
                return *batch, priority

            self._calls[replay] = self._graphed("a vector step's update", whole, replay.sampling_state)
        *columns, priority = self._counted(self._calls[replay], noise)
        self._late = LateMetrics(self._metrics)
        return Batch(*columns), self._late, priority

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Actions [T, A], on the host. The metrics of the latest `learn` come along."""
        both = self._acting(observation, noise)[0].cpu()  # one wait for actions and metrics
        numbers = len(both) - len(self._metrics)
        if self._late is not None:
            self._late.arrive(both[numbers:].numpy().tolist())
        return both[:numbers].view(len(observation), -1)

    def _graphed(self, name: str, function: Callable[..., Tensors], *more: Tensor) -> GraphedCall:
        counter = self._steps.on_device
        return GraphedCall(name, function, self._mode, counter=counter, changes=[*self._changes, *more])

    def _counted(self, call: GraphedCall, inputs: Tensors) -> Tensors:
        made = [adam.steps for adam in self._adams]
        self._steps.agree(made)
        outputs = call(*inputs)
        for adam, steps in zip(self._adams, made, strict=True):
            adam.steps = steps + 1  # in a graph, no Python counts them
        return outputs
