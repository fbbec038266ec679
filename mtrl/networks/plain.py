"""The layers of a network in plain torch: the readable twin of the kernels in `mtrl.ops`, for any device.

E critics (1 for an actor), B batch rows, T tasks, D inputs, W width, O outputs of one head.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def ensemble_linear(
    x: Tensor, kernel: Tensor, bias: Tensor, task_row: Tensor | None = None, task: Tensor | None = None
) -> Tensor:
    """ReLU(x kernel + bias + task_row[task]) of every critic, [E, B, W].

    x is [B, D] (shared by the critics) or [E, B, D]; kernel [E, D, W], bias [E, W]. task_row [E, T, W] are the rows of
    the kernel for the task's one-hot: looking up row `task` [B] equals multiplying by the one-hot.
    """
    return linear(x, kernel, bias, task_row, task).relu()


def linear(
    x: Tensor, kernel: Tensor, bias: Tensor, task_row: Tensor | None = None, task: Tensor | None = None
) -> Tensor:
    """`ensemble_linear` without the ReLU."""
    y = x @ kernel + bias.unsqueeze(1)
    return y if task_row is None else y + task_row[:, task]


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - mean) / standard deviation over the width, times scale plus shift; x [E, B, W], the others [E, W]."""
    return functional.layer_norm(x, x.shape[-1:]) * scale.unsqueeze(1) + shift.unsqueeze(1)


def head_gather(x: Tensor, kernel: Tensor, bias: Tensor, task: Tensor) -> Tensor:
    """x kernel[task] + bias[task], [E, B, O]: each row uses the head of its own task.

    x [E, B, W], kernel [E, T, W, O], bias [E, T, O], task [B].
    """
    critics, tasks, width, outputs = kernel.shape
    every = x @ kernel.transpose(1, 2).reshape(critics, width, tasks * outputs)
    every = every.view(critics, -1, tasks, outputs) + bias.unsqueeze(1)
    own = task.view(1, -1, 1, 1).expand(critics, -1, 1, outputs)
    return every.gather(2, own).squeeze(2)
