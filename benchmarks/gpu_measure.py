"""The parts of `make gpu-check` that run mtrl itself, each in a process of its own: `python gpu_measure.py PART`.

Each prints a line of JSON for what it finds: "words", where it matters "state" (failed, slow or left out), and numbers.
With --on-host the kernels' own source runs on the host (tests/mtrl/cuda/cuda_on_host.py), on small sizes.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from mtrl import _core, devices
from mtrl.agent import Agent
from mtrl.config import Config
from mtrl.cuda import preflight
from mtrl.overrides import build_config
from mtrl.results import read_run
from mtrl.sizing import update_flops
from mtrl.systems import SYSTEMS
from mtrl.tasks import ALL_TASKS, BENCHMARKS
from mtrl.train import train

Found = dict[str, Any]
TASKS = {2: BENCHMARKS["MT10"][:2], 10: BENCHMARKS["MT10"], 50: ALL_TASKS}
SLOW = 2.0  # times what the machine's own products, copies and launches take
LAUNCH_US = 3.0  # of a kernel within a graph
PER_TASK = 128
STEPS = 60  # updates that the twins are compared for


class Gpu:
    """The GPU at hand."""

    on_host = False
    device = torch.device("cuda")

    def seconds(self, work: Callable[[], object], calls: int, runs: int = 5) -> float:
        """The median time of a call, once the GPU has done all that was started."""
        times = []
        for _ in range(runs + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                work()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) / calls)
        return statistics.median(times[1:])

    def launches(self, work: Callable[[], object]) -> tuple[int, float]:
        """How many kernels and copies one call starts, and the microseconds that they run."""
        from torch.profiler import ProfilerActivity, profile

        work()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
            work()
            torch.cuda.synchronize()
        kernels = [
            event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        return len(kernels), sum(event.device_time_total for event in kernels)


class Host:
    """Stand-ins for a GPU: times are the host's and say nothing."""

    on_host = True
    device = torch.device("cpu")

    def __init__(self) -> None:
        import pytest

        from tests.mtrl.cuda import cuda_on_host

        torch.set_num_threads(1)
        self.cuda = cuda_on_host.take_host(pytest.MonkeyPatch())

    def seconds(self, work: Callable[[], object], calls: int, runs: int = 1) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def launches(self, work: Callable[[], object]) -> tuple[int, None]:
        from tests.mtrl.cuda.graph_on_host import count_launches

        work()  # what only the first call does
        return count_launches(self.cuda, work), None


Machine = Gpu | Host


class Rows:
    """A random batch, ordered by task."""

    def __init__(self, tasks: int, per_task: int, device: torch.device, seed: int = 0) -> None:
        generator, rows = torch.Generator().manual_seed(seed), tasks * per_task
        normal: Callable[..., Tensor] = lambda *shape: torch.randn(shape, generator=generator).to(device)  # noqa: E731
        self.observation, self.next_observation = normal(rows, 39), normal(rows, 39)
        self.action, self.reward = normal(rows, 4).tanh(), normal(rows).abs()
        self.terminated, self.weight = torch.zeros_like(self.reward), torch.ones_like(self.reward)
        self.discount = torch.full_like(self.reward, 0.99)
        self.task = torch.arange(tasks, device=device).repeat_interleave(per_task)


def settings(tasks: int, width: int, **more: Any) -> Config:
    overrides = {"env.tasks": TASKS[tasks], "network.actor.width": width, "network.critic.width": width}
    return build_config("paper", overrides | {name.replace("__", "."): value for name, value in more.items()})


def machine(m: Machine) -> Iterator[Found]:
    facts: Found = {"torch": torch.__version__, "torch_cuda": torch.version.cuda, "cores": os.cpu_count()}
    driver = devices.driver_version()
    facts["driver_cuda"] = ".".join(map(str, driver)) if driver else "none"
    facts |= {name: bool(shutil.which(name)) for name in ("nvcc", "compute-sanitizer", "nvidia-smi")}
    if m.on_host:
        yield facts | {"words": "no GPU was asked: stand-ins"}
        return
    if reason := devices.why_no_gpu():
        yield facts | {"state": "failed", "words": reason}
        return
    about = torch.cuda.get_device_properties(0)
    facts |= {"gpus": torch.cuda.device_count(), "memory_gib": about.total_memory / 2**30}
    facts |= {"capability": f"{about.major}.{about.minor}", "multiprocessors": about.multi_processor_count}
    yield facts | {
        "words": f"{about.name}, driver for CUDA {facts['driver_cuda']}, torch {torch.__version__}"
    }


