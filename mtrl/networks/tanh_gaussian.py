"""The policy's distribution: a diagonal Gaussian squashed by tanh (Haarnoja et al. 2018, appendix C)."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import softplus


def sample(output: Tensor, noise: Tensor, log_std_min: float, log_std_max: float) -> tuple[Tensor, Tensor]:
    """Actions [B, A] in (-1, 1) and their log-densities [B], differentiable in `output`.

    output [B, 2 A] holds means, then log standard deviations, clipped (no gradient beyond the limits);
    noise [B, A] is standard normal. log(1 - tanh(u)^2) is written as 2 (log 2 - u - softplus(-2 u)),
    which is exact for large |u|.
    """
    mean, log_std = output.chunk(2, dim=-1)
    log_std = log_std.clamp(log_std_min, log_std_max)
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_squash = 2 * (math.log(2) - u - softplus(-2 * u))
    return u.tanh(), (log_normal - log_squash).sum(-1)


def mode(output: Tensor) -> Tensor:
    """The deterministic action tanh(mean), [B, A]."""
    return output.chunk(2, dim=-1)[0].tanh()
