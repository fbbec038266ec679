"""Whether the CUDA kernels run on this GPU and agree with torch: each is launched once, on small inputs.

This finds a driver that is too old, kernels for another architecture and a miscompiled kernel before a run trains on
them, and names the cure. E critics, B rows, T tasks, W width.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mtrl import _core, config, devices
from mtrl.adam import BETA1, BETA2, Adam
from mtrl.cuda import ops
from mtrl.objective import losses
from mtrl.replay import Replay

E, B, T, W, INPUTS, ACTIONS = 2, 37, 3, 20, 11, 4
TOLERANCE = 1e-4  # relative to the largest number of a result: sums of about 40 numbers in another order
Pair = tuple[Any, Tensor]  # the kernel's result, and torch's
_SEEDS = itertools.count()
LOG_STD = (-1.0, 0.5)  # limits, which some of the inputs exceed


class Inputs:
    """Random tensors on the device.

    They are others each time: what an earlier check left in memory must not pass for the result of a kernel that
    writes nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._generator = device, torch.Generator().manual_seed(next(_SEEDS))
        self.task = torch.randint(0, T, (B,), generator=self._generator).to(device)
        self.stream = ops.stream_of(self.task)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self._generator).to(self.device)

    def blank(self, *shape: int) -> Tensor:
        """Memory for a result, filled with NaN: an element that a kernel does not write stays NaN."""
        return torch.full(shape, torch.nan, device=self.device)

    def space(self, size: int) -> Tensor:
        """`size` bytes of zeros: a kernel's workspace."""
        return torch.zeros(size, dtype=torch.uint8, device=self.device)


def fault(device: torch.device) -> str:
    """The first kernel that this GPU cannot run, or that gives other numbers than torch, and a cure; empty if none.

    The first call for a device waits for the GPU; later calls return its result.
    """
    if ops.kernels is None:
        return "mtrl was built without CUDA kernels; `make build CUDA=1` builds them (docs/gpu.md)"
    return _fault(str(device), ops.kernels)


@functools.cache
def _fault(device: str, kernels: Any) -> str:
    return next(iter(faults(torch.device(device))), "")


def faults(device: torch.device) -> list[str]:
    """As `fault`, for every kernel. If one breaks the CUDA context, all later ones fail too."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # torch's own products may be TF32's here
    try:
        with torch.cuda.device(device):
            return list(_examine(device))
    finally:
        torch.set_float32_matmul_precision(precision)


def _examine(device: torch.device) -> Iterator[str]:
    for name, check in CHECKS.items():
        try:
            errors = map(_error, check(Inputs(device)))
            error = next((error for error in errors if not error <= TOLERANCE), 0.0)
        except RuntimeError as refusal:
            yield f"{name} cannot run: {str(refusal).splitlines()[0]}; {_cure(str(refusal), device)}"
            continue
        if error:
            yield (
                f"{name} is off by {error:.1e} of torch's largest number; build mtrl anew for this GPU (docs/gpu.md), "
                "and if that does not help, send the report of `make gpu-check`"
            )


def _error(pair: Pair) -> float:
    got, wanted = torch.as_tensor(pair[0]).detach().double(), pair[1].detach().double()
    if got.shape != wanted.shape:
        return float("inf")
    scale = wanted.abs().max().clamp(min=1e-6)
    return float(((got.to(wanted.device) - wanted).abs().max() / scale).nan_to_num(float("inf")))


def _cure(reason: str, device: torch.device) -> str:
    build = _core.cuda_build() or {"version": "none", "architectures": "none"}
    if "no kernel image" in reason or "invalid device function" in reason:
        major, minor = torch.cuda.get_device_capability(device)
        return (
            f"the kernels were built for {build['architectures']} and this GPU is {major}{minor}: "
            f"`CUDAARCHS={major}{minor} make build CUDA=1`"
        )
    if "driver version is insufficient" in reason or "unsupported toolchain" in reason:
        newest = devices.driver_version()
        knows = f"knows CUDA {newest[0]}.{newest[1]}" if newest else "is missing"
        return f"the driver {knows} and the kernels were built by {build['version']}: update it, or use an older nvcc"
    return "`compute-sanitizer python -m mtrl.cuda.preflight` says more where it is installed"


def td_target(i: Inputs) -> Iterator[Pair]:
    """The TD target, and the critics' loss and its gradient."""
    ends, temperature, weight = (i.normal(B) > 1).float(), i.normal(B).exp(), i.normal(B).exp()
    rows = (i.normal(B), ends, i.normal(E, B), i.normal(B), temperature)
    q, discount = i.normal(E, B).requires_grad_(), i.normal(B).sigmoid()
    y, priority, dq, means = i.blank(B), i.blank(B), i.blank(E, B), i.blank(2)
    space = i.space(ops.built().td_target_workspace(B))
    ops.built().td_target(*rows, q.detach(), weight, discount, y, dq, priority, means, space, i.stream)
    target = losses.td_target(*rows, discount)
    loss = (weight * (q - target).square()).mean()
    yield y, target
    yield dq, torch.autograd.grad(loss, q)[0]
    yield priority, (q - target).abs().mean(0)
    yield means, torch.stack((loss, q.mean()))


