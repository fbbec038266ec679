"""A whole SAC update of the multi-head MLP, against torch's ways to write it, JAX, and its bare matrix products.

The peers do the same mathematics in the usual way: a dense one-hot in the input, every head for every row, Adam
fused by torch. "loop" keeps one module per critic, "bmm" batches the critics' products, "vmap" maps one module over
them, "compile" is the loop under torch.compile, "twin" is this project's own torch backend, "ours on blas" our update
with SciPy's BLAS (OpenBLAS in its wheels) in the place of our matrix kernels. "products" is only the
matrix products of that usual step: an update that makes them all cannot be faster with the same library.

All take turns in one process; each has a row of wall time and one of CPU time. JAX does not live well beside torch: it
takes its turns in a process of its own (update_jax.py), of the Python that MTRL_JAX_PYTHON names, or of this one if it
has jax and optax. MTRL_BENCH_THREADS lists the numbers of threads, "1,2" by default.

With --device cuda all of it is on the GPU, ours as a CUDA graph, and "CUDA graph" is the peer's whole update captured
as one too; "compile, CUDA graphs" are torch.compile's own. "ours without cuBLASLt" has run.cublaslt=off; whether ours
has it is in the log, printed here.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import torch
from interleave import Case, Row, gpu_clock, relative_spread, run
from torch import Tensor, nn

from mtrl.agent import Agent
from mtrl.matmul import choose_matmul
from mtrl.networks import tanh_gaussian
from mtrl.objective import losses
from mtrl.overrides import build_config
from mtrl.tasks import ALL_TASKS, BENCHMARKS

THREADS = [int(n) for n in os.environ.get("MTRL_BENCH_THREADS", "1,2").split(",")]
TASKS = {1: ("reach-v3",), 10: BENCHMARKS["MT10"], 50: ALL_TASKS}
# critics, width, batch, tasks
QUICK = [(2, 64, 128, 1), (2, 256, 1280, 10)]
FULL = [
    (2, 64, 128, 1),
    (2, 256, 1280, 10),
    (2, 400, 1280, 10),
    (2, 1024, 1280, 10),
    (10, 256, 1280, 10),
    (2, 256, 6400, 50),
    (2, 2048, 1280, 10),
]


class Rows:
    """A random batch; `one_hot` is for the peers."""

    def __init__(self, batch: int, tasks: int, device: str = "cpu") -> None:
        generator = torch.Generator(device).manual_seed(0)
        normal: Callable[..., Tensor] = lambda *shape: torch.randn(  # noqa: E731
            shape, generator=generator, device=device
        )
        self.observation, self.next_observation = normal(batch, 39), normal(batch, 39)
        self.action, self.reward = normal(batch, 4).tanh(), normal(batch).abs()
        self.terminated, self.weight = torch.zeros_like(self.reward), torch.ones_like(self.reward)
        self.discount = torch.full_like(self.reward, 0.99)
        self.task = torch.arange(tasks, device=device).repeat_interleave(batch // tasks)
        self.one_hot = nn.functional.one_hot(self.task, tasks).float()


class Mlp(nn.Module):
    """[x, one-hot] -> three layers -> all heads -> the row's own."""

    def __init__(self, inputs: int, outputs: int, tasks: int, width: int) -> None:
        super().__init__()
        self.tasks, self.outputs = tasks, outputs
        sizes = [inputs + tasks, width, width, width]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, tasks * outputs)

    def forward(self, x: Tensor, one_hot: Tensor, task: Tensor) -> Tensor:
        every = self.head(self.trunk(torch.cat((x, one_hot), -1))).unflatten(-1, (self.tasks, self.outputs))
        return every.gather(1, task.view(-1, 1, 1).expand(-1, 1, self.outputs)).squeeze(1)


class Loop(nn.Module):
    def __init__(self, critics: int, *shape: int) -> None:
        super().__init__()
        self.critics = nn.ModuleList([Mlp(*shape) for _ in range(critics)])

    def forward(self, x: Tensor, one_hot: Tensor, task: Tensor) -> Tensor:
        return torch.stack([critic(x, one_hot, task) for critic in self.critics])


