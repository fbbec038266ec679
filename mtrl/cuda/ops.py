"""`mtrl.ops` for CUDA tensors: the extension's CUDA kernels around torch's matrix products (cuBLAS).

Everything is launched on the current stream and nothing waits for the GPU, so that it can be captured in a CUDA graph.
Task ids are not checked here, because that would have to wait; they come from the replay. E critics, B batch rows,
T tasks, D inputs, W width, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtrl import _core
from mtrl.config import Products

# With at least so many critics, rows are routed: a plain kernel differentiates each row through one critic, instead of
# cuBLAS through all of them. No GPU has timed this bound (docs/decisions/0063).
ROUTED_FROM = 3

kernels: Any = getattr(_core, "cuda", None)  # None in a build without nvcc
_products: Products = "float32"


def built() -> Any:
    """The extension's CUDA kernels. Raises RuntimeError if it was built without them."""
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


def set_products(kind: Products) -> None:
    """Sets how this process computes matrix products on the GPU from now on: see `agent.products`."""
    global _products
    _products = kind
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")


def products() -> Products:
    """The latest argument of `set_products`."""
    return _products


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """The product a b, [E, N, K] by [E, K, M], in float32, written to `out` if given. A factor may be bfloat16."""
    if _products != "bfloat16":
        return torch.bmm(a, b) if out is None else torch.bmm(a, b, out=out)
    rounded = torch.bmm(a.bfloat16(), b.bfloat16())
    return rounded.float() if out is None else out.copy_(rounded)


def routes(critics: int) -> bool:
    """Whether each row is differentiated through its minimising critic only. Supported for float32 only."""
    return _products == "float32" and critics >= ROUTED_FROM


def route_rows(q: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of q [E, B] sorted by their least critic: start [E + 1] and row [B], int64.

    Critic e has the least value in the rows row[start[e] : start[e + 1]]; of equal values the first critic counts.
    Writes the minima to least [B].
    """
    critics, rows = q.shape
    start, row = (torch.empty(n, dtype=torch.int64, device=q.device) for n in (critics + 1, rows))
    space = torch.empty(8 * rows, dtype=torch.uint8, device=q.device)
    built().route_rows(q, start, row, least, space, stream_of(q))
    return start, row


def workspace(size: int, like: Tensor) -> Tensor:
    """`size` bytes of zeros on the device of `like`."""
    return torch.zeros(size, dtype=torch.uint8, device=like.device)


def rows_by_task(task: Tensor, tasks: int) -> tuple[Tensor, Tensor]:
    """The rows sorted by task: start [T + 1] and order [B], int64.

    The rows of task t are order[start[t] : start[t + 1]], in the batch's order. task is int64 [B].
    """
    start, order = task.new_empty(tasks + 1), torch.empty_like(task)
    built().rows_by_task(task, start, order, stream_of(task))
    return start, order


def ensemble_linear(
    x: Tensor, kernel: Tensor, bias: Tensor, task_row: Tensor | None, task: Tensor | None
) -> Tensor:
    """As `mtrl.ops.ensemble_linear`."""
    y = product(of_each(x, kernel), kernel)
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
    """The gradients of x, kernel, bias and task_row, from dy [E, B, W], that of the layer's output y [E, B, W].

    That of x is empty unless `input`, the others unless `weights`; that of task_row also if there is none.
    """
    dz = mask(y, dy.contiguous())
    dx = dkernel = dbias = drow = x.new_empty(0)
    if input:
        dx = product(dz, kernel.mT)
        dx = dx.sum(0) if x.dim() == 2 else dx
    if weights:
        dkernel = product(of_each(x, kernel).mT, dz)
        dbias = dz.new_empty((dz.shape[0], dz.shape[2]))
        if task_row is None or task is None:
            bias_gradient(dz, dbias)
        else:
            drow = torch.empty_like(task_row)
            bias_gradient(dz, dbias, drow, rows_by_task(task, task_row.shape[1]))
    return dx, dkernel, dbias, drow


def of_each(x: Tensor, kernel: Tensor) -> Tensor:
    """The input of each critic, [E, B, D]; no copy if they share x [B, D]."""
    return x.expand(kernel.shape[0], *x.shape) if x.dim() == 2 else x


def mask(y: Tensor, dy: Tensor) -> Tensor:
    """dy where y > 0, else 0."""
    dz = torch.empty_like(y)
    built().ensemble_linear_mask(y, dy, dz, stream_of(y))
    return dz


def bias_gradient(
    dz: Tensor, dbias: Tensor, drow: Tensor | None = None, by_task: tuple[Tensor, Tensor] | None = None
) -> None:
    """Writes the sums of dz [E, B, W] over all rows to dbias [E, W].

    With drow [E, T, W] and `by_task`, the result of `rows_by_task`, also the sums over each task's rows to drow.
    """
    start, order = by_task or (None, None)
    space = None
    if drow is None:
        size = built().ensemble_linear_workspace(*dz.shape)
        space = torch.empty(size, dtype=torch.uint8, device=dz.device)
    built().ensemble_linear_bias_gradient(dz, start, order, dbias, drow, space, stream_of(dz))


def head_gather(x: Tensor, kernel: Tensor, bias: Tensor, task: Tensor) -> Tensor:
    """As `mtrl.ops.head_gather`."""
    y = x.new_empty((kernel.shape[0], x.shape[1], kernel.shape[3]))
    built().head_gather_forward(x.contiguous(), kernel, bias, task, y, stream_of(x))
    return y


def head_gather_backward(
    x: Tensor, kernel: Tensor, task: Tensor, dy: Tensor, weights: bool, input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, kernel and bias, from dy [E, B, O], that of the output.

    That of x is empty unless `input`, the others unless `weights`.
    """
    dy, stream = dy.contiguous(), stream_of(x)
    critics, tasks, _, outputs = kernel.shape
    dx = dkernel = dbias = x.new_empty(0)
    if input:
        dx = x.new_empty(x.shape)
        built().head_gather_input_gradient(kernel, task, dy, dx, stream)
    if weights:
        dkernel, dbias = torch.empty_like(kernel), x.new_empty((critics, tasks, outputs))
        start, order = rows_by_task(task, tasks)
        built().head_gather_weight_gradient(x.contiguous(), start, order, dy, dkernel, dbias, stream)
    return dx, dkernel, dbias


def td_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    log_prob: Tensor,
    temperature: Tensor,
    discount: Tensor,
) -> Tensor:
    """As `mtrl.ops.td_target`."""
    y = torch.empty_like(reward)
    rows = (reward, terminated, next_q.contiguous(), log_prob, temperature)
    built().td_target(*rows, None, None, discount, y, None, None, None, None, stream_of(reward))
    return y


def adam_polyak(
    value: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    target: Tensor | None,
    settings: tuple[float, ...],
    steps: Tensor,
) -> Tensor:
    """As `mtrl.ops.adam_polyak`; the norm is 0-d, on the device.

    settings: lr, beta1, beta2, eps, weight_decay, clip, polyak. `steps`, int64 [1], is the number of earlier steps;
    this call adds one to it.
    """
    norm = value.new_empty(1)
    space = workspace(built().adam_polyak_workspace(len(value)), value)
    built().adam_polyak(value, gradient, *moments, target, *settings, steps, norm, space, stream_of(value))
    return norm[0]
