"""What bench_update.py starts on a GPU runs through here: kernels and graphs by their stand-ins, peers on the CPU."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.mtrl.cuda import cuda_on_host
from tests.mtrl.cuda.graph_on_host import CudaOnHost

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from bench_update import Bmm, Jax, Peer, Rows, captured, cuda_cases_of, gpu_peers, jax_case, jax_python
from interleave import Case, measure


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaOnHost]:
    """The only GPU of this machine, as the benchmarks take it."""
    cuda = cuda_on_host.take_host(monkeypatch)
    with cuda.device("cuda"):
        yield cuda


def test_a_captured_peer_asks_nothing_of_the_host(host: CudaOnHost) -> None:
    peer = Peer(Bmm, 2, 8, 1)
    replay = captured(peer, Rows(6, 1))
    before = peer.slow[0].clone()
    replay()
    assert not torch.equal(peer.slow[0], before), "the captured update is done again"
    assert len(host.graphs) == 1


STAND_IN = """
import sys
started = 0
for line in sys.stdin:
    if line == "wait\\n":
        print(started, flush=True)
        started = 0
    started += line == "\\n"
"""


def python_with(script: str, folder: Path) -> str:
    """A Python that runs that script, whichever it is given."""
    (folder / "script.py").write_text(script)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {folder}/given\nexec {sys.executable} {folder}/script.py\n')
    python.chmod(0o755)
    return str(python)


def test_jax_starts_its_updates_and_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    jax = Jax(python_with(STAND_IN, tmp_path), (2, 8, 4, 1), threads=1, device="cuda")
    assert (tmp_path / "given").read_text().split()[1:] == ["2", "8", "4", "1", "1", "cuda"]
    assert jax.cpu_seconds == 1, "the first one compiles"
    ours = []
    row = measure(jax_case(partial(Case, "a case", ours=lambda: ours.append(0), calls=5), jax), runs=2)
    assert jax.cpu_seconds == 1 + 5 * 3, "two timed turns and one before them"
    assert (row.peer, len(ours)) == ("jax", 15)
    assert row.ratio > 0


def test_jax_without_a_gpu_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"update_jax\.py ended"):
        Jax(python_with("raise SystemExit(1)", tmp_path), (2, 8, 4, 1), threads=1, device="cuda")


def test_jax_is_looked_for_here_or_where_a_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTRL_JAX_PYTHON", "/there/python")
    assert jax_python() == "/there/python"
    monkeypatch.delenv("MTRL_JAX_PYTHON")
    known = {"jax", "optax"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in known or None)
    assert jax_python() == sys.executable
    known.remove("optax")
    assert jax_python() is None


@pytest.mark.slow  # torch.compile
def test_every_case_for_a_gpu_runs(
    host: CudaOnHost,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench_update.jax_python", lambda: None)
    cases = {case.peer: case for case in cuda_cases_of((2, 8, 4, 1), "cpu")}
    assert capsys.readouterr().out == "", "nothing was left out"
    assert set(cases) == {"torch twin", "ours without cuBLASLt", *gpu_peers((2, 8, 1), Rows(4, 1), "cpu")}
    for case in cases.values():
        case.ours()
        case.theirs()