def rows_by_task(i: Inputs) -> Iterator[Pair]:
    """The sorting of rows by task."""
    start, order = ops.rows_by_task(i.task, T)
    yield order, i.task.argsort(stable=True)
    yield start[1:], i.task.bincount(minlength=T).cumsum(0)


def layer(i: Inputs) -> Iterator[Pair]:
    """Bias, task row and ReLU of a hidden layer, and their gradients."""
    bias, row, z, dy = i.normal(E, W), i.normal(E, T, W), i.normal(E, B, W), i.normal(E, B, W)
    y = z.clone()
    ops.built().ensemble_linear_bias_relu(bias, row, i.task, y, i.stream)
    expected = (z + bias.unsqueeze(1) + row[:, i.task]).relu()
    yield y, expected
    dz = ops.mask(expected, dy)
    yield dz, dy.where(expected > 0, 0)
    plain, own, by_task = i.blank(E, W), i.blank(E, W), i.blank(E, T, W)
    ops.bias_gradient(dz, plain)
    ops.bias_gradient(dz, own, by_task, ops.rows_by_task(i.task, T))
    yield plain, dz.sum(1)
    yield own, dz.sum(1)
    yield by_task, torch.zeros_like(row).index_add_(1, i.task, dz)


def head(i: Inputs) -> Iterator[Pair]:
    """The heads, each row with its own task's, and their gradients."""
    x, kernel, bias = (i.normal(*shape).requires_grad_() for shape in ((E, B, W), (E, T, W, 2), (E, T, 2)))
    dy = i.normal(E, B, 2)
    expected = torch.einsum("ebw,ebwo->ebo", x, kernel[:, i.task]) + bias[:, i.task]
    gradients = torch.autograd.grad(expected, (x, kernel, bias), dy)
    yield ops.head_gather(x.detach(), kernel.detach(), bias.detach(), i.task), expected
    got = ops.head_gather_backward(x.detach(), kernel.detach(), i.task, dy, weights=True, input=True)
    yield from zip(got, gradients, strict=True)


def least_critic(i: Inputs) -> Iterator[Pair]:
    """The minimum over critics and its gradient."""
    q = i.normal(E, B).requires_grad_()
    minimum = q.min(0).values
    dq, least = i.blank(E, B), i.blank(B)
    ops.built().least_gradient(q.detach(), -0.5, dq, least, i.stream)
    yield dq, torch.autograd.grad(-0.5 * minimum.sum(), q)[0]
    yield least, minimum


def routed_rows(i: Inputs) -> Iterator[Pair]:
    """The gradient of a minimum down to a layer's input, by rows sorted by their least critic."""
    kernel, head_kernel = i.normal(E, INPUTS, W), i.normal(E, T, W, 1)
    x = i.normal(B, INPUTS).requires_grad_()
    below = torch.relu(x).expand(E, B, INPUTS)
    y = torch.bmm(below, kernel).relu()
    q = torch.einsum("ebw,ebw->eb", y, head_kernel[:, i.task, :, 0])
    least = i.blank(B)
    routed = ops.route_rows(q.detach(), least)
    yield routed[1], q.argmin(0).argsort(stable=True)  # checked before the routes are used
    yield routed[0][1:], q.argmin(0).bincount(minlength=E).cumsum(0)
    dz, dx, home = i.blank(B, W), i.blank(B, INPUTS), i.blank(B, ACTIONS)
    ops.built().routed_head(*routed, i.task, head_kernel, 2.0, y.detach(), dz, i.stream)
    ops.built().routed_layer(*routed, dz, kernel, below.detach().contiguous(), dx, i.stream)
    ops.built().routed_layer(*routed, dz, kernel, None, home, i.stream)
    yield least, q.amin(0)
    yield dx, torch.autograd.grad(2.0 * q.min(0).values.sum(), x, retain_graph=True)[0][routed[1]]
    free = torch.autograd.grad(2.0 * q.min(0).values.sum(), below)[0].sum(0)
    yield home, free[:, :ACTIONS]


