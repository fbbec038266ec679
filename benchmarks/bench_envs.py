"""The vector env against gymnasium's SyncVectorEnv and AsyncVectorEnv over stock Meta-World.

All three step the same random actions through whole episodes, resets included, and take turns. CPU counts every
process. Start (construction and first reset) and memory (proportional set size of all processes after some steps)
are taken in a fresh process each. The last row is the simulation alone, without any Python around it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from interleave import Row

from mtrl.config import EnvSettings
from mtrl.tasks import BENCHMARKS

if TYPE_CHECKING:
    from exactness import Difference  # imports Meta-World

WORKERS = 2
HORIZON = 500
GOALS_SEEN = 150  # resets after which hardly one of the 50 goals is new: a run has thousands
PEERS = {"async": "AsyncVectorEnv", "sync": "SyncVectorEnv"}
COMPARED = {"MT10": ("async", "sync"), "MT50": ("async",)}  # SyncVectorEnv at MT50 takes many minutes
TICK = os.sysconf("SC_CLK_TCK")


def make(kind: str, benchmark: str, horizon: int) -> Any:
    if kind == "ours":
        from mtrl.envs import VectorEnv

        return VectorEnv(EnvSettings(tasks=benchmark, horizon=horizon), seed=1, workers=WORKERS)
    import gymnasium
    import metaworld  # noqa: F401  registers the benchmarks

    options = {"vector_strategy": kind, "seed": 1, "max_episode_steps": horizon}
    return gymnasium.make_vec(f"Meta-World/{benchmark}", **options)


def processes() -> list[int]:
    """This process and its children."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    return [own, *map(int, children)]


def cpu_seconds(pids: list[int]) -> float:
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICK


def memory_mib(pids: list[int]) -> float:
    lines = (Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids)
    return sum(int(line.split()[1]) for rollup in lines for line in rollup if line.startswith("Pss:")) / 1024


def turn(env: Any, pids: list[int], steps: int) -> tuple[float, float]:
    """(wall, CPU) microseconds per env step over `steps` vector steps; `pids` do the work."""
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (steps, env.num_envs, 4)).astype(np.float32)
    wall, cpu = time.perf_counter(), cpu_seconds(pids)
    for action in actions:
        env.step(action)
    scale = 1e6 / (steps * env.num_envs)
    return (time.perf_counter() - wall) * scale, (cpu_seconds(pids) - cpu) * scale


def stepping(benchmark: str, runs: int, horizon: int) -> list[Row]:
    """Wall and CPU time per env step; a turn is one episode of every env, its reset included."""
    envs, pids = {}, {}
    for kind in ("ours", *COMPARED[benchmark]):
        before = set(processes())
        envs[kind] = make(kind, benchmark, horizon)
        for _ in range(GOALS_SEEN if kind == "ours" and horizon == HORIZON else 1):
            envs[kind].reset()
        pids[kind] = [os.getpid(), *(set(processes()) - before)]
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in envs}
    for number in range(runs + 1):
        for kind, env in envs.items():
            result = turn(env, pids[kind], horizon)
            if number:
                times[kind].append(result)
    for env in envs.values():
        env.close()
    ours = list(zip(*times["ours"], strict=True))
    rows = []
    for kind in COMPARED[benchmark]:
        theirs = list(zip(*times[kind], strict=True))
        for what, mine, other in zip(("env step", "CPU per env step"), ours, theirs, strict=True):
            rows.append(compare(f"{benchmark} {what}", PEERS[kind], mine, other))
    return rows


def compare(case: str, peer: str, ours: tuple[float, ...], theirs: tuple[float, ...]) -> Row:
    mine, other = statistics.median(ours), statistics.median(theirs)
    spread = max((max(times) - min(times)) / statistics.median(times) for times in (ours, theirs))
    return Row(case, peer, mine, other, other / mine, WORKERS, len(ours), spread)