class Bmm(nn.Module):
    def __init__(self, critics: int, inputs: int, outputs: int, tasks: int, width: int) -> None:
        super().__init__()
        self.tasks, self.outputs = tasks, outputs
        sizes = [inputs + tasks, width, width, width, tasks * outputs]
        pairs = list(pairwise(sizes))
        bound = [(6 / before) ** 0.5 for before, _ in pairs]
        self.kernels = nn.ParameterList(
            [torch.empty(critics, *p).uniform_(-b, b) for p, b in zip(pairs, bound, strict=True)]
        )
        self.biases = nn.ParameterList([torch.zeros(critics, 1, after) for _, after in pairs])

    def forward(self, x: Tensor, one_hot: Tensor, task: Tensor) -> Tensor:
        h = torch.cat((x, one_hot), -1).expand(len(self.kernels[0]), -1, -1)
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, kernel)
            h = h.relu() if i < len(self.kernels) - 1 else h
        every = h.unflatten(-1, (self.tasks, self.outputs))
        index = task.view(1, -1, 1, 1).expand(len(every), -1, 1, self.outputs)
        return every.gather(2, index).squeeze(2)


class Vmap(nn.Module):
    def __init__(self, critics: int, *shape: int) -> None:
        super().__init__()
        states, _ = torch.func.stack_module_state([Mlp(*shape) for _ in range(critics)])
        self.names = list(states)
        self.stacked = nn.ParameterList([nn.Parameter(states[name].detach()) for name in self.names])
        self.bare = [Mlp(*shape).to("meta")]  # in a list: not a submodule

    def forward(self, x: Tensor, one_hot: Tensor, task: Tensor) -> Tensor:
        def one(state: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.bare[0], state, (x, one_hot, task))

        out: Tensor = torch.func.vmap(one)(dict(zip(self.names, self.stacked, strict=True)))
        return out


