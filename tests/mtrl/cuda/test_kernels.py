"""The bindings of single kernels against the CPU's, on a GPU or with the kernels on the host (cuda_on_host.py).

The replay's are in test_replay, the layers' in test_ops, and all together in test_sac_update.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl import _core
from mtrl.cuda import ops as cuda_ops
from mtrl.cuda.ops import workspace
from mtrl.objective import losses


def test_td_target_is_the_losses(device: torch.device) -> None:
    critics, rows = 2, 700
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    ends, temperature, weight = (normal(rows) > 1).float(), normal(rows).exp(), normal(rows).exp()
    parts = (normal(rows), ends, normal(critics, rows), normal(rows), temperature)
    q, discount = normal(critics, rows), normal(rows).sigmoid()
    target, priority, dq, mean = (
        torch.empty_like(weight),
        torch.empty_like(weight),
        torch.empty_like(q),
        q.new_empty(2),
    )
    space = workspace(cuda_ops.built().td_target_workspace(rows), q)
    for _ in range(2):  # the workspace is ready again
        outputs = (target, dq, priority, mean, space, cuda_ops.stream_of(q))
        cuda_ops.built().td_target(*parts, q, weight, discount, *outputs)
        expected = losses.td_target(*parts, discount)
        leaf = q.detach().requires_grad_()
        loss = (weight * (leaf - expected).square()).mean()
        (slope,) = torch.autograd.grad(loss, leaf)
        for got, wanted in (
            (target, expected),
            (dq, slope),
            (mean, torch.stack((loss, q.mean()))),
            (priority, (q - expected).abs().mean(0)),
        ):
            torch.testing.assert_close(got, wanted.detach(), rtol=1e-5, atol=1e-5)
        q.mul_(2)


def test_adam_is_the_cpus(device: torch.device) -> None:
    n = 5_003
    generator = torch.Generator().manual_seed(3)
    cpu = [
        torch.randn(n, generator=generator),
        torch.zeros(n),
        torch.zeros(n),
        torch.randn(n, generator=generator),
    ]
    value, mean, square, target = (part.to(device, copy=True) for part in cpu)
    steps = torch.zeros(1, dtype=torch.int64, device=device)
    settings = (3e-4, 0.9, 0.999, 1e-5, 0.1, 1.0, 0.005)
    for step in (1, 2, 3):
        gradient = torch.randn(n, generator=generator)
        expected = _core.adam_polyak(cpu[0], gradient, *cpu[1:], *settings, step)
        norm = cuda_ops.adam_polyak(value, gradient.to(device), (mean, square), target, settings, steps)
        torch.testing.assert_close(float(norm), expected, rtol=1e-5, atol=0)
        assert int(steps) == step
        for got, wanted in zip((value, mean, square, target), cpu, strict=True):
            torch.testing.assert_close(got.cpu(), wanted, rtol=1e-5, atol=1e-6)


def test_rows_are_routed_to_their_least_critic(device: torch.device) -> None:
    q = torch.randn((5, 300), generator=torch.Generator().manual_seed(4)).to(device)
    least = q.new_empty(300)
    start, row = cuda_ops.route_rows(q, least)
    critic = q.argmin(0)
    assert torch.equal(least, q.amin(0))
    assert torch.equal(row, critic.argsort(stable=True))
    assert torch.equal(start[1:] - start[:-1], critic.bincount(minlength=5))


@pytest.mark.skipif(cuda_ops.kernels is None, reason="needs a build with CUDA kernels (nvcc)")
def test_the_binding_refuses_cpu_tensors_and_names_the_cure() -> None:
    z = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match=r"y is on the CPU; expected a CUDA device: pass \.cuda\(\)"):
        cuda_ops.kernels.ensemble_linear_mask(z, z, z, 0)