def probe(kind: str, benchmark: str) -> dict[str, float]:
    """Start in seconds and memory in MiB of one kind, in this process."""
    start = time.perf_counter()
    env = make(kind, benchmark, HORIZON)
    env.reset()
    seconds = time.perf_counter() - start
    turn(env, [os.getpid()], 50)
    result = {"start": seconds, "memory": memory_mib(processes())}
    env.close()
    return result


def probe_fresh(kind: str, benchmark: str, cache: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--probe", kind, benchmark]
    output = subprocess.run(
        command, env={**os.environ, "XDG_CACHE_HOME": cache}, check=True, stdout=-1
    ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def starting(benchmark: str, runs: int) -> list[Row]:
    """Start and memory. The three columns are in seconds and MiB, as the case says."""
    with tempfile.TemporaryDirectory() as cache:
        cold = probe_fresh("ours", benchmark, cache)
        ours = [probe_fresh("ours", benchmark, cache) for _ in range(runs)]
        theirs = {
            kind: [probe_fresh(kind, benchmark, cache) for _ in range(runs)] for kind in COMPARED[benchmark]
        }
    rows = []
    for kind in COMPARED[benchmark]:
        peer = PEERS[kind]
        starts = tuple(result["start"] for result in theirs[kind])
        memory = tuple(result["memory"] for result in theirs[kind])
        rows.append(compare(f"{benchmark} start, cold cache (s)", peer, (cold["start"],), starts))
        rows.append(compare(f"{benchmark} start, warm cache (s)", peer, column(ours, "start"), starts))
        rows.append(compare(f"{benchmark} memory (MiB)", peer, column(ours, "memory"), memory))
    return rows


def column(results: list[dict[str, float]], name: str) -> tuple[float, ...]:
    return tuple(result[name] for result in results)


def layer(benchmark: str, steps: int) -> Row:
    """CPU of a step in this process, without vector env and resets: our layer beside stock, task by task."""
    from mtrl.envs.task_env import TaskEnv

    cpu: tuple[list[float], list[float]] = ([], [])
    for task in BENCHMARKS[benchmark]:
        config = EnvSettings(tasks=(task,), goals_per_task=1)
        stock = config.model_copy(update={"fast": False})
        envs = [TaskEnv(each, seed=1, index=0) for each in (config, stock)]
        actions = np.random.default_rng(0).uniform(-1, 1, (steps, 4)).astype(np.float32)
        for env, times in zip(envs, cpu, strict=True):
            env.reset()
            start = time.process_time()
            for action in actions:
                env.step(action)
            times.append((time.process_time() - start) / steps * 1e6)
    mine, other = (statistics.mean(times) for times in cpu)
    ratios = [b / a for a, b in zip(*cpu, strict=True)]
    spread = (max(ratios) - min(ratios)) / statistics.median(ratios)  # over the tasks
    return Row(
        f"{benchmark} CPU per step, bare",
        "stock Meta-World",
        mine,
        other,
        other / mine,
        1,
        len(ratios),
        spread,
    )


def pool(benchmark: str, turns: int, steps: int) -> Iterator[Row]:
    """CPU per env step in one process, resets included, beside EnvPool with one thread, if it is installed.

    A pool is of one task, so there is one for each. EnvPool draws a new goal at every reset and simulates it.
    """
    if importlib.util.find_spec("envpool") is None:
        return
    import envpool

    from mtrl.envs import VectorEnv

    env = VectorEnv(EnvSettings(tasks=benchmark, horizon=steps), seed=1, workers=0)
    for _ in range(GOALS_SEEN if steps == HORIZON else 1):
        env.reset()
    for each in (1, 8):  # envs of a pool
        pools = [make_pool(task, envs=each, steps=steps) for task in BENCHMARKS[benchmark]]
        for each_pool in pools:
            each_pool.reset()
        ours, theirs = [], []
        for number in range(turns + 1):
            result = turn(env, [os.getpid()], steps)[1], turn_pools(pools, each, steps)
            if number:
                ours.append(result[0])
                theirs.append(result[1])
        peer = f"EnvPool {envpool.__version__}, {each} a thread"
        row = compare(f"{benchmark} CPU per env step in-process", peer, tuple(ours), tuple(theirs))
        yield Row(**{**asdict(row), "threads": 1})
    env.close()


def exactness(benchmark: str, steps: int) -> Iterator[Difference]:
    """EnvPool's observations and rewards beside stock Meta-World's, task by task."""
    import envpool
    from exactness import Stock, compare, random, scripted

    name = f"EnvPool {envpool.__version__}"
    for task in BENCHMARKS[benchmark]:
        stock, peer = Stock(task), PoolPlayer(task)
        for kind, act in (("scripted", scripted(task)), ("random", random())):
            yield compare(f"{benchmark} {task} {kind}", name, stock, peer, act, steps)


class PoolPlayer:
    """An EnvPool of one env."""

    def __init__(self, task: str) -> None:
        self._pool = make_pool(task)

    def reset(self) -> Any:
        return self._pool.reset()[0][0]

    def step(self, action: Any) -> tuple[Any, float, bool]:
        observation, reward, _, _, info = self._pool.step(action[None])
        return observation[0], float(reward[0]), bool(info["success"][0])


def make_pool(task: str, *, envs: int = 1, steps: int = HORIZON) -> Any:
    """EnvPool's envs of a task, stepped by one thread."""
    import envpool

    return envpool.make_gymnasium(
        pool_name(task),
        seed=1,
        num_envs=envs,
        num_threads=1,
        max_episode_steps=steps,
        partially_observable=False,
    )


def pool_name(task: str) -> str:
    """EnvPool's name of a task: pick-place-v3 is MetaWorld/PickPlace-v3."""
    *words, version = task.split("-")
    return f"MetaWorld/{''.join(word.capitalize() for word in words)}-{version}"


def turn_pools(pools: list[Any], envs: int, steps: int) -> float:
    """CPU microseconds per env step over `steps` steps of every env of the pools; the pools' threads count."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, envs, 4))
    cpu = cpu_seconds([os.getpid()])
    for action in actions:
        for each in pools:
            each.step(action)
    return (cpu_seconds([os.getpid()]) - cpu) * 1e6 / (steps * envs * len(pools))


def physics(benchmark: str, runs: int) -> Row:
    """Our env step in one process beside its simulation alone: 5 mj_step and the mj_forward after them."""
    import mujoco

    from mtrl.envs import VectorEnv

    env = VectorEnv(EnvSettings(tasks=benchmark), seed=1, workers=0)
    env.reset()
    simulators = [(each._env.model, each._env.data) for each in env._group._envs.values()]
    ours, floor, steps = [], [], 20
    for _ in range(runs):
        ours.append(turn(env, [os.getpid()], steps)[0])
        start = time.perf_counter()
        for _ in range(steps):
            for model, data in simulators:  # in turn, as a vector step goes: caches are as cold
                mujoco.mj_step(model, data, nstep=5)
                mujoco.mj_forward(model, data)
        floor.append((time.perf_counter() - start) * 1e6 / (steps * env.num_envs))
    env.close()
    row = compare(f"{benchmark} env step in-process", "MuJoCo alone (floor)", tuple(ours), tuple(floor))
    return Row(**{**asdict(row), "threads": 1})


def by_task(benchmark: str, turns: int) -> Iterator[Row]:
    """Each task's env step in this process beside two of its parts alone, in CPU time: the simulation, as `physics` has
    it, and reward with success. What is left reads the observation, and keeps count of the episode."""
    import mujoco

    from mtrl.envs import VectorEnv

    env = VectorEnv(EnvSettings(tasks=benchmark), seed=1, workers=0)
    env.reset()
    for each in env._group._envs.values():
        actions = np.random.default_rng(0).uniform(-1, 1, (HORIZON, 4)).astype(np.float32)
        action, coming = actions[0], iter(actions[1:])
        observation, simulator = each.step(action)[0], each._env

        def simulate(model: Any = simulator.model, data: Any = simulator.data) -> None:
            mujoco.mj_step(model, data, nstep=5)
            mujoco.mj_forward(model, data)

        def step(env: Any = each, coming: Iterator[Any] = coming) -> None:
            env.step(next(coming))

        ways: dict[str, Callable[[], object]] = {
            "step": step,
            "MuJoCo alone (floor)": simulate,
            "reward alone": partial(simulator.evaluate_state, observation, action),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns):  # through one episode
            for name, work in ways.items():
                times[name].append(thread_seconds(work, 20) * 1e6)
        for part in list(ways)[1:]:
            row = compare(f"{benchmark} {each.task} env step", part, tuple(times["step"]), tuple(times[part]))
            yield Row(**{**asdict(row), "threads": 1})
    env.close()


def thread_seconds(work: Callable[[], object], calls: int) -> float:
    """CPU seconds of a call in this thread: what else runs on the machine hardly counts."""
    start = time.thread_time()
    for _ in range(calls):
        work()
    return (time.thread_time() - start) / calls


def few(benchmark: str, quick: bool, most: int, least: int) -> int:
    return least if quick or benchmark == "MT50" else most


def steps_of(quick: bool) -> int:
    return 50 if quick else HORIZON


PARTS: dict[str, Callable[[str, bool], Iterable[Row | Difference]]] = {
    "stepping": lambda benchmark, quick: stepping(benchmark, few(benchmark, quick, 5, 2), steps_of(quick)),
    "starting": lambda benchmark, quick: starting(benchmark, few(benchmark, quick, 2, 1)),
    "layer": lambda benchmark, quick: [layer(benchmark, 30 if quick else 100)],
    "physics": lambda benchmark, quick: [physics(benchmark, 3 if quick else 9)],
    "by_task": lambda benchmark, quick: by_task(benchmark, 5 if quick else 24),
    "envpool": lambda benchmark, quick: (
        pool(benchmark, 2 if quick else 3, steps_of(quick)) if benchmark == "MT10" else []
    ),
    "exactness": lambda benchmark, quick: exactness(benchmark, steps_of(quick)),
}
USUAL = tuple(part for part in PARTS if part != "exactness")  # which measures no time


@click.command()
@click.option("--quick", is_flag=True, help="MT10 and short episodes only: to see that it works.")
@click.option(
    "--json",
    "path",
    type=click.Path(path_type=Path),
    help="Write the rows to this file. It keeps its rows of other cases and peers.",
)
@click.option("--only", type=click.Choice(list(COMPARED)), help="This benchmark alone.")
@click.option(
    "--part",
    "parts",
    type=click.Choice(list(PARTS)),
    multiple=True,
    help="This part alone; may be repeated. exactness, which needs envpool, is left out unless named.",
)
@click.option("--probe", "probed", nargs=2, hidden=True)
def main(
    quick: bool, path: Path | None, only: str | None, parts: tuple[str, ...], probed: tuple[str, str] | None
) -> None:
    if probed:
        click.echo(json.dumps(probe(*probed)))
        return
    benchmarks = [only] if only else ["MT10"] if quick else list(COMPARED)
    kept = json.loads(path.read_text()) if path and path.exists() else []
    rows = {(row["case"], row["peer"]): row for row in kept}
    for row in (row for benchmark in benchmarks for row in measure(benchmark, quick, parts or USUAL)):
        click.echo(line(row))
        rows[row.case, row.peer] = asdict(row)
        if path:
            path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


def line(row: Row | Difference) -> str:
    if not isinstance(row, Row):
        return row.line()
    numbers = f"ours {row.ours_us:10.2f}   peer {row.peer_us:10.2f}   ratio {row.ratio:6.2f}"
    return f"{row.case:30} {row.peer:22} {numbers}   runs {row.runs}   spread {row.spread:.0%}"


def measure(benchmark: str, quick: bool, parts: tuple[str, ...]) -> Iterator[Row | Difference]:
    for part in parts:
        yield from PARTS[part](benchmark, quick)


if __name__ == "__main__":
    main()