def kernels(m: Machine) -> Iterator[Found]:
    faults = preflight.faults(m.device)
    for fault in faults:
        yield {"state": "failed", "words": fault}
    if not faults:
        build = _core.cuda_build() or {"architectures": "none"}
        words = (
            f"{len(preflight.CHECKS)} kernels run and agree with torch; built for {build['architectures']}"
        )
        yield {"words": words}


def twins(m: Machine) -> Iterator[Found]:
    """The same batches and noise to an agent on the GPU and one on the CPU: losses stay together."""
    tasks, width, per_task = (2, 16, 8) if m.on_host else (10, 256, 32)
    config = settings(tasks, width, agent__batch_per_task=per_task, agent__products="float32")
    on_gpu = Agent(config, device=m.device)
    with cpus_own():
        on_cpu = Agent(config)
    for agent in (on_gpu, on_cpu):
        _same_noise(agent)
    worst = 0.0
    for step in range(8 if m.on_host else STEPS):
        got = on_gpu.update(Rows(tasks, per_task, m.device, step)).metrics
        with cpus_own():
            expected = on_cpu.update(Rows(tasks, per_task, torch.device("cpu"), step)).metrics
        for name in ("critic_loss", "actor_loss", "q_mean"):
            one, other = got[name], expected[name]
            error = abs(one - other) / max(abs(other), 1e-2)
            worst = max(worst, error)
            if not error < 0.02:
                words = f"update {step}: {name} is {one:.6g} on the GPU and {other:.6g} on the CPU"
                yield {"state": "failed", "words": words, "update": step, "error": error}
                return
    yield {"words": f"losses within {worst:.1e} of the CPU's over {step + 1} updates", "error": worst}


def _same_noise(agent: Agent) -> None:
    generator, device = torch.Generator().manual_seed(5), agent.device
    draw = lambda *shape: torch.randn(shape, generator=generator).to(device)  # noqa: E731
    agent.update_noise = SimpleNamespace(draw=draw)  # type: ignore[assignment]


@contextmanager
def cpus_own() -> Iterator[None]:
    """Within, the CPU's tensors take the CPU's way, also where they stand for a GPU's."""
    before, devices.is_gpu = devices.is_gpu, lambda device: device.type == "cuda"
    try:
        yield
    finally:
        devices.is_gpu = before


def runs(m: Machine) -> Iterator[Found]:
    """Whole runs, on the GPU and on the CPU: other random numbers, so only their size is compared."""
    short: Found = {
        "train.vector_steps": 300,
        "train.random_steps": 100,
        "evaluate.every": 200,
        "evaluate.episodes": 1,
    }
    short["agent.products"] = "float32"  # as the CPU's
    if m.on_host:
        short |= {"train.vector_steps": 14, "train.random_steps": 10, "evaluate.every": 14, "env.horizon": 10}
        short |= {"agent.batch_per_task": 4, "env.goals_per_task": 1}
    for name, more in (("debug", {}), ("MT10", {"env.tasks": "MT10", "run.env_workers": 4})):
        if m.on_host and name == "MT10":
            more = {"env.tasks": list(TASKS[2])}
        losses, seconds = {}, {}
        for place in ("gpu", "cpu"):
            with tempfile.TemporaryDirectory() as folder:
                config = build_config(
                    "debug", short | more | {"run.device": str(m.device if place == "gpu" else "cpu")}
                )
                start = time.perf_counter()
                with cpus_own() if place == "cpu" else nullcontext():
                    outcome = train(config, Path(folder))
                seconds[place] = time.perf_counter() - start
                run = read_run(Path(folder) / "run.h5")
                losses[place] = float(run.per_run[-1, run.run_metrics.index("critic_loss")])
            if outcome != "done" or not np.isfinite(losses[place]):
                yield {
                    "state": "failed",
                    "words": f"{name} on the {place}: {outcome}, critic loss {losses[place]}",
                }
        ratio = losses["gpu"] / losses["cpu"]
        row: Found = {
            "run": name,
            "loss_gpu": losses["gpu"],
            "loss_cpu": losses["cpu"],
            "seconds_gpu": seconds["gpu"],
        }
        if not 0.2 < ratio < 5:
            yield row | {
                "state": "failed",
                "words": f"{name}: the critic loss is {ratio:.2g} times the CPU's",
            }
        else:
            yield row | {"words": f"{name} trains: critic loss {ratio:.2f} times the CPU's"}


