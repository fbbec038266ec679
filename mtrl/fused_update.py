"""Builds the update that runs as one fused step (fused.py says when it can), on the CPU or on a GPU."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, cast

import torch

from mtrl import devices, ops
from mtrl.adam import BETA1, BETA2
from mtrl.config import Config
from mtrl.cpus import allowed_threads
from mtrl.fused import why_not_fused
from mtrl.matmul import choose_matmul
from mtrl.networks.layers import Network
from mtrl.networks.mtmhsac import MultiHead

if TYPE_CHECKING:
    from mtrl.cuda.sac_update import SacUpdateCuda

FusedUpdate: TypeAlias = Union[ops.SacUpdate, "SacUpdateCuda"]

log = logging.getLogger(__name__)


def build_fused(
    config: Config,
    backend: Literal["core", "torch"],
    actor: tuple[Network, list[int]],
    critic: tuple[Network, list[int]],
    device: torch.device,
) -> FusedUpdate | None:
    """The fused update, or None, with the reason in the log, if updates must run through autograd.

    `actor` and `critic` are each a network and the places of its parameters in its flat vector (`mtrl.adam.flatten`).
    Also chooses the library of matrix products, for the operators too.
    """
    products = choose_matmul(config.run.matmul)
    if reason := f"the backend is {backend}" if backend != "core" else why_not_fused(config):
        log.info("updates run through autograd: %s", reason)
        return None
    settings = config.agent
    numbers = settings.model_dump(include=ops.SAC_SETTINGS) | {"beta1": BETA1, "beta2": BETA2}
    shapes = _shape(*actor), _shape(*critic)
    if devices.is_gpu(device):
        from mtrl.cuda.sac_update import SacUpdateCuda

        return SacUpdateCuda(numbers, *shapes, config.run.cublaslt, device)
    threads = allowed_threads(config.run.threads)
    log.info("updates run as one fused step, products on %s, threads: %d", products, threads)
    return ops.SacUpdate(numbers, *shapes, threads)


def _shape(network: Network, starts: list[int]) -> dict[str, Any]:
    return {**cast(MultiHead, network).shape, "start": starts}
