"""`mtrl.cuda.ops` against plain torch, on a GPU or with the kernels on the host (cuda_on_host.py)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl.cuda import ops as cuda_ops
from mtrl.networks import plain
from mtrl.objective import losses

E, B, T, D, W, OUT = 2, 40, 3, 7, 12, 4


def normal(device: torch.device, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device).requires_grad_()


def tasks_of(device: torch.device) -> Tensor:
    return torch.randint(T, (B,), generator=torch.Generator().manual_seed(1)).to(device)


def assert_near(got: Tensor, expected: Tensor) -> None:
    # float32 sums of B terms in another order
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("with_task", [True, False])
def test_ensemble_linear_is_the_plain_layer(device: torch.device, shared: bool, with_task: bool) -> None:
    x = normal(device, B, D) if shared else normal(device, E, B, D)
    kernel, bias = normal(device, E, D, W), normal(device, E, W)
    task_row, task = (normal(device, E, T, W), tasks_of(device)) if with_task else (None, None)
    y = plain.ensemble_linear(x, kernel, bias, task_row, task)
    dy = torch.randn_like(y)
    inputs = [x, kernel, bias] + ([task_row] if task_row is not None else [])
    expected = torch.autograd.grad(y, inputs, dy)
    with torch.no_grad():
        assert_near(cuda_ops.ensemble_linear(x, kernel, bias, task_row, task), y)
        got = cuda_ops.ensemble_linear_backward(x, kernel, task_row, task, y, dy, True, True)
        for gradient, plain_gradient in zip(got, expected, strict=False):
            assert_near(gradient, plain_gradient)
        dx, *rest = cuda_ops.ensemble_linear_backward(x, kernel, task_row, task, y, dy, False, True)
        assert_near(dx, expected[0])
        assert all(part.numel() == 0 for part in rest)


def test_head_gather_is_the_plain_head(device: torch.device) -> None:
    x, kernel, bias = normal(device, E, B, W), normal(device, E, T, W, OUT), normal(device, E, T, OUT)
    task = tasks_of(device)
    y = plain.head_gather(x, kernel, bias, task)
    dy = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, kernel, bias), dy)
    with torch.no_grad():
        assert_near(cuda_ops.head_gather(x, kernel, bias, task), y)
        for got, plain_gradient in zip(
            cuda_ops.head_gather_backward(x, kernel, task, dy, True, True), expected, strict=True
        ):
            assert_near(got, plain_gradient)


def test_td_target_is_the_plain_one(device: torch.device) -> None:
    reward, log_prob, temperature, next_q = (
        normal(device, B).detach(),
        normal(device, B).detach(),
        normal(device, B).detach().exp(),
        normal(device, E, B).detach(),
    )
    terminated = (reward > 1).float()
    rows = (reward, terminated, next_q, log_prob, temperature, temperature.neg().exp())
    assert_near(cuda_ops.td_target(*rows), losses.td_target(*rows))


def test_a_build_without_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_ops, "kernels", None)
    with pytest.raises(RuntimeError, match=r"without CUDA kernels.*MTRL_CUDA=ON"):
        cuda_ops.ensemble_linear(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1), None, None)