def updates(m: Machine) -> Iterator[Found]:
    copy, rate = _ceilings(m)
    words = f"copies {copy / 1e9:,.0f} GB/s; products {rate['float32'] / 1e12:,.1f} TFLOP/s"
    yield {
        "words": words,
        "copy_gb_s": copy / 1e9,
        **{f"{name}_tflop_s": value / 1e12 for name, value in rate.items()},
    }
    sizes = [(2, 16)] if m.on_host else [(10, 256), (10, 1024), (50, 256), (10, 4096), (50, 1024), (50, 4096)]
    for tasks, width in sizes:
        for products in ("float32", "tf32"):
            yield _time_update(m, tasks, width, products, copy, rate[products])


def _time_update(m: Machine, tasks: int, width: int, products: str, copy: float, rate: float) -> Found:
    per_task = 4 if m.on_host else PER_TASK
    config = settings(tasks, width, agent__products=products, agent__batch_per_task=per_task)
    rows = Rows(tasks, per_task, m.device)
    by_launch = Agent(
        config.model_copy(update={"agent": config.agent.model_copy(update={"cuda_graph": "off"})}),
        device=m.device,
    )
    launches, kernel_us = m.launches(partial(by_launch.update, rows))
    agent = Agent(config, device=m.device)
    for _ in range(3):
        agent.update(rows)
    graph_us = m.seconds(partial(agent.update, rows), calls=3 if width > 1024 else 20) * 1e6
    weights = 4.0 * (
        5 * agent.parameters["critic"] + 4 * agent.parameters["actor"]
    )  # read and written by the optimiser
    expected = 1e6 * (update_flops(config) / rate + 2 * weights / copy) + LAUNCH_US * launches
    row = {
        "tasks": tasks, "width": width, "products": products, "launches": launches, "kernels_us": kernel_us,
        "graph_us": graph_us, "expected_us": expected, "times_expected": graph_us / expected,
    }  # fmt: skip
    name = f"width {width}, {tasks} tasks, {products}"
    words = f"{name}: {graph_us:,.0f} us an update, {launches} launches"
    if graph_us > SLOW * expected and not m.on_host:
        return row | {
            "state": "slow",
            "words": f"{words}, {graph_us / expected:.1f} times what this GPU should take",
        }
    return row | {"words": words}


def _ceilings(m: Machine) -> tuple[float, dict[str, float]]:
    """Bytes per second of a copy, counted both ways, and operations per second of a product, as torch makes them."""
    size = 64 if m.on_host else 8192
    block = torch.randn(size * size * (1 if m.on_host else 4), device=m.device)
    other = torch.empty_like(block)
    copy = 2 * block.nbytes / m.seconds(lambda: other.copy_(block), calls=5)
    a = torch.randn((size, size), device=m.device)
    rate = {}
    for name, precision in (("float32", "highest"), ("tf32", "high")):
        torch.set_float32_matmul_precision(precision)
        rate[name] = 2.0 * size**3 / m.seconds(lambda: a @ a, calls=3)
    torch.set_float32_matmul_precision("highest")
    return copy, rate


def loop(m: Machine) -> Iterator[Found]:
    """Vector steps per second of a whole run, evaluations left out."""
    steps, random = (16, 8) if m.on_host else (600, 200)
    more: Found = {"train.vector_steps": steps, "train.random_steps": random, "evaluate.every": steps}
    more |= {"evaluate.episodes": 1, "env.goals_per_task": 1, "env.horizon": 10 if m.on_host else 500}
    more |= {
        "env.tasks": list(TASKS[2] if m.on_host else TASKS[10]),
        "agent.batch_per_task": 4 if m.on_host else PER_TASK,
    }
    width = 8 if m.on_host else 256
    overlaps = [False, True] if "overlap" in type(build_config().train).model_fields else [None]
    for overlap in overlaps:
        given = {} if overlap is None else {"train.overlap": overlap}
        stamps: list[float] = []
        config = build_config("paper", {**more, **given, "run.device": str(m.device), "replay.mode": "prioritized",
                                        "replay.capacity": 2_000, "network.actor.width": width,
                                        "network.critic.width": width})  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            train(config, Path(folder), report=lambda _, stamps=stamps: stamps.append(time.perf_counter()))
        half = len(stamps) // 2  # after the capture; the last step evaluates
        us = (stamps[-2] - stamps[half]) / (len(stamps) - 2 - half) * 1e6
        how = (
            ""
            if overlap is None
            else ", envs and update at the same time"
            if overlap
            else ", one after the other"
        )
        yield {"words": f"{us:,.0f} us a vector step{how}", "overlap": str(overlap), "vector_step_us": us}


