"""`soft_modularization` (Yang et al. 2020): layers of modules, mixed by a routing network that sees the task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtrl.networks.layers import Blueprint, Linear, Mlp, Network, TaskLinear, uniform


class SoftModularization(Network):
    """`depth` layers of `experts` modules, each a Linear to `width`.

    f = MLP(x) and z = Linear(one-hot), both `encoder_width` wide; e = MLP(ReLU(z f)). From e, every layer computes
    weights, normalised by a softmax, with which it mixes its modules' outputs. From the second layer on, e is
    multiplied by a linear map of all earlier weights. The last layer mixes into one vector, for a head that all tasks
    share.
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        critics, settings, generator = plan.critics, plan.settings, plan.generator
        self.backend, self.modules_per_layer = plan.backend, settings.experts
        encoder, width = settings.encoder_width, settings.width
        modules, layers = settings.experts, settings.depth
        self.observation = Mlp(critics, (plan.inputs, encoder, encoder), generator)
        self.task = TaskLinear(critics, plan.tasks, encoder, generator)
        self.embedding = Mlp(critics, (encoder, width, width), generator)
        into = [encoder] + [width] * (layers - 1)
        self.module = nn.ModuleList(Linear(critics * modules, i, width, generator) for i in into)
        self.condition = nn.ModuleList(
            Linear(critics, layer * modules**2, width, generator) for layer in range(1, layers)
        )
        routes = [modules**2] * (layers - 1) + [modules]
        self.route_kernel = nn.ParameterList(
            [uniform(1e-3, critics, width, count, generator=generator) for count in routes]
        )
        self.route_bias = nn.ParameterList([torch.zeros(critics, count) for count in routes])
        self.head = Linear(critics, width, plan.outputs, generator, plan.head_bound)

    @property
    def hidden_layers(self) -> int:
        return 2 + len(self.module)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs [E, B, O] of the rows x [B, D] of the tasks [B]."""
        output: Tensor = self.head(self._run(x, task)[0][-1])
        return output

    def features(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Activations after each ReLU: those of the observation's encoder, then each layer's modules side by side."""
        return self._run(x, task)[0]

    def routing(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """The mixing weights of each layer, [E, B, M, M] for M modules, the last [E, B, 1, M]; rows sum to 1."""
        return self._run(x, task)[1]

    def _run(self, x: Tensor, task: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        f, hidden = self.observation(x, self.kernels)
        e, _ = self.embedding((self.task(task) * f).relu(), self.kernels)
        critics, rows, _ = f.shape
        hidden.append(f.relu())
        # The inputs of a layer's modules, [E, M, B, W]: the same vector in the first layer, then one for each module.
        h = hidden[-1].unsqueeze(1).expand(-1, self.modules_per_layer, -1, -1)
        weights: list[Tensor] = []
        for layer, module in enumerate(self.module):
            p = self._route(layer, e, weights)
            weights.append(p)
            y = module(h.flatten(0, 1)).unflatten(0, (critics, self.modules_per_layer))
            h = torch.einsum("ebij,ejbw->eibw", p, y).relu()
            hidden.append(h.transpose(1, 2).reshape(critics, rows, -1))
        return hidden, weights

    def _route(self, layer: int, e: Tensor, earlier: list[Tensor]) -> Tensor:
        """Mixing weights [E, B, rows, M] of a layer, from those of all layers before it."""
        if earlier:
            e = e * self.condition[layer - 1](torch.cat([p.flatten(2) for p in earlier], 2))
        logits = e.relu() @ self.route_kernel[layer] + self.route_bias[layer].unsqueeze(1)
        weights: Tensor = logits.unflatten(2, (-1, self.modules_per_layer)).softmax(3)
        return weights