def policy(i: Inputs) -> Iterator[Pair]:
    """Actions and log-densities of the policy, and their gradients."""
    output, noise = i.normal(B, 2 * ACTIONS).requires_grad_(), i.normal(B, ACTIONS)
    mean, log_std = output.double().chunk(2, dim=1)
    std = log_std.clamp(*LOG_STD).exp()
    u = mean + std * noise
    action = u.tanh()
    log_normal: Tensor = torch.distributions.Normal(mean, std).log_prob(u)  # type: ignore[no-untyped-call]
    density = log_normal - (1 - action.square()).log()
    got, log_prob, doutput = i.blank(B, ACTIONS), i.blank(B), i.blank(B, 2 * ACTIONS)
    ops.built().tanh_gaussian_sample(output.detach(), noise, *LOG_STD, got, log_prob, i.stream)
    yield got, action
    yield log_prob, density.sum(1)
    daction, ddensity = i.normal(B, ACTIONS), i.normal(B)
    ops.built().tanh_gaussian_backward(
        output.detach(), noise, *LOG_STD, got, daction, ddensity, doutput, i.stream
    )
    yield (
        doutput,
        torch.autograd.grad((action, density.sum(1)), output, (daction.double(), ddensity.double()))[0],
    )


def optimiser(i: Inputs) -> Iterator[Pair]:
    """One step of clip, Adam and Polyak average."""
    value, gradient = i.normal(B), i.normal(B)
    twin = Adam(
        value.clone(), gradient.clone(), lr=1e-2, eps=1e-5, clip=1.0, backend="torch", weight_decay=0.1
    )
    moments, target, steps = (
        (torch.zeros_like(value), torch.zeros_like(value)),
        i.normal(B),
        i.task.new_zeros(1),
    )
    wanted = target.clone()
    settings = (1e-2, BETA1, BETA2, 1e-5, 0.1, 1.0, 0.5)
    norm = ops.adam_polyak(value, gradient, moments, target, settings, steps)
    yield norm, twin.step(wanted, 0.5)
    yield value, twin.value
    yield target, wanted
    yield steps, torch.ones_like(steps)


def replay(i: Inputs) -> Iterator[Pair]:
    """Batches of the GPU's replay, which have the same bits as those of the CPU's."""
    from mtrl.cuda.replay import ReplayCuda

    settings = config.ReplaySettings(capacity=5, mode="prioritized")
    sizes: dict[str, Any] = {"tasks": T, "seed": 1, "observation_size": INPUTS, "action_size": ACTIONS}
    ours = ReplayCuda(settings, device=i.device, discount=0.9, **sizes)
    host = Replay(settings, discount=0.9, **sizes)
    both: tuple[Any, Any] = ours, host
    for step in range(7):
        row = (i.normal(T, INPUTS).cpu(), i.normal(T, ACTIONS).cpu(), i.normal(T).cpu())
        ends = torch.zeros(T, dtype=torch.bool), torch.full((T,), step == 4)
        for one in both:
            one.add(*row, *ends, row[0] + 1)
    for _ in range(2):
        batch, wanted = ours.sample(4), host.sample(4)
        yield from zip(batch, wanted, strict=True)
        priority = i.normal(4 * T).exp()
        for one, id in zip(both, (batch.id, wanted.id), strict=True):
            one.update_priorities(id, priority)
            one.set_alpha(0.5)


CHECKS: dict[str, Callable[[Inputs], Iterator[Pair]]] = {
    "td_target": td_target,
    "rows_by_task": rows_by_task,
    "ensemble_linear": layer,
    "head_gather": head,
    "least_gradient": least_critic,
    "min_routing": routed_rows,
    "tanh_gaussian": policy,
    "adam_polyak": optimiser,
    "replay_buffer": replay,
}


if __name__ == "__main__":
    print("\n".join(faults(torch.device("cuda"))) or "every kernel runs and agrees with torch")
