"""On a GPU: the kernels of `mtrl._core.cuda` against the CPU's, and in a CUDA graph. The operators: test_cuda_ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl import _core, config, losses, ops_cuda
from mtrl.replay import Replay

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available() or ops_cuda.kernels is None,
        reason="needs a GPU and a build with CUDA kernels",
    ),
]

TASKS, CAPACITY, PER_TASK, OBSERVATION, ACTION = 3, 700, 64, 39, 4


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def room(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8, device="cuda")


class CudaReplay:
    """The binding as a caller uses it."""

    def __init__(self, mode: str) -> None:
        size = _core.cuda.replay_bytes(TASKS, CAPACITY, OBSERVATION, ACTION, mode == "prioritized")
        self.memory = room(size)
        self.core = _core.cuda.ReplayBuffer(
            self.memory,
            tasks=TASKS,
            capacity=CAPACITY,
            observation=OBSERVATION,
            action=ACTION,
            mode=mode,
            alpha=0.6,
            beta=0.4,
            seed=1,
        )
        rows = TASKS * PER_TASK
        self.first = torch.arange(TASKS + 1, device="cuda") * PER_TASK
        self.workspace = room(self.core.sample_workspace(rows))
        widths = (OBSERVATION, ACTION, None, None, OBSERVATION, None, None, None)
        integers = (5, 7)
        self.batch: tuple[Tensor, ...] = tuple(
            torch.empty(
                (rows,) if width is None else (rows, width),
                dtype=torch.int64 if i in integers else torch.float32,
                device="cuda",
            )
            for i, width in enumerate(widths)
        )

    def add(self, transitions: tuple[Tensor, ...]) -> None:
        self.core.add(*(part.cuda() for part in transitions), stream())

    def sample(self) -> tuple[Tensor, ...]:
        self.core.sample(self.first, self.batch, self.workspace, stream())
        return self.batch

    def update_priorities(self, id: Tensor, priority: Tensor) -> int:
        self.core.update_priorities(id, priority, room(4 * len(id)), stream())
        at = self.core.report_offset()
        return int(self.memory[at : at + 8].view(torch.int64))


def transitions(generator: torch.Generator) -> tuple[Tensor, ...]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    ends = torch.rand((2, TASKS), generator=generator) < 0.05
    return normal(TASKS, OBSERVATION), normal(TASKS, ACTION), normal(TASKS), *ends, normal(TASKS, OBSERVATION)


@pytest.mark.parametrize("mode", ["uniform", "uniform_shared", "prioritized"])
def test_replay_draws_what_the_cpu_draws(mode: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    cpu = Replay(config.Replay(capacity=CAPACITY, mode=mode), tasks=TASKS, seed=1, discount=0.99)
    cuda = CudaReplay(mode)
    for step in range(3 * CAPACITY // 2):
        row = transitions(generator)
        cpu.add(*row)
        cuda.add(row)
        if step % 50:
            continue
        expected = cpu.sample(PER_TASK)
        for got, part in zip(cuda.sample(), expected[:8], strict=True):  # the ninth, discount, is one number
            assert torch.equal(got.cpu(), part)
        if mode == "prioritized":
            priority = torch.rand(len(expected.id), generator=generator)
            stale = cpu.update_priorities(expected.id, priority)
            assert cuda.update_priorities(expected.id.cuda(), priority.cuda()) == stale


def critic_rows(critics: int, rows: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).cuda()

    return (
        normal(rows),
        (normal(rows) > 1).float(),
        normal(critics, rows),
        normal(rows),
        normal(rows).exp(),
        normal(critics, rows),
        normal(rows).exp(),
    )


def test_td_target_is_the_losses_alone_and_in_a_graph() -> None:
    critics, rows = 2, 1280
    *parts, q, weight = critic_rows(critics, rows)
    discount = torch.rand(rows, device="cuda")
    target, priority = torch.empty(rows, device="cuda"), torch.empty(rows, device="cuda")
    dq, mean = torch.empty_like(q), torch.empty(2, device="cuda")
    workspace = room(_core.cuda.td_target_workspace(rows))

    def run() -> None:
        outputs = (target, dq, priority, mean, workspace)
        _core.cuda.td_target(*parts, q, weight, discount, *outputs, stream())

    def check() -> None:
        expected = losses.soft_target(*parts, discount)
        leaf = q.detach().requires_grad_()
        loss = losses.critic_loss(leaf, expected, weight)
        (slope,) = torch.autograd.grad(loss, leaf)
        for got, wanted in (
            (target, expected),
            (dq, slope),
            (mean, torch.stack((loss, q.mean()))),
            (priority, (q - expected).abs().mean(0)),
        ):
            torch.testing.assert_close(got, wanted.detach(), rtol=1e-5, atol=1e-5)

    run()
    check()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    q.mul_(2)
    graph.replay()
    check()


def test_adam_is_the_cpus() -> None:
    n = 100_003
    generator = torch.Generator().manual_seed(3)
    value, target = torch.randn(n, generator=generator), torch.randn(n, generator=generator)
    cpu = [value, torch.zeros(n), torch.zeros(n), target]
    cuda = [part.cuda() for part in cpu]
    steps, norm = torch.zeros(1, dtype=torch.int64, device="cuda"), torch.empty(1, device="cuda")
    workspace = room(_core.cuda.adam_polyak_workspace(n))
    settings = (3e-4, 0.9, 0.999, 1e-5, 0.1, 1.0, 0.005)
    for step in (1, 2, 3):
        gradient = torch.randn(n, generator=generator)
        expected = _core.adam_polyak(cpu[0], gradient, *cpu[1:], *settings, step)
        _core.cuda.adam_polyak(
            cuda[0], gradient.cuda(), *cuda[1:], *settings, steps, norm, workspace, stream()
        )
        torch.testing.assert_close(float(norm), expected, rtol=1e-5, atol=0)
        for got, wanted in zip(cuda, cpu, strict=True):
            torch.testing.assert_close(got.cpu(), wanted, rtol=1e-5, atol=1e-6)


def test_rows_are_routed_to_their_least_member() -> None:
    q = torch.randn((5, 1000), generator=torch.Generator().manual_seed(4)).cuda()
    start, row = (
        torch.empty(6, dtype=torch.int64, device="cuda"),
        torch.empty(1000, dtype=torch.int64, device="cuda"),
    )
    least = torch.empty(1000, device="cuda")
    _core.cuda.route_rows(q, start, row, least, room(8 * 1000), stream())
    member = q.argmin(0)
    assert torch.equal(least, q.amin(0))
    assert torch.equal(row, member.argsort(stable=True))
    assert torch.equal(start[1:] - start[:-1], member.bincount(minlength=5))
