"""`mtrl.ops_cuda` against plain torch: with stand-ins for the kernels on any machine, with the kernels on a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl import losses, ops_cuda
from mtrl.networks import plain

E, B, T, D, W, OUT = 2, 40, 3, 7, 12, 4

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or ops_cuda.kernels is None,
    reason="needs a GPU and a build with CUDA kernels",
)


def _bias_relu(bias: Tensor, task_row: Tensor | None, task: Tensor | None, y: Tensor, stream: int) -> None:
    own = 0 if task_row is None or task is None else task_row[:, task]
    y.copy_((y + bias.unsqueeze(1) + own).relu())


def _rows_by_task(task: Tensor, start: Tensor, order: Tensor, stream: int) -> None:
    order.copy_(task.argsort(stable=True))
    tasks = start.shape[0] - 1
    start.copy_(torch.tensor([0, *task.bincount(minlength=tasks).cumsum(0)]))


def _segments(start: Tensor, order: Tensor) -> list[Tensor]:
    return [order[a:b] for a, b in zip(start[:-1].tolist(), start[1:].tolist(), strict=True)]


def _bias_gradient(
    dz: Tensor,
    start: Tensor | None,
    order: Tensor | None,
    dbias: Tensor,
    drow: Tensor | None,
    workspace: Tensor | None,
    stream: int,
) -> None:
    dbias.copy_(dz.sum(1))
    if drow is not None and start is not None and order is not None:
        drow.copy_(torch.stack([dz[:, rows].sum(1) for rows in _segments(start, order)], 1))


def _head_weight_gradient(
    x: Tensor, start: Tensor, order: Tensor, dy: Tensor, dkernel: Tensor, dbias: Tensor, stream: int
) -> None:
    for t, rows in enumerate(_segments(start, order)):
        dkernel[:, t] = x[:, rows].mT @ dy[:, rows]
        dbias[:, t] = dy[:, rows].sum(1)


def _td_target(*arguments: Any) -> None:
    rows, discount, y = arguments[:5], arguments[7], arguments[8]
    y.copy_(losses.soft_target(*rows, discount))


STAND_INS = SimpleNamespace(
    ensemble_linear_bias_relu=_bias_relu,
    ensemble_linear_mask=lambda y, dy, dz, stream: dz.copy_(dy * (y > 0)),
    ensemble_linear_workspace=lambda members, rows, width: 4 * members * width,
    ensemble_linear_bias_gradient=_bias_gradient,
    rows_by_task=_rows_by_task,
    head_gather_forward=lambda x, kernel, bias, task, y, stream: y.copy_(
        plain.own_head(x, kernel, bias, task)
    ),
    head_gather_input_gradient=lambda kernel, task, dy, dx, stream: dx.copy_(
        torch.einsum("ebo,ebwo->ebw", dy, kernel[:, task])
    ),
    head_gather_weight_gradient=_head_weight_gradient,
    td_target=_td_target,
)


@pytest.fixture(params=["stand-ins", pytest.param("cuda", marks=[pytest.mark.cuda, needs_gpu])])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "cuda":
        return torch.device("cuda")
    monkeypatch.setattr(ops_cuda, "kernels", STAND_INS)
    monkeypatch.setattr(ops_cuda, "stream_of", lambda x: 0)
    return torch.device("cpu")


def normal(device: torch.device, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(device).requires_grad_()


def tasks_of(device: torch.device) -> Tensor:
    return torch.randint(T, (B,), generator=torch.Generator().manual_seed(1)).to(device)


def assert_near(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        got, expected, rtol=1e-4, atol=1e-4
    )  # float32 sums of B terms in another order


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
        assert_near(ops_cuda.ensemble_linear(x, kernel, bias, task_row, task), y)
        got = ops_cuda.ensemble_linear_backward(x, kernel, task_row, task, y, dy, True, True)
        for gradient, plain_gradient in zip(got, expected, strict=False):
            assert_near(gradient, plain_gradient)
        dx, *rest = ops_cuda.ensemble_linear_backward(x, kernel, task_row, task, y, dy, False, True)
        assert_near(dx, expected[0])
        assert all(part.numel() == 0 for part in rest)


def test_own_head_is_the_plain_head(device: torch.device) -> None:
    x, kernel, bias = normal(device, E, B, W), normal(device, E, T, W, OUT), normal(device, E, T, OUT)
    task = tasks_of(device)
    y = plain.own_head(x, kernel, bias, task)
    dy = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, kernel, bias), dy)
    with torch.no_grad():
        assert_near(ops_cuda.own_head(x, kernel, bias, task), y)
        for got, plain_gradient in zip(
            ops_cuda.own_head_backward(x, kernel, task, dy, True, True), expected, strict=True
        ):
            assert_near(got, plain_gradient)


def test_soft_target_is_the_plain_one(device: torch.device) -> None:
    reward, log_prob, temperature, next_q = (
        normal(device, B).detach(),
        normal(device, B).detach(),
        normal(device, B).detach().exp(),
        normal(device, E, B).detach(),
    )
    terminated = (reward > 1).float()
    rows = (reward, terminated, next_q, log_prob, temperature, temperature.neg().exp())
    assert_near(ops_cuda.soft_target(*rows), losses.soft_target(*rows))


def test_a_build_without_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_cuda, "kernels", None)
    with pytest.raises(RuntimeError, match=r"without CUDA kernels.*MTRL_CUDA=ON"):
        ops_cuda.ensemble_linear(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1), None, None)


@pytest.mark.skipif(ops_cuda.kernels is None, reason="needs a build with CUDA kernels (nvcc)")
def test_the_binding_refuses_cpu_tensors_and_names_the_cure() -> None:
    z = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match=r"y is on the CPU; expected a CUDA device: pass \.cuda\(\)"):
        ops_cuda.kernels.ensemble_linear_mask(z, z, z, 0)