def systems(m: Machine) -> Iterator[Found]:
    """Updates through autograd (other systems, a categorical critic), as a graph and launch by launch."""
    tasks, per_task = (2, 4) if m.on_host else (10, PER_TASK)
    rows = Rows(tasks, per_task, m.device)
    others: dict[str, Found] = {name: {"system": name} for name in SYSTEMS if name != "mtmhsac"}
    others["hl_gauss"] = {"agent.value": "hl_gauss", "agent.scaling": "return"}
    small = {f"network.{part}.width": 16 for part in ("actor", "critic")} if m.on_host else {}
    for name, chosen in others.items():
        us = {}
        for graph in ("off", "on"):
            more = {"env.tasks": TASKS[tasks], "agent.batch_per_task": per_task, "agent.cuda_graph": graph}
            agent = Agent(build_config("paper", {**chosen, **small, **more}), device=m.device)
            try:
                for _ in range(3):  # the third is captured
                    agent.update(rows)
            except RuntimeError as error:
                yield {"state": "failed", "words": f"{name}: {error}", "system": name}
                break
            us[graph] = m.seconds(partial(agent.update, rows), calls=5) * 1e6
        else:
            words = f"{name}: {us['on']:,.0f} us an update as a graph, {us['off']:,.0f} launch by launch"
            yield {"words": words, "system": name, "graph_us": us["on"], "launches_us": us["off"]}


def second(m: Machine) -> Iterator[Found]:
    """A run on cuda:1 in a process of its own; nvidia-smi says where it has a context."""
    if m.on_host or torch.cuda.device_count() < 2:
        yield {"state": "left out", "words": "there is no second GPU"}
        return
    script = (
        "import subprocess, tempfile, os; from pathlib import Path; from mtrl.train import train;"
        "from mtrl.overrides import build_config;"
        "short = {'train.vector_steps': 150, 'train.random_steps': 100, 'evaluate.every': 150, 'run.device': 'cuda:1'};"
        "outcome = train(build_config('debug', short), Path(tempfile.mkdtemp()));"
        "ask = ['nvidia-smi', '--query-compute-apps=gpu_uuid,pid', '--format=csv,noheader'];"
        "apps = subprocess.run(ask, capture_output=True, text=True).stdout.splitlines();"
        "print(outcome, sum(str(os.getpid()) in app for app in apps))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    answer = done.stdout.split()[-2:]
    if answer[:1] != ["done"]:
        yield {
            "state": "failed",
            "words": f"a run on cuda:1 did not end: {done.stderr.strip().splitlines()[-1:]}",
        }
    elif answer[1:] not in (["1"], ["0"]):  # nvidia-smi shows no processes within some containers
        yield {"state": "failed", "words": f"a run on cuda:1 has contexts on {answer[1]} GPUs"}
    else:
        yield {"words": "a run on cuda:1 trains, and has a context there alone"}


def peers(m: Machine) -> Iterator[Found]:
    """The update against torch's ways to write it, at width 256 and MT10; JAX where it is installed."""
    from bench_update import cuda_cases_of, jax_python
    from interleave import measure

    if m.on_host:
        yield {"state": "left out", "words": "peers are timed on a GPU alone"}
        return
    if jax_python() is None:
        yield {
            "state": "left out",
            "words": "JAX and optax are not installed; MTRL_JAX_PYTHON may name a Python with them",
        }
    for case in cuda_cases_of((2, 256, 1280, 10)):
        row = measure(case, runs=5)
        words = f"{row.ratio:.1f} times as quick as {row.peer}"
        yield {
            "words": words,
            "peer": row.peer,
            "ours_us": row.ours_us,
            "peer_us": row.peer_us,
            "ratio": row.ratio,
        }


PARTS: dict[str, Callable[[Machine], Iterator[Found]]] = {
    part.__name__: part for part in (machine, kernels, twins, runs, updates, loop, systems, second, peers)
}


@click.command()
@click.argument("part", type=click.Choice(list(PARTS)))
@click.option("--on-host", is_flag=True)
def main(part: str, on_host: bool) -> None:
    if not on_host and part != "machine" and (reason := devices.why_no_gpu()):
        print(json.dumps({"words": reason, "state": "failed"}))
        return
    for found in PARTS[part](Host() if on_host else Gpu()):
        print(json.dumps({"words": found["words"], **found}), flush=True)


if __name__ == "__main__":
    main()
