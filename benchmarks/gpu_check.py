"""The acceptance test of a machine with a GPU: `make gpu-check` (docs/gpu.md).

Builds mtrl for the GPU, tries every kernel, trains on GPU and CPU side by side, runs the tests that need a GPU, and
times updates against what the machine's own products and copies take. Each part is a process with a time limit;
gpu-check.json and report.html are written anew after each. With --on-host every part runs on stand-ins for the GPU:
that shows that the check works, and nothing about a GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import click
from gpu_report import write_report

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 8.0
LEAST_SECONDS = 5.0  # of a part: with less time left it is left out
HOST_PATIENCE = 5.0  # times longer may a part take on the host, where kernels are slow
KEPT_LINES = 12  # of the output of a part that failed
State = Literal["passed", "failed", "slow", "left out"]


@dataclass(frozen=True)
class Part:
    """One part of the check: a command that prints a JSON object for each thing it found, among other lines."""

    name: str
    about: str
    seconds: float  # at most
    command: Sequence[str]
    without: str = ""  # why it is left out; empty where it is not
    environment: dict[str, str] = field(default_factory=dict)
    needed: bool = False  # nothing after it makes sense where it fails


@dataclass
class Result:
    name: str
    about: str
    state: State
    words: str
    seconds: float = 0.0
    found: list[dict[str, Any]] = field(default_factory=list)
    output: list[str] = field(default_factory=list)  # its last lines, where it failed


def parts(on_host: bool) -> list[Part]:
    """What is done, the most telling first: the time may end before the list does."""
    python = sys.executable
    measure = [python, "benchmarks/gpu_measure.py"]
    host = ["--on-host"] if on_host else []
    build = {} if on_host else {"MTRL_CUDA": "ON"} | _architecture()
    tests = (
        ["tests/mtrl/cuda"]
        if not on_host
        else ["tests/mtrl/cuda/test_preflight.py", "tests/mtrl/cuda/test_kernels.py"]
    )
    sanitizer = shutil.which("compute-sanitizer")
    missing = "" if sanitizer else "compute-sanitizer is not installed"
    kernels = [*measure, "kernels", *host]

    def sanitized(tool: str) -> list[str]:
        return [sanitizer or "", "--tool", tool, "--error-exitcode", "9", *kernels]

    patience = HOST_PATIENCE if on_host else 1.0
    listed = [
        Part("machine", "The GPU, its driver, torch and the tools here", 60, [*measure, "machine", *host], needed=True),
        Part("build", "The extension, with kernels for this GPU", 150,
             [python, "setup.py", "-q", "build_ext", "--inplace"], environment=build, needed=True),
        Part("kernels", "Every kernel once, against torch", 60, kernels),
        Part("twins", "The same batches and noise on GPU and CPU, update by update", 60, [*measure, "twins", *host]),
        Part("runs", "preset=debug and MT10 trained for some hundred steps", 100, [*measure, "runs", *host]),
        Part("updates", "Launches and time of an update", 130, [*measure, "updates", *host]),
        Part("tests", "The tests that need a GPU", 120,
             [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *([] if on_host else ["-m", "cuda"]), *tests]),
        Part("memcheck", "compute-sanitizer: memory, over every kernel", 60, sanitized("memcheck"), without=missing),
        Part("racecheck", "compute-sanitizer: races, over every kernel", 60, sanitized("racecheck"), without=missing),
        Part("loop", "The whole loop at MT10", 60, [*measure, "loop", *host]),
        Part("systems", "Updates through autograd as graphs", 60, [*measure, "systems", *host]),
        Part("second GPU", "A run on cuda:1 leaves GPU 0 alone", 60, [*measure, "second", *host]),
        Part("peers", "The update against torch, torch.compile and JAX", 120, [*measure, "peers", *host]),
    ]  # fmt: skip
    return [replace(part, seconds=patience * part.seconds) for part in listed]


def _architecture() -> dict[str, str]:
    """CUDAARCHS for the GPU at hand, unless it is set."""
    if "CUDAARCHS" in os.environ:
        return {}
    script = "import torch; print(*torch.cuda.get_device_capability(), sep='')"
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return {"CUDAARCHS": asked.stdout.strip()} if asked.returncode == 0 else {}


def run_part(part: Part, seconds: float) -> Result:
    """Runs one part for at most that long. Never raises for what goes wrong in it."""
    start = time.monotonic()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()} | part.environment
    try:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Result(part.name, part.about, "failed", f"it cannot start: {error}")
    try:
        output, _ = process.communicate(timeout=seconds)
        late = False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # its children too
        output, _ = process.communicate()
        late = True
    took = time.monotonic() - start
    return judge(part, output, process.returncode, took, late)


def judge(part: Part, output: str, code: int, seconds: float, late: bool) -> Result:
    """What a part's output and exit code say."""
    lines = output.splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"')]
    failures = [row["words"] for row in found if row.get("state") == "failed"]
    slow = [row["words"] for row in found if row.get("state") == "slow"]
    left_out = [row["words"] for row in found if row.get("state") == "left out"]
    state: State
    if failures:
        state, words = "failed", "; ".join(failures)
    elif late:
        state, words = "failed", f"it was not over after {seconds:.0f} s"
    elif code:
        state, words = "failed", f"it ended with exit code {code}"
    elif slow:
        state, words = "slow", "; ".join(slow)
    elif left_out and len(left_out) == len(found):
        state, words = "left out", "; ".join(left_out)
    else:
        state, words = "passed", _last_words(lines, found)
    kept = [] if state in ("passed", "left out") else lines[-KEPT_LINES:]
    return Result(part.name, part.about, state, words, round(seconds, 1), found, kept)


