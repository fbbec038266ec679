"""One documented function per kernel of `mtrl._core`, as torch operators known to autograd and torch.compile.

They run on CPU float32 tensors and check dtype, device, shape and task ids before a pointer is used. The readable
twin of each is in `mtrl.networks.plain`, `mtrl.objective.losses` and `mtrl.adam`. E critics, B batch rows, T tasks, D
inputs, W width.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl import _core, devices

_library: Any = torch.library.Library("mtrl", "DEF")  # type: ignore[no-untyped-call]
_library.define(
    "ensemble_linear(Tensor x, Tensor kernel, Tensor bias, Tensor? task_row, Tensor? task) -> Tensor"
)
_library.define(
    "ensemble_linear_backward(Tensor x, Tensor kernel, Tensor? task_row, Tensor? task, Tensor y, Tensor dy,"
    " bool weights, bool input) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define("head_gather(Tensor x, Tensor kernel, Tensor bias, Tensor task) -> Tensor")
_library.define(
    "head_gather_backward(Tensor x, Tensor kernel, Tensor task, Tensor dy, bool weights, bool input)"
    " -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "td_target(Tensor reward, Tensor terminated, Tensor next_q, Tensor log_prob, Tensor temperature,"
    " Tensor discount) -> Tensor"
)


def ensemble_linear(
    x: Tensor, kernel: Tensor, bias: Tensor, task_row: Tensor | None = None, task: Tensor | None = None
) -> Tensor:
    """ReLU(x kernel + bias + task_row[task]) of every critic, [E, B, W].

    x is [B, D] (shared by the critics) or [E, B, D]; kernel [E, D, W], bias [E, W]; task_row [E, T, W] with task int64
    [B], or neither. Differentiable in all but task. Raises ValueError for shapes that do not fit or a task out of
    range.
    """
    y: Tensor = torch.ops.mtrl.ensemble_linear(x, kernel, bias, task_row, task)
    return y


def head_gather(x: Tensor, kernel: Tensor, bias: Tensor, task: Tensor) -> Tensor:
    """x kernel[task] + bias[task], [E, B, O]: each row uses the head of its own task.

    x [E, B, W], kernel [E, T, W, O], bias [E, T, O], task int64 [B]; fastest where rows are ordered by task.
    Differentiable in all but task. Raises ValueError for shapes that do not fit or a task out of range.
    """
    y: Tensor = torch.ops.mtrl.head_gather(x, kernel, bias, task)
    return y


def td_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    log_prob: Tensor,
    temperature: Tensor,
    discount: Tensor,
) -> Tensor:
    """y = r + discount (1 - d) (min_e Q_e - temperature log pi), [B]; no gradient (Haarnoja et al. 2018).

    next_q is [E, B], the others are [B]. The readable twin is `mtrl.objective.losses.td_target`.
    """
    y: Tensor = torch.ops.mtrl.td_target(reward, terminated, next_q, log_prob, temperature, discount)
    return y


def adam_polyak(
    value: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    target: Tensor | None,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    clip: float,
    polyak: float,
    steps: int | Tensor,
) -> float | Tensor:
    """One Adam step (Kingma & Ba 2015) on flat vectors, in place, then target += polyak (value - target).

    All vectors have one size; moments are mean and square; betas are beta1 and beta2; `steps` counts this step. The
    gradient is scaled so that its norm is at most `clip`; the norm before that is returned, on a GPU as a 0-d tensor
    there. The decay is decoupled (Loshchilov & Hutter 2019): value shrinks by lr * weight_decay of itself. On a GPU
    `steps` may be a tensor int64 [1], which holds the number of earlier steps and is increased by one.
    """
    if devices.is_gpu(value.device):
        from mtrl.cuda import ops as cuda_ops

        numbers = (lr, *betas, eps, weight_decay, clip, polyak)
        before = steps if isinstance(steps, Tensor) else torch.full((1,), steps - 1, device=value.device)
        return cuda_ops.adam_polyak(value, gradient, moments, target, numbers, before)
    norm: float = _core.adam_polyak(
        value, gradient, *moments, target, lr, *betas, eps, weight_decay, clip, polyak, int(steps)
    )
    return norm


class SacUpdate:
    """A whole SAC update of a multi-head actor and critic ensemble in one call; see csrc/critic/sac_update.h.

    `settings` are the numbers of the section `agent` that SAC_SETTINGS names, and Adam's beta1 and beta2. A shape has
    critics (E), inputs, outputs, tasks, width, depth and start, the places of the parameters in their flat vector, in
    the order of a plain `MultiHead.parameters()`.
    """

    def __init__(
        self, settings: dict[str, float], actor: dict[str, Any], critic: dict[str, Any], threads: int
    ) -> None:
        self._update = _core.SacUpdate(settings, actor, critic, threads)
        self._actions = actor["outputs"] // 2
        self._room: list[Tensor] = []  # for priorities of coming updates, of `_rows` numbers each
        self._rows = 0

    def __call__(
        self,
        actor: Flat,
        critic: Flat,
        target: Tensor,
        log_temperature: Flat,
        batch: tuple[Tensor, ...],
        noise: tuple[Tensor, Tensor],
    ) -> tuple[list[float], Tensor]:
        """Updates the flat vectors in place. Returns the metrics in the order of METRICS and the priorities [B].

        batch: observation [B, O], action [B, A], reward, terminated [B], next_observation [B, O], task int64 [B],
        weight, discount (of the next value) [B]. noise: standard normal draws [B, A] for the next and for the present
        actions. Raises ValueError or TypeError, before anything changes, for shapes, dtypes or task ids that do not
        fit.
        """
        priority = self._free_row(len(batch[2]))
        arrays: list[Tensor] = [*batch, *noise, priority]
        return self._update(actor, critic, target, log_temperature, *arrays), priority

    def _free_row(self, numbers: int) -> Tensor:
        """Memory for so many numbers that nobody else has. Torch is asked once for many: it takes long to answer."""
        if not self._room or self._rows != numbers:
            self._rows = numbers
            self._room = list(torch.empty(max(1, ROOM // max(1, numbers)), numbers).unbind())
        return self._room.pop()

    def act(
        self,
        actor: Tensor,
        observation: NDArray[np.float32],
        task: Tensor | NDArray[np.int64],
        noise: Tensor | None,
    ) -> NDArray[np.float32]:
        """Actions [B, A] of the flat actor for observations [B, O] of tasks [B]; deterministic without noise."""
        action = np.empty((len(observation), self._actions), np.float32)
        self._update.act(actor, observation, task, noise, action)
        return action


ROOM = 16_384  # numbers
Flat = tuple[Tensor, Tensor, Tensor, Tensor, int]  # value, gradient, mean, square, number of the coming step
SAC_SETTINGS = {  # fields of the section `agent` that a SacUpdate follows
    "polyak",
    "actor_lr",
    "critic_lr",
    "temperature_lr",
    "adam_eps",
    "weight_decay",
    "actor_clip",
    "critic_clip",
    "target_entropy",
    "log_std_min",
    "log_std_max",
}
METRICS = (
    "critic_loss",
    "actor_loss",
    "temperature_loss",
    "q_mean",
    "actor_gradient_norm",
    "critic_gradient_norm",
)


def _linear_forward(
    x: Tensor, kernel: Tensor, bias: Tensor, task_row: Tensor | None, task: Tensor | None
) -> Tensor:
    critics, inputs, width = kernel.shape
    y = x.new_empty((critics, x.shape[-2], width))
    space = x.new_empty(_core.ensemble_linear_workspace(critics, x.shape[-2], inputs, width))
    _core.ensemble_linear_forward(x.contiguous(), kernel, bias, task_row, task, y, space)
    return y


def _linear_backward(
    x: Tensor,
    kernel: Tensor,
    task_row: Tensor | None,
    task: Tensor | None,
    y: Tensor,
    dy: Tensor,
    weights: bool,
    input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    critics, inputs, width = kernel.shape
    rows = x.shape[-2]
    dx, dkernel, dbias, drow = _linear_gradients(x, kernel, task_row, task, y, dy, weights, input)
    each = x.new_empty((critics, rows, inputs)) if input and x.dim() == 2 else dx
    _core.ensemble_linear_backward(
        x.contiguous(),
        kernel,
        task_row,
        task,
        y,
        dy.contiguous(),
        torch.empty_like(y),
        each if input else None,
        dkernel if weights else None,
        dbias if weights else None,
        drow if weights and task_row is not None else None,
        x.new_empty(_core.ensemble_linear_workspace(critics, rows, inputs, width)),
    )
    if each is not dx:
        torch.sum(each, 0, out=dx)
    return dx, dkernel, dbias, drow


def _linear_gradients(
    x: Tensor,
    kernel: Tensor,
    task_row: Tensor | None,
    task: Tensor | None,
    y: Tensor,
    dy: Tensor,
    weights: bool,
    input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the gradients of x, kernel, bias and task_row; empty where one is not wanted."""
    critics, _, width = kernel.shape
    return (
        x.new_empty(x.shape if input else 0),
        x.new_empty(kernel.shape if weights else 0),
        x.new_empty((critics, width) if weights else 0),
        x.new_empty(task_row.shape if weights and task_row is not None else 0),
    )


