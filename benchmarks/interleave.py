"""The common form of the benchmarks: ours and the peer take turns in one process, medians are compared.

Each `bench_<stem>.py` ends with `run(cases)`, which gives it `--quick` and `--json PATH`, and `--device cuda` where it
has cases for a GPU. A row of the JSON is
{"case", "peer", "ours_us", "peer_us", "ratio", "threads", "runs", "spread"}; ratio > 1 means that ours is faster, and
spread is the larger of the two interquartile ranges over its median.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click


@dataclass(frozen=True)
class Case:
    """Two ways to do the same work. `calls` of them make one timing, so that short work is timed well; `before` each
    timing something may be done that is not timed."""

    case: str
    peer: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    threads: int = 1
    calls: int = 1
    before: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.perf_counter  # on a busy machine CPU seconds are fairer, for one thread


@dataclass(frozen=True)
class Row:
    case: str
    peer: str
    ours_us: float
    peer_us: float
    ratio: float
    threads: int
    runs: int
    spread: float


def measure(case: Case, runs: int) -> Row:
    """The medians over `runs` turns each, after one turn each to warm up."""
    microseconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        for work, times in zip((case.ours, case.theirs), microseconds, strict=True):
            case.before()
            start = case.clock()
            for _ in range(case.calls):
                work()
            if turn:
                times.append((case.clock() - start) / case.calls * 1e6)
    ours, theirs = map(statistics.median, microseconds)
    spread = max(relative_spread(times) for times in microseconds)
    return Row(case.case, case.peer, ours, theirs, theirs / ours, case.threads, runs, spread)


Cases = Callable[[bool], Iterable["Case | Row"]]


def run(cases: Cases, *, runs: int = 21, quick_runs: int = 5, cuda_cases: Cases | None = None) -> None:
    """The command line of a benchmark: `cases` is told whether to be quick and gives what to compare, or rows."""

    @click.command()
    @click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
    @click.option("--quick", is_flag=True, help="Fewer and smaller cases: to see that it works.")
    @click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows to this file.")
    def main(quick: bool, path: Path | None, device: str) -> None:
        rows = []
        for case in (cases if device == "cpu" else _on_gpu(cuda_cases))(quick):
            row = case if isinstance(case, Row) else measure(case, quick_runs if quick else runs)
            rows.append(row)
            click.echo(
                f"{row.case:32} {row.peer:24} ours {row.ours_us:11.1f} us   peer {row.peer_us:11.1f} us   "
                f"ratio {row.ratio:6.2f}   threads {row.threads}   spread {row.spread:.0%}"
            )
        if path:
            path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")

    main()


def gpu_clock() -> float:
    """Seconds, once the GPU has done all that was started."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def _on_gpu(cuda_cases: Cases | None) -> Cases:
    if cuda_cases is None:
        raise click.UsageError("this benchmark has nothing for a GPU; leave --device out")
    import torch

    from mtrl import _core

    if not torch.cuda.is_available():
        raise click.UsageError("torch sees no GPU here; --device cuda needs one")
    if _core.cuda_build() is None:
        raise click.UsageError("mtrl was built without CUDA kernels; docs/gpu.md says how to build them")
    click.echo(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, kernels {_core.cuda_build()}")
    return cuda_cases


def relative_spread(times: list[float]) -> float:
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle
