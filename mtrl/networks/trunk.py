"""The hidden layers of the MLPs `mtmhsac`, `mtsac` and `sac`, over [input, task], with their options."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mtrl.config import NetworkSettings
from mtrl.networks import plain
from mtrl.networks.layers import Blueprint, Network, embedding, uniform

EXPANSION = 4  # of the hidden layer inside a simba block


class Trunk(Network):
    """Hidden layers of `critics` MLPs. Kernels start He-uniform (the fan-in includes the task), biases 0.

    The task enters as a one-hot, or as a learned embedding of `task_embedding` numbers. Neither is multiplied for each
    row: a row of `task_row` stands for the product with a one-hot, and an embedding is multiplied once per task.
    `block` says what follows the first linear layer:

    plain       ReLU, and depth - 1 times Linear, ReLU: the paper's
    layer_norm  the same with LayerNorm before each ReLU
    brc         LayerNorm, ReLU, then depth blocks h + LayerNorm(Linear(ReLU(LayerNorm(Linear(h))))); Nauman et al. 2025
    simba       depth blocks h + Linear(ReLU(Linear(LayerNorm(h)))), 4 times as wide inside, then LayerNorm; Lee et
                al. 2024
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        critics, settings, generator = plan.critics, plan.settings, plan.generator
        self.backend, self.block, self.depth = plan.backend, settings.block, settings.depth
        width = settings.width
        first = math.sqrt(6 / (plan.inputs + (settings.task_embedding or plan.tasks)))
        if settings.task_embedding:
            self.embedding = embedding(critics, plan.tasks, settings.task_embedding, generator)
            self.embedding_kernel = uniform(
                first, critics, settings.task_embedding, width, generator=generator
            )
        else:
            self.task_row = uniform(first, critics, plan.tasks, width, generator=generator)
        kernels = [uniform(first, critics, plan.inputs, width, generator=generator)]
        for into, out in _later_sizes(settings):
            kernels.append(uniform(math.sqrt(6 / into), critics, into, out, generator=generator))
        self.kernel = nn.ParameterList(kernels)
        self.bias = nn.ParameterList([torch.zeros(critics, kernel.shape[2]) for kernel in kernels])
        norms = {
            "plain": 0,
            "layer_norm": settings.depth,
            "brc": 2 * settings.depth + 1,
            "simba": settings.depth + 1,
        }
        self.scale = nn.ParameterList([torch.ones(critics, width) for _ in range(norms[settings.block])])
        self.shift = nn.ParameterList([torch.zeros(critics, width) for _ in range(norms[settings.block])])

    @property
    def hidden_layers(self) -> int:
        return self.depth + (self.block == "brc")

    def features(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Activations after each ReLU, each [E, B, W]."""
        return self.hidden(x, task)[0]

    def hidden(self, x: Tensor, task: Tensor) -> tuple[list[Tensor], Tensor]:
        """Activations after each ReLU, and the input of the heads, [E, B, W] each."""
        row = self.embedding @ self.embedding_kernel if hasattr(self, "embedding") else self.task_row
        if self.block == "plain":
            activations = [self.kernels.ensemble_linear(x, self.kernel[0], self.bias[0], row, task)]
            for kernel, bias in zip(self.kernel[1:], self.bias[1:], strict=True):
                activations.append(self.kernels.ensemble_linear(activations[-1], kernel, bias))
            return activations, activations[-1]
        first = plain.linear(x, self.kernel[0], self.bias[0], row, task)
        if self.block == "layer_norm":
            activations = [self._norm(0, first).relu()]
            for i in range(1, self.depth):
                activations.append(self._norm(i, self._linear(i, activations[-1])).relu())
            return activations, activations[-1]
        return self._brc(first) if self.block == "brc" else self._simba(first)

    def _brc(self, first: Tensor) -> tuple[list[Tensor], Tensor]:
        stream = self._norm(0, first).relu()
        activations = [stream]
        for i in range(1, 2 * self.depth, 2):
            activations.append(self._norm(i, self._linear(i, stream)).relu())
            stream = stream + self._norm(i + 1, self._linear(i + 1, activations[-1]))
        return activations, stream

    def _simba(self, stream: Tensor) -> tuple[list[Tensor], Tensor]:
        activations: list[Tensor] = []
        for i in range(self.depth):
            activations.append(self._linear(2 * i + 1, self._norm(i, stream)).relu())
            stream = stream + self._linear(2 * i + 2, activations[-1])
        return activations, self._norm(self.depth, stream)

    def _linear(self, i: int, x: Tensor) -> Tensor:
        return plain.linear(x, self.kernel[i], self.bias[i])

    def _norm(self, i: int, x: Tensor) -> Tensor:
        return plain.layer_norm(x, self.scale[i], self.shift[i])


def _later_sizes(shape: NetworkSettings) -> list[tuple[int, int]]:
    """Inputs and outputs of each linear layer after the first."""
    width = shape.width
    match shape.block:
        case "brc":
            return [(width, width)] * (2 * shape.depth)
        case "simba":
            return [(width, EXPANSION * width), (EXPANSION * width, width)] * shape.depth
        case _:
            return [(width, width)] * (shape.depth - 1)
