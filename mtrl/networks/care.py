"""`care` (Sodhani et al. 2021): a mixture of encoders with attention from the task's embedding, before an MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.networks.layers import Blueprint, EncodedNetwork, Mlp, embedding


class Care(EncodedNetwork):
    """Encoders of the observation, mixed by attention from the task, then an MLP over [encoding, context].

    The context is c = MLP(ReLU(embedding of the task)), and the attention softmax(MLP(c)). The encoding is the mean of
    the `experts` encoders' outputs, weighted by the attention. A torso of `depth` layers of `width` takes [encoding,
    c]. All MLPs but the torso have two hidden layers of `encoder_width`. c and the attention are computed once per
    task.
    """

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        critics, settings, generator = plan.critics, plan.settings, plan.generator
        self.backend, self.experts = plan.backend, settings.experts
        width, experts = settings.encoder_width, settings.experts
        self.embedding = embedding(critics, plan.tasks, width, generator)
        self.context = Mlp(critics, (width, width, width, width), generator)
        self.attention = Mlp(critics, (width, width, width, experts), generator)
        self.expert = Mlp(critics * experts, (plan.inputs, width, width, width), generator)
        torso = (2 * width, *[settings.width] * settings.depth, plan.outputs)
        self.torso = Mlp(critics, torso, generator, plan.head_bound)

    def weights(self) -> Tensor:
        """The attention of each task over the experts, [E, T, experts]; rows sum to 1."""
        return self._attend()[1]

    def _attend(self) -> tuple[Tensor, Tensor]:
        context, _ = self.context(self.embedding.relu(), self.kernels)
        logits, _ = self.attention(context, self.kernels)
        return context, logits.softmax(2)

    def encode(self, x: Tensor, task: Tensor) -> Tensor:
        context, attention = (of_task.index_select(1, task) for of_task in self._attend())
        y, _ = self.expert(x, self.kernels)
        y = y.unflatten(0, (len(self.embedding), self.experts))
        return torch.cat((torch.einsum("ebn,enbw->ebw", attention, y), context), 2)