class Peer:
    """The usual update around a critic ensemble of one of these kinds."""

    def __init__(
        self,
        kind: type[nn.Module],
        critics: int,
        width: int,
        tasks: int,
        *,
        compiled: str = "",
        device: str = "cpu",
    ):
        self.actor: Any = Mlp(39, 8, tasks, width).to(device)
        self.critic: Any = kind(critics, 43, 1, tasks, width).to(device)
        self.target: Any = kind(critics, 43, 1, tasks, width).to(device)
        self.target.load_state_dict(self.critic.state_dict())
        self.target.requires_grad_(False)
        self.log_temperature = torch.zeros(tasks, requires_grad=True, device=device)
        self.online, self.slow = list(self.critic.parameters()), list(self.target.parameters())
        adam: Callable[[Any], torch.optim.Adam] = lambda p: torch.optim.Adam(  # noqa: E731
            p, 3e-4, eps=1e-5, fused=True, capturable=device == "cuda"
        )
        self.adams = [adam(self.actor.parameters()), adam(self.online), adam([self.log_temperature])]
        if compiled:
            faster = partial(torch.compile, mode=compiled)
            self.actor, self.critic, self.target = map(faster, (self.actor, self.critic, self.target))

    def act(self, observation: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        output = self.actor(observation, rows.one_hot, rows.task)
        return tanh_gaussian.sample(output, torch.randn(len(output), 4, device=output.device), -20, 2)

    def update(self, rows: Rows) -> None:
        actor_adam, critic_adam, temperature_adam = self.adams
        temperature = self.log_temperature.detach().exp()[rows.task]
        with torch.no_grad():
            action, log_prob = self.act(rows.next_observation, rows)
            next_q = self.target(torch.cat((action, rows.next_observation), 1), rows.one_hot, rows.task)[
                ..., 0
            ]
            y = losses.td_target(rows.reward, rows.terminated, next_q, log_prob, temperature, 0.99)
        q = self.critic(torch.cat((rows.action, rows.observation), 1), rows.one_hot, rows.task)[..., 0]
        self.step((rows.weight * (q - y).square()).mean(), critic_adam, self.online)
        torch._foreach_lerp_(self.slow, [p.detach() for p in self.online], 0.005)
        action, log_prob = self.act(rows.observation, rows)
        for p in self.online:
            p.requires_grad_(False)
        q = self.critic(torch.cat((action, rows.observation), 1), rows.one_hot, rows.task)[..., 0]
        loss = losses.actor_loss(log_prob, q, temperature).mean()
        self.step(loss, actor_adam, list(self.actor.parameters()))
        for p in self.online:
            p.requires_grad_(True)
        loss = losses.temperature_loss(self.log_temperature[rows.task], log_prob, -4.0)
        self.step(loss, temperature_adam, None)

    @staticmethod
    def step(loss: Tensor, adam: torch.optim.Adam, clipped: list[nn.Parameter] | None) -> None:
        adam.zero_grad(set_to_none=True)
        loss.backward()
        if clipped:
            nn.utils.clip_grad_norm_(clipped, 1.0)
        adam.step()


def products(critics: int, width: int, batch: int, tasks: int) -> Callable[[], None]:
    """The matrix products of the usual step by torch's library: forward, input gradients, weight gradients."""

    def of(inputs: int, outputs: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        sizes = [inputs + tasks, width, width, width, tasks * outputs]
        return [(torch.randn(batch, a), torch.randn(a, b), torch.randn(batch, b)) for a, b in pairwise(sizes)]

    actor, critic = of(39, 8), of(43, 1)

    def make(layers: list[tuple[Tensor, Tensor, Tensor]], times: int, gradients: str) -> None:
        for _ in range(times):
            for i, (x, kernel, dy) in enumerate(layers):
                if "y" in gradients:
                    torch.mm(x, kernel)
                if "w" in gradients:
                    torch.mm(x.T, dy)
                if ("x" in gradients and i > 0) or "a" in gradients:
                    torch.mm(dy, kernel.T)

    def step() -> None:
        make(actor, 1, "y")  # next actions
        make(critic, critics, "y")  # targets
        make(critic, critics, "ywx")
        make(actor, 1, "ywx")
        make(critic, critics, "ya")  # down to the action

    return step


class Jax:
    """The update in another Python, which says how many CPU seconds its updates took there."""

    def __init__(
        self, python: str, shape: tuple[int, int, int, int], threads: int, device: str = "cpu"
    ) -> None:
        script = Path(__file__).parent / "update_jax.py"
        self.process = subprocess.Popen(
            [python, str(script), *map(str, shape), str(threads), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cpu_seconds = 0.0
        self._started = 0
        self.update()  # compiles

    def update(self) -> None:
        """Makes an update and waits for it."""
        self.start()
        self.wait()

    def start(self) -> None:
        """Starts an update and returns at once."""
        self._write("\n")
        self._started += 1

    def wait(self) -> None:
        """Waits for the updates that were started."""
        if not self._started:
            return
        self._write("wait\n")
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("update_jax.py ended; its message is above")
        self.cpu_seconds += float(line)
        self._started = 0

    def _write(self, line: str) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError("update_jax.py ended; its message is above") from None


def jax_python() -> str | None:
    """A Python that has JAX and optax: MTRL_JAX_PYTHON, else this one if it has them."""
    here = all(importlib.util.find_spec(name) for name in ("jax", "optax"))
    return os.environ.get("MTRL_JAX_PYTHON") or (sys.executable if here else None)


def compare(
    case: str, updates: dict[str, Callable[[], object]], jax: Jax | None, threads: int, runs: int, calls: int
) -> Iterator[Row]:
    """Lets all take turns, "ours" among them; a row of wall time and one of CPU time for each other."""

    def clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time() + (jax.cpu_seconds if jax else 0.0)

    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in updates}
    for turn in range(runs + 1):
        for name, update in updates.items():
            before = clocks()
            for _ in range(calls):
                update()
            if turn:
                times[name].append(
                    tuple((b - a) / calls * 1e6 for a, b in zip(before, clocks(), strict=True))
                )
    for name in updates:
        if name == "ours":
            continue
        for i, what in enumerate(("wall", "CPU")):
            ours, theirs = ([t[i] for t in times[who]] for who in ("ours", name))
            mine, other = statistics.median(ours), statistics.median(theirs)
            spread = max(relative_spread(ours), relative_spread(theirs))
            yield Row(f"{case} {what}", name, mine, other, other / mine, threads, runs, spread)


def on_blas(update: Callable[[], object]) -> Callable[[], object]:
    """An update of ours whose products are SciPy's BLAS's; the choice is the whole process's, so it is undone."""

    def updated() -> None:
        choose_matmul("blas")
        update()
        choose_matmul("own")

    choose_matmul("own")
    return updated


def rows_of(shape: tuple[int, int, int, int], threads: int, runs: int) -> Iterator[Row]:
    critics, width, batch, tasks = shape
    rows = Rows(batch, tasks)
    overrides: dict[str, Any] = {
        "env.tasks": TASKS[tasks],
        "network.actor.width": width,
        "network.critic.width": width,
        "agent.critics": critics,
        "run.threads": threads,
    }

    def agent(**changes: Any) -> Callable[[], object]:
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        return partial(Agent(build_config("paper", overrides | changed)).update, rows)

    kinds: dict[str, type[nn.Module]] = {"loop": Loop, "bmm": Bmm, "vmap": Vmap}
    if width >= 2048:
        del kinds["vmap"]
    updates = {"ours": agent()}
    updates["ours on blas"] = on_blas(agent(run__matmul="blas"))
    if threads > 1:
        updates["ours, one thread"] = agent(run__threads=1)
    for name, kind in kinds.items():
        updates[f"torch {name}"] = partial(Peer(kind, critics, width, tasks).update, rows)
    if (critics, width, batch) == (2, 256, 1280):
        updates["torch compile"] = partial(Peer(Loop, critics, width, tasks, compiled="default").update, rows)
        updates["torch twin"] = agent(agent__backend="torch")
    updates["products"] = products(critics, width, batch, tasks)
    python = jax_python()
    jax = Jax(python, shape, threads) if python and width < 2048 else None
    if jax:
        updates["jax"] = jax.update
    name = f"E{critics} width {width} batch {batch} tasks {tasks}"
    yield from compare(name, updates, jax, threads, runs, calls=10 if width <= 64 else 1)


def cases(quick: bool) -> Iterator[Row]:
    for threads in THREADS:
        torch.set_num_threads(threads)
        for shape in QUICK if quick else FULL:
            yield from rows_of(shape, threads, runs=3 if quick else 5 if shape[1] >= 1024 else 9)


def captured(peer: Peer, rows: Rows) -> Callable[[], None]:
    """The peer's whole update as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # type: ignore[no-untyped-call]
        for _ in range(3):
            peer.update(rows)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        peer.update(rows)
    return graph.replay


def gpu_peers(
    shape: tuple[int, int, int], rows: Rows, device: str
) -> dict[str, Callable[[], Callable[[], object]]]:
    """Makers of the peers' updates on the GPU; one that its library refuses raises RuntimeError."""

    def peer(kind: type[nn.Module], compiled: str = "") -> Peer:
        return Peer(kind, *shape, compiled=compiled, device=device)

    return {
        "torch loop": lambda: partial(peer(Loop).update, rows),
        "torch bmm": lambda: partial(peer(Bmm).update, rows),
        "torch bmm, CUDA graph": lambda: captured(peer(Bmm), rows),
        "torch compile": lambda: partial(peer(Loop, "default").update, rows),
        "compile, CUDA graphs": lambda: partial(peer(Loop, "reduce-overhead").update, rows),
    }


def cuda_cases_of(shape: tuple[int, int, int, int], device: str = "cuda") -> Iterator[Case]:
    """Ours against each peer; another device only to see that all of it runs."""
    critics, width, batch, tasks = shape
    rows = Rows(batch, tasks, device)
    overrides = {
        "env.tasks": TASKS[tasks],
        "network.actor.width": width,
        "network.critic.width": width,
        "agent.critics": critics,
    }
    ours = Agent(build_config("paper", overrides), device=device)
    twin = Agent(build_config("paper", overrides | {"agent.backend": "torch"}), device=device)
    without = Agent(build_config("paper", overrides | {"run.cublaslt": "off"}), device=device)
    name = f"E{critics} width {width} batch {batch} tasks {tasks}"
    case = partial(Case, name, ours=partial(ours.update, rows), calls=20, clock=gpu_clock)
    yield case(peer="torch twin", theirs=partial(twin.update, rows))
    yield case(peer="ours without cuBLASLt", theirs=partial(without.update, rows))
    for peer, make in gpu_peers((critics, width, tasks), rows, device).items():
        try:
            theirs = make()
            theirs()
        except RuntimeError as error:
            click.echo(f"{name:32} {peer:24} left out: {str(error)[:100]}")
            continue
        yield case(peer=peer, theirs=theirs)
    if python := jax_python():
        try:
            jax = Jax(python, shape, threads=1, device=device)
        except RuntimeError as error:
            click.echo(f"{name:32} {'jax':24} left out: {error}")
        else:
            yield jax_case(case, jax)


def jax_case(case: Callable[..., Case], jax: Jax) -> Case:
    """Ours against JAX on the same GPU: both start their updates, and then wait for them."""

    def clock() -> float:
        jax.wait()
        return gpu_clock()

    return case(peer="jax", theirs=jax.start, clock=clock)


def cuda_cases(quick: bool) -> Iterator[Case]:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for shape in QUICK if quick else FULL:
        yield from cuda_cases_of(shape)


if __name__ == "__main__":
    run(cases, cuda_cases=cuda_cases)
