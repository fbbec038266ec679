"""`mtrl.ops` for CUDA tensors: the extension's CUDA kernels around torch's matrix products (cuBLAS).

Everything is started on the current stream and nothing waits for the GPU, so that it can be captured in a CUDA graph.
Task ids are not checked here, since only waiting could tell: they come from `mtrl.replay`. E members, B batch rows,
T tasks, D inputs, W width, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl import _core  # type: ignore[attr-defined]

kernels: Any = getattr(_core, "cuda", None)  # None in a build without nvcc


def register(library: Any) -> None:
    """Gives the operators of `mtrl.ops` their CUDA kernels."""
    for operator in (ensemble_linear, ensemble_linear_backward, own_head, own_head_backward, soft_target):
        library.impl(operator.__name__, operator, "CUDA")


def built() -> Any:
    """The extension's CUDA kernels. Raises RuntimeError where it was built without."""
    if kernels is None:
        raise RuntimeError(
            "a CUDA tensor met a build of mtrl without CUDA kernels: install nvcc (docs/gpu.md), then "
            "`MTRL_CUDA=ON pip install --no-deps --force-reinstall .`; or use agent.backend=torch"
        )
    return kernels


def stream_of(x: Tensor) -> int:
    """The handle of the current stream of x's device."""
    handle: int = torch.cuda.current_stream(x.device).cuda_stream
    return handle


def rows_by_task(task: Tensor, tasks: int) -> tuple[Tensor, Tensor]:
    """start [T + 1] and order [B]: task t's rows are order[start[t] : start[t + 1]], in the batch's order."""
    start, order = task.new_empty(tasks + 1), torch.empty_like(task)
    built().rows_by_task(task, start, order, stream_of(task))
    return start, order


def ensemble_linear(
    x: Tensor, kernel: Tensor, bias: Tensor, task_row: Tensor | None, task: Tensor | None
) -> Tensor:
    """As `mtrl.ops.ensemble_linear`."""
    y = torch.bmm(_of_each(x, kernel), kernel)
    built().ensemble_linear_bias_relu(bias, task_row, task, y, stream_of(x))
    return y


def ensemble_linear_backward(
    x: Tensor,
    kernel: Tensor,
    task_row: Tensor | None,
    task: Tensor | None,
    y: Tensor,
    dy: Tensor,
    weights: bool,
    input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, kernel, bias and task_row; empty where one is not wanted."""
    dz = torch.empty_like(y)
    built().ensemble_linear_mask(y, dy.contiguous(), dz, stream_of(y))
    dx = dkernel = dbias = drow = x.new_empty(0)
    if input:
        dx = torch.bmm(dz, kernel.mT)
        dx = dx.sum(0) if x.dim() == 2 else dx
    if weights:
        dkernel = torch.bmm(_of_each(x, kernel).mT, dz)
        dbias, drow = _bias_gradients(dz, task_row, task)
    return dx, dkernel, dbias, drow


def _of_each(x: Tensor, kernel: Tensor) -> Tensor:
    """The input of each member, [E, B, D], without a copy where they share it."""
    return x.expand(kernel.shape[0], *x.shape) if x.dim() == 2 else x


def _bias_gradients(dz: Tensor, task_row: Tensor | None, task: Tensor | None) -> tuple[Tensor, Tensor]:
    members, rows, width = dz.shape
    dbias = dz.new_empty((members, width))
    if task_row is None or task is None:
        size = built().ensemble_linear_workspace(members, rows, width)
        space = torch.empty(size, dtype=torch.uint8, device=dz.device)
        built().ensemble_linear_bias_gradient(dz, None, None, dbias, None, space, stream_of(dz))
        return dbias, dz.new_empty(0)
    drow = torch.empty_like(task_row)
    start, order = rows_by_task(task, task_row.shape[1])
    built().ensemble_linear_bias_gradient(dz, start, order, dbias, drow, None, stream_of(dz))
    return dbias, drow


def own_head(x: Tensor, kernel: Tensor, bias: Tensor, task: Tensor) -> Tensor:
    """As `mtrl.ops.own_head`."""
    y = x.new_empty((kernel.shape[0], x.shape[1], kernel.shape[3]))
    built().head_gather_forward(x.contiguous(), kernel, bias, task, y, stream_of(x))
    return y


def own_head_backward(
    x: Tensor, kernel: Tensor, task: Tensor, dy: Tensor, weights: bool, input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, kernel and bias; empty where one is not wanted."""
    dy, stream = dy.contiguous(), stream_of(x)
    members, tasks, _, outputs = kernel.shape
    dx = dkernel = dbias = x.new_empty(0)
    if input:
        dx = x.new_empty(x.shape)
        built().head_gather_input_gradient(kernel, task, dy, dx, stream)
    if weights:
        dkernel, dbias = torch.empty_like(kernel), x.new_empty((members, tasks, outputs))
        start, order = rows_by_task(task, tasks)
        built().head_gather_weight_gradient(x.contiguous(), start, order, dy, dkernel, dbias, stream)
    return dx, dkernel, dbias


def soft_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    log_prob: Tensor,
    temperature: Tensor,
    discount: Tensor,
) -> Tensor:
    """As `mtrl.ops.soft_target`."""
    y = torch.empty_like(reward)
    rows = (reward, terminated, next_q.contiguous(), log_prob, temperature)
    built().td_target(*rows, None, None, discount, y, None, None, None, None, stream_of(reward))
    return y