def _linear_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, _, task_row, task = inputs
    ctx.save_for_backward(x, kernel, task_row, task, output)


def _linear_autograd(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    input, weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:4])
    x, kernel, task_row, task, y = ctx.saved_tensors
    dx, dkernel, dbias, drow = torch.ops.mtrl.ensemble_linear_backward(
        x, kernel, task_row, task, y, dy, weights, input
    )
    return (
        dx if input else None,
        dkernel if weights else None,
        dbias if weights else None,
        drow if weights and task_row is not None else None,
        None,
    )


def _head_forward(x: Tensor, kernel: Tensor, bias: Tensor, task: Tensor) -> Tensor:
    critics, tasks, width, outputs = kernel.shape
    y = x.new_empty((critics, x.shape[1], outputs))
    space = x.new_empty(_core.head_gather_workspace(critics, x.shape[1], width, outputs, tasks))
    _core.head_gather_forward(x.contiguous(), kernel, bias, task, y, space)
    return y


def _head_backward(
    x: Tensor, kernel: Tensor, task: Tensor, dy: Tensor, weights: bool, input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    critics, tasks, width, outputs = kernel.shape
    dx, dkernel, dbias = _head_gradients(x, kernel, task, dy, weights, input)
    _core.head_gather_backward(
        x.contiguous(),
        kernel,
        task,
        dy.contiguous(),
        dx if input else None,
        dkernel if weights else None,
        dbias if weights else None,
        x.new_empty(_core.head_gather_workspace(critics, x.shape[1], width, outputs, tasks)),
    )
    return dx, dkernel, dbias


def _head_gradients(
    x: Tensor, kernel: Tensor, task: Tensor, dy: Tensor, weights: bool, input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of x, kernel and bias; empty where one is not wanted."""
    critics, tasks, _, outputs = kernel.shape
    return (
        x.new_empty(x.shape if input else 0),
        x.new_empty(kernel.shape if weights else 0),
        x.new_empty((critics, tasks, outputs) if weights else 0),
    )


def _head_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, _, task = inputs
    ctx.save_for_backward(x, kernel, task)


def _head_autograd(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    input, weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
    x, kernel, task = ctx.saved_tensors
    dx, dkernel, dbias = torch.ops.mtrl.head_gather_backward(x, kernel, task, dy, weights, input)
    return dx if input else None, dkernel if weights else None, dbias if weights else None, None


def _td_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    log_prob: Tensor,
    temperature: Tensor,
    discount: Tensor,
) -> Tensor:
    y = torch.empty_like(reward)
    _core.td_target(reward, terminated, next_q.contiguous(), log_prob, temperature, discount, y)
    return y


def _cuda(operator: str, *values: Any) -> Any:
    """The operator for tensors on a GPU; imported here, so that a run on a CPU never imports it."""
    from mtrl.cuda import ops as cuda_ops

    return getattr(cuda_ops, operator)(*values)


for _name, _kernel in (
    ("ensemble_linear", _linear_forward),
    ("ensemble_linear_backward", _linear_backward),
    ("head_gather", _head_forward),
    ("head_gather_backward", _head_backward),
    ("td_target", _td_target),
):
    _library.impl(_name, _kernel, "CPU")
    _library.impl(_name, functools.partial(_cuda, _name), "CUDA")


def _on_one_device(fake: Any, operator: str) -> Any:
    """`fake`, but tensors on several devices are an error: torch calls it even if only some are meta tensors."""
    names = [argument.name for argument in getattr(torch.ops.mtrl, operator).default._schema.arguments]

    @functools.wraps(fake)
    def checked(*values: Any) -> Any:
        (first, device), *others = [
            (name, value.device)
            for name, value in zip(names, values, strict=False)
            if isinstance(value, Tensor)
        ]
        for name, other in others:
            if other != device:
                raise ValueError(
                    f"mtrl.{operator}: {first} is on {device}, {name} on {other}; pass all tensors on one device"
                )
        return fake(*values)

    return checked


def _fake_linear(x: Tensor, kernel: Tensor, *_: Any) -> Tensor:
    return x.new_empty((kernel.shape[0], x.shape[-2], kernel.shape[2]))


def _fake_head(x: Tensor, kernel: Tensor, *_: Any) -> Tensor:
    return x.new_empty((kernel.shape[0], x.shape[1], kernel.shape[3]))


def _fake_target(reward: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(reward)


for _name, _fake in (
    ("ensemble_linear", _fake_linear),
    ("ensemble_linear_backward", _linear_gradients),
    ("head_gather", _fake_head),
    ("head_gather_backward", _head_gradients),
    ("td_target", _fake_target),
):
    torch.library.register_fake(f"mtrl::{_name}", _on_one_device(_fake, _name), lib=_library)
torch.library.register_autograd(
    "mtrl::ensemble_linear", _linear_autograd, setup_context=_linear_save, lib=_library
)
torch.library.register_autograd("mtrl::head_gather", _head_autograd, setup_context=_head_save, lib=_library)