def check(
    todo: Sequence[Part],
    minutes: float,
    report: Callable[[list[Result]], None],
    *,
    run: Callable[[Part, float], Result] = run_part,
) -> list[Result]:
    """Runs the parts in turn; `report` is given all results after each. What there is no time for is left out."""
    end = time.monotonic() + 60 * minutes
    results: list[Result] = []
    stopped = ""
    for part in todo:
        left = end - time.monotonic()
        if reason := stopped or part.without or ("no time was left" if left < LEAST_SECONDS else ""):
            results.append(Result(part.name, part.about, "left out", reason))
        else:
            results.append(run(part, min(part.seconds, left)))
            if part.needed and results[-1].state == "failed":
                stopped = f"'{part.name}' failed"
        report(results)
    return results


def verdict(results: Sequence[Result]) -> State:
    states = {result.state for result in results}
    return "failed" if "failed" in states else "slow" if "slow" in states else "passed"


def _last_words(lines: list[str], found: list[dict[str, Any]]) -> str:
    if found:
        return str(found[-1].get("words", ""))
    return lines[-1].strip("= ") if lines else ""


def _python_path() -> str:
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(ROOT), *([given] if given else [])])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path), default=Path("gpu-check"), show_default=True,
              help="Folder for report.html and gpu-check.json.")  # fmt: skip
@click.option("--minutes", default=MINUTES, show_default=True, help="Time for all of it.")
@click.option("--on-host", is_flag=True, help="Rehearse on stand-ins: nothing runs on a GPU.")
def main(out: Path, minutes: float, on_host: bool) -> None:
    """Check this machine's GPU for mtrl."""
    out.mkdir(parents=True, exist_ok=True)

    def report(results: list[Result]) -> None:
        whole = {
            "verdict": verdict(results),
            "on_host": on_host,
            "results": [asdict(result) for result in results],
        }
        (out / "gpu-check.json").write_text(json.dumps(whole, indent=1) + "\n")
        write_report(out / "report.html", whole)
        last = results[-1]
        click.echo(f"{last.name:12} {last.state:9} {last.seconds:6.1f} s  {last.words[:160]}")

    if on_host:
        click.echo("Nothing here runs on a GPU: its kernels run on the host, and times say nothing.")
    results = check(parts(on_host), minutes, report)
    click.echo(f"{verdict(results)}; the report is {out / 'report.html'}")
    sys.exit(1 if verdict(results) == "failed" else 0)


if __name__ == "__main__":
    main()
