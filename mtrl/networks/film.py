"""`film` (Perez et al. 2018): the task scales and shifts every layer of the observation's encoder, before an MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.networks.layers import Blueprint, EncodedNetwork, Mlp, embedding

ENCODER_LAYERS = 3


class Film(EncodedNetwork):
    """An encoder of the observation whose layers the task scales and shifts, then an MLP over [encoding, context].

    The context is c = ReLU(embedding of the task). The encoder has two hidden layers and an output; each is followed by
    gamma h + beta, two numbers that an MLP computes from c. A torso of `depth` layers of `width` takes [encoding, c].
    The encoder and the MLP are `encoder_width` wide. A hidden layer's ReLU comes before its scaling; the output has
    none.
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        critics, settings, generator = plan.critics, plan.settings, plan.generator
        self.backend = plan.backend
        width = settings.encoder_width
        self.embedding = embedding(critics, plan.tasks, width, generator)
        self.modulation = Mlp(critics, (width, width, width, 2 * ENCODER_LAYERS), generator)
        self.encoder = Mlp(critics, (plan.inputs, *[width] * ENCODER_LAYERS), generator)
        torso = (2 * width, *[settings.width] * settings.depth, plan.outputs)
        self.torso = Mlp(critics, torso, generator, plan.head_bound)

    def encode(self, x: Tensor, task: Tensor) -> Tensor:
        context = self.embedding.relu()
        modulation, _ = self.modulation(context, self.kernels)
        own = modulation.index_select(1, task).unflatten(2, (ENCODER_LAYERS, 2, 1))  # [E, B, layer, 2, 1]
        for i, linear in enumerate(self.encoder.linear):
            x = (
                linear(x)
                if i == ENCODER_LAYERS - 1
                else self.kernels.ensemble_linear(x, linear.kernel, linear.bias)
            )
            x = own[:, :, i, 0] * x + own[:, :, i, 1]
        return torch.cat((x, context.index_select(1, task)), 2)
