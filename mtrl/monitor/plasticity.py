"""How much of a network is still alive, and how tasks pull at it: dormant neurons, effective rank, norms, gradients.

B batch rows, T tasks, W width, P parameters. Only the first critic's layers are measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtrl.agent import Agent
from mtrl.objective.gradient_surgery import RowLoss, each_task
from mtrl.results import BATCHES, GRADIENT_METRICS, LAYER_METRICS, NETWORKS
from mtrl.transitions import Transitions

SRANK_TAIL = 0.01  # delta of Kumar et al. 2021
SRANK_ROWS = 1024  # rows used at most: the cost grows with the cube
COORDINATES = 1 << 20  # cosines use at most so many numbers of a gradient, evenly spaced
RUN_METRICS = (
    "q_max",
    *(
        f"{network}_{measure}"
        for network in NETWORKS
        for measure in ("weight_norm", "effective_lr", "gradient_norm_fixed")
    ),
    *(f"dormant_{network}{batch}" for network in NETWORKS for batch in ("", "_fixed")),
)


class Measured(NamedTuple):
    """The result of `measure`."""

    per_run: dict[str, float]  # RUN_METRICS
    arrays: dict[str, NDArray[np.float32]]  # those of `mtrl.results.PLASTICITY`, without the axis `eval`


def measure(agent: Agent, batches: Mapping[str, Transitions]) -> Measured:
    """All measures of this module for an agent after its first update, on the batches "training" and "fixed".

    Uses none of the agent's random numbers and changes nothing that its next update or action depends on.
    """
    config, tasks = agent.config.plasticity, len(agent.config.env.tasks)
    sizes = (len(BATCHES), len(NETWORKS))
    per_layer = np.full((*sizes, agent.layers, len(LAYER_METRICS)), np.nan, np.float32)
    by_task = np.full((*sizes, agent.layers, tasks), np.nan, np.float32)
    gradients = np.full((*sizes, tasks, len(GRADIENT_METRICS)), np.nan, np.float32)
    run = dict.fromkeys(RUN_METRICS, math.nan)
    run["q_max"] = float(agent.q(batches["training"]).abs().max())
    for network in NETWORKS:
        run[f"{network}_weight_norm"] = norm = weight_norm(getattr(agent, network))
        run[f"{network}_effective_lr"] = agent.adams[network].update_norm() / norm if norm else math.nan
    for b, name in enumerate(BATCHES):
        batch, suffix = batches[name], "_fixed" if name == "fixed" else ""
        for n, (network, layers) in enumerate(agent.features(batch).items()):
            share = dormant_shares(layers, config.dormant_threshold)
            run[f"dormant_{network}{suffix}"] = pooled(share, layers)
            per_layer[b, n, : len(layers), LAYER_METRICS.index("dormant")] = share
            per_layer[b, n, : len(layers), LAYER_METRICS.index("srank")] = [srank(layer) for layer in layers]
            for t in range(tasks):
                own = [layer[batch.task == t] for layer in layers]
                by_task[b, n, : len(layers), t] = dormant_shares(own, config.dormant_threshold)
        sample = first_rows(batch, tasks, config.gradient_rows)
        for n, (network, (adam, loss)) in enumerate(agent.row_losses(sample).items()):
            gradients[b, n], norm = task_gradients(adam.gradient, loss, sample.task, tasks)
            if name == "fixed":
                run[f"{network}_gradient_norm_fixed"] = norm
    return Measured(run, {"per_layer": per_layer, "dormant": by_task, "task_gradient": gradients})


@torch.no_grad()
def dormant(hidden: Tensor, threshold: float) -> Tensor:
    """Which of W neurons are dormant, bool [W], from activations [B, W].

    Dormant: mean |activation| at most `threshold` times the mean over the layer's neurons (tau-dormant; Sokar et al.
    2023, definition 3.1).
    """
    activity = hidden.abs().mean(0)
    return activity <= threshold * activity.mean()


def dormant_shares(layers: list[Tensor], threshold: float) -> list[float]:
    """The share of dormant neurons in each layer [B, W]; NaN for no rows or a number that is not finite."""
    return [
        float(dormant(layer, threshold).float().mean()) if len(layer) and layer.isfinite().all() else math.nan
        for layer in layers
    ]


def pooled(shares: list[float], layers: list[Tensor]) -> float:
    """The share over the neurons of all layers together, as in the paper. `layers` are the activations, [B, W] each."""
    widths = [layer.shape[1] for layer in layers]
    return sum(share * width for share, width in zip(shares, widths, strict=True)) / sum(widths)


@torch.no_grad()
def srank(hidden: Tensor, tail: float = SRANK_TAIL) -> float:
    """The least k whose k largest singular values hold 1 - tail of their sum, for activations [B, W].

    Kumar et al. 2021, section 3. Uses at most 1,024 evenly spaced rows, and the eigenvalues of the smaller Gram matrix
    in float64. 0 if all activations are zero, NaN if one is not finite.
    """
    if not hidden.isfinite().all():
        return math.nan
    spaced = hidden[:: -(-len(hidden) // SRANK_ROWS)].double()
    gram = spaced @ spaced.T if spaced.shape[0] < spaced.shape[1] else spaced.T @ spaced
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    total = singular.sum()
    if total == 0:
        return 0
    return 1 + int((singular.cumsum(0) / total < 1 - tail).sum())


@torch.no_grad()
def weight_norm(module: nn.Module) -> float:
    """The Euclidean norm of all parameters together."""
    return float(sum(p.double().square().sum() for p in module.parameters()) ** 0.5)


def first_rows(batch: Any, tasks: int, rows: int) -> Any:
    """The first `rows` transitions of each task, or all if it has fewer, as a batch of the same type."""
    own = [(batch.task == t).nonzero()[:rows, 0] for t in range(tasks)]
    return type(batch)(*(column[torch.cat(own)] for column in batch))


def task_gradients(
    gradient: Tensor, row_loss: RowLoss, task: Tensor, tasks: int
) -> tuple[NDArray[np.float32], float]:
    """GRADIENT_METRICS of each task's gradient, [T, 3], and the norm of their mean, which is the whole loss's gradient.

    norm: of the gradient of the task's mean loss. cosine: the mean cosine with the other tasks' gradients. conflict:
    the share of the other tasks with a negative cosine (Yu et al. 2020). With more than 2^20 parameters, cosines use
    evenly spaced ones. NaN for a task without rows; cosine and conflict also for a single task. `row_loss` gives the
    losses of the rows it is passed, task [B] their tasks. `gradient` [P], of which the parameters' `.grad` are views,
    is overwritten.
    """
    step = -(-len(gradient) // COORDINATES)
    each = gradient.new_zeros((tasks, len(gradient[::step])))
    norm = np.full(tasks, np.nan)
    total = torch.zeros_like(gradient)
    for t, _ in each_task(gradient, row_loss, task, tasks):
        share = int((task == t).sum()) * tasks / len(task)  # each_task weighs a task by its rows
        norm[t] = float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) / share
        each[t] = gradient[::step]
        total += gradient / tasks
    cosine, conflict = cosines(each)
    whole = float(torch.linalg.vector_norm(total, dtype=torch.float64))
    return np.stack((norm, cosine, conflict), axis=1).astype(np.float32), whole


def cosines(each: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean cosine of each row of `each` [T, P] with the other rows, and the share of them with a negative one.

    Both are [T]. A row of zeros has no direction: its numbers are NaN, and the others leave it out.
    """
    gram = torch.zeros((len(each), len(each)), dtype=torch.float64, device=each.device)
    for part in torch.split(each, 1 << 16, dim=1):
        gram += part.double() @ part.double().T
    products = gram.cpu().numpy()
    length = np.sqrt(np.diag(products))
    length[length == 0] = np.nan
    cosine = products / np.outer(length, length)
    np.fill_diagonal(cosine, np.nan)
    others = np.isfinite(cosine).sum(1)
    with np.errstate(invalid="ignore"):
        return np.nansum(cosine, axis=1) / others, (cosine < 0).sum(1) / others
