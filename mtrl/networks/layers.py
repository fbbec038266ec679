"""The parts of the networks: linear layers of all E networks side by side, and layers that depend on a row's task.

E critics (1 for an actor), B batch rows, T tasks, D inputs, W width, O outputs.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtrl import ops
from mtrl.config import NetworkSettings
from mtrl.networks import plain

Backend = Literal["core", "torch"]


@dataclass(frozen=True)
class Blueprint:
    """The arguments from which a network is built."""

    critics: int  # E, networks side by side: agent.critics, or 1 for an actor
    inputs: int  # numbers of a row, D, without the task
    tasks: int  # T
    outputs: int  # numbers that one network gives for a row, O
    settings: NetworkSettings
    head_bound: float  # the last layer is drawn from U(-head_bound, head_bound)
    generator: torch.Generator  # on the CPU
    backend: Backend = "torch"


def uniform(bound: float, *shape: int, generator: torch.Generator) -> nn.Parameter:
    """A parameter of numbers from U(-bound, bound), drawn on the CPU."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


def he_uniform(*shape: int, generator: torch.Generator) -> nn.Parameter:
    """Kernels [..., fan in, fan out] from U(+-sqrt(6 / fan in)); He et al. 2015, for ReLU."""
    return uniform(math.sqrt(6 / shape[-2]), *shape, generator=generator)


class Network(nn.Module):
    """`critics` networks of one kind and shape, side by side: the critics, or one actor (then E is 1).

    Every number of the initial weights comes from `generator` (CPU), so a seed gives the same network on any device.
    """

    backend: Backend  # kernels of the extension, or their plain twin

    @abstractmethod
    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D] of the tasks [B], int64."""

    @abstractmethod
    def features(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Activations of the hidden layers, first to last, each [E, B, its width]."""

    @property
    @abstractmethod
    def hidden_layers(self) -> int:
        """How many layers `features` gives."""

    @property
    def kernels(self) -> Any:
        """The module with `ensemble_linear` and `head_gather`: the extension's, or their plain twin."""
        return ops if self.backend == "core" else plain


class Linear(nn.Module):
    """E linear layers side by side. Kernels start He-uniform and biases 0; with `bound`, both from U(+-bound)."""

    def __init__(
        self, critics: int, inputs: int, outputs: int, generator: torch.Generator, bound: float | None = None
    ) -> None:
        super().__init__()
        if bound is None:
            self.kernel = he_uniform(critics, inputs, outputs, generator=generator)
            self.bias = nn.Parameter(torch.zeros(critics, outputs))
        else:
            self.kernel = uniform(bound, critics, inputs, outputs, generator=generator)
            self.bias = uniform(bound, critics, outputs, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, D], which the critics share, or [E, B, D] -> [E, B, O]."""
        return plain.linear(x, self.kernel, self.bias)


class Mlp(nn.Module):
    """E MLPs side by side: `sizes` = inputs, widths of the hidden layers, outputs; ReLU after all layers but the last.

    With `bound`, the last layer starts from U(+-bound).
    """

    def __init__(
        self, critics: int, sizes: tuple[int, ...], generator: torch.Generator, bound: float | None = None
    ) -> None:
        super().__init__()
        *hidden, last = itertools.pairwise(sizes)
        layers = [Linear(critics, into, out, generator) for into, out in hidden]
        self.linear = nn.ModuleList([*layers, Linear(critics, *last, generator, bound)])

    def forward(self, x: Tensor, kernels: Any) -> tuple[Tensor, list[Tensor]]:
        """x [B, D] or [E, B, D] -> outputs [E, B, O] and the hidden activations, each [E, B, W]."""
        hidden: list[Tensor] = []
        *first, last = self.linear
        for linear in first:
            x = kernels.ensemble_linear(x, linear.kernel, linear.bias)
            hidden.append(x)
        return last(x), hidden


class EncodedNetwork(Network):
    """Networks that encode their input and the task, followed by an MLP, the `torso`, over the encoding."""

    torso: Mlp

    @abstractmethod
    def encode(self, x: Tensor, task: Tensor) -> Tensor:
        """The torso's input [E, B, D'] for the rows x [B, D] of the tasks [B]."""

    @property
    def hidden_layers(self) -> int:
        return len(self.torso.linear) - 1

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D] of the tasks [B]."""
        output: Tensor = self.torso(self.encode(x, task), self.kernels)[0]
        return output

    def features(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Activations of the torso's hidden layers, each [E, B, W]."""
        hidden: list[Tensor] = self.torso(self.encode(x, task), self.kernels)[1]
        return hidden


class TaskLinear(nn.Module):
    """E linear layers of the task's one-hot: row `task` of the kernel plus a bias. Starts He-uniform, biases 0."""

    def __init__(self, critics: int, tasks: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.kernel = he_uniform(critics, tasks, outputs, generator=generator)
        self.bias = nn.Parameter(torch.zeros(critics, outputs))

    def every(self) -> Tensor:
        """The outputs of all tasks, [E, T, O]."""
        return self.kernel + self.bias.unsqueeze(1)

    def forward(self, task: Tensor) -> Tensor:
        """The outputs [E, B, O] of the rows' tasks [B]."""
        return self.every().index_select(1, task)


def embedding(critics: int, tasks: int, width: int, generator: torch.Generator) -> nn.Parameter:
    """`width` learned numbers of each task, [E, T, W], from N(0, 1 / width)."""
    drawn = torch.empty(critics, tasks, width).normal_(0, width**-0.5, generator=generator)
    return nn.Parameter(drawn)
