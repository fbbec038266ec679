"""Plasticity measures written out in numpy float64: loops over tasks, neurons and pairs, and an SVD.

Slow and obvious; they share no code with the library.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tests.mtrl.reference_critic import Mlp, first_update


def layers_of(state, batch, network, tasks):
    """The hidden activations [B, W] of the network's first critic, first layer to last."""
    x = batch.observation.double().numpy()
    if network == "critic":
        x = np.concatenate((batch.action.double().numpy(), x), 1)
    mlp = Mlp(state[network], 0, tasks)
    mlp.forward(x, np.eye(tasks)[batch.task.numpy()])
    return mlp.inputs[1:]


def dormant_share(hidden, threshold):
    """Sokar et al. 2023: the share of neurons i with E|h_i| / (mean over k of E|h_k|) <= tau."""
    asleep = 0
    activity = [np.mean([abs(h) for h in column]) for column in hidden.T]
    for each in activity:
        asleep += each <= threshold * np.mean(activity)
    return asleep / len(activity)


def srank(hidden, tail=0.01):
    """Kumar et al. 2021: min k with (sum of the k largest singular values) / (sum of all) >= 1 - delta."""
    singular = np.linalg.svd(hidden, compute_uv=False)
    return next(k for k in range(1, len(singular) + 1) if singular[:k].sum() >= (1 - tail) * singular.sum())


def task_gradients(state, batch, next_noise, noise, settings):
    """For actor and critic, the flat gradient [T, P] of each task's mean loss; rows are as many of every task."""
    # the actor meets the critic as it is
    still = SimpleNamespace(**(settings.model_dump() | {"critic_lr": 0.0}))
    found = {}

    def combine(name, gradients):
        found[name] = np.stack([np.concatenate([g.ravel() for g in each.values()]) for each in gradients])
        return gradients[0]

    first_update(state, batch, next_noise, noise, still, combine=combine)
    return found


def gradient_metrics(each):
    """[T, 3]: the norm of each gradient, its mean cosine with the others, the share of others it conflicts with."""
    rows = []
    for i, own in enumerate(each):
        norm = np.sqrt((own**2).sum())
        cosines = [own @ g / norm / np.sqrt((g**2).sum()) for j, g in enumerate(each) if j != i]
        rows.append([norm, np.mean(cosines), np.mean([c < 0 for c in cosines])])
    return np.array(rows)
