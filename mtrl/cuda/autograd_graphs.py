"""Updates through autograd, and the actions of such an agent, as CUDA graphs: for what has no update in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtrl.adam import Adam
from mtrl.cuda.graph import GraphedCall, Mode, StepCounts, Tensors


class AutogradGraphs:
    """The graphs of one agent: an update for each number of rows, and acting.

    `update` computes from columns [B, ...] and noise what one update gives, and changes only `target` and what the
    `adams` hold; `act` computes actions [T, A] from observations [T, O] and noise. Both run as Python in the first
    three calls, and never again if CUDA captures them.
    """

    def __init__(
        self,
        update: Callable[..., Tensors],
        act: Callable[[Tensor, Tensor], Tensor],
        adams: Sequence[Adam],
        target: Tensor,
        mode: Mode,
    ) -> None:
        self._update, self._adams, self._mode = update, adams, mode
        self._steps = StepCounts(len(adams), target.device)
        for place, adam in enumerate(adams):
            adam.count_on(self._steps.on_device[place : place + 1])
        vectors = [(adam.value, adam.gradient, adam.mean, adam.square) for adam in adams]
        self._changes = [*(vector for four in vectors for vector in four), target]
        self._updates: dict[int, GraphedCall] = {}
        acts = torch.zeros(1, dtype=torch.int64, device=target.device)

        def acting(observation: Tensor, noise: Tensor) -> Tensors:
            acts.add_(1)
            return (act(observation, noise),)

        self._acting = GraphedCall("acting", acting, mode, counter=acts)

    def update(self, inputs: Tensors) -> Tensors:
        """The results of `update`. If a graph computed them, the next call overwrites them."""
        rows = len(inputs[0])
        if rows not in self._updates:
            counter = self._steps.on_device
            self._updates[rows] = GraphedCall(
                "the update", self._update, self._mode, counter=counter, changes=self._changes
            )
        made = [adam.steps for adam in self._adams]
        self._steps.agree(made)
        outputs = self._updates[rows](*inputs)
        for adam, steps in zip(self._adams, made, strict=True):
            adam.steps = steps + 1  # in a graph, Adam.step does not run
        return outputs

    def act(self, observation: Tensor, noise: Tensor) -> Tensor:
        """The actions. If a graph computed them, the next call overwrites them."""
        return self._acting(observation, noise)[0]
