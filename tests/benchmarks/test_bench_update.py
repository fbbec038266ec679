"""What bench_update.py starts on a GPU runs through here: kernels and graphs by their stand-ins, peers on the CPU."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.mtrl.cuda import cuda_on_host
from tests.mtrl.cuda.graph_on_host import CudaOnHost

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from bench_update import Bmm, Peer, Rows, captured, cuda_cases_of, gpu_peers


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


@pytest.mark.slow  # torch.compile
def test_every_case_for_a_gpu_runs(
    host: CudaOnHost,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = {case.peer: case for case in cuda_cases_of((2, 8, 4, 1), "cpu")}
    assert capsys.readouterr().out == "", "nothing was left out"
    assert set(cases) == {"torch twin", "ours without cuBLASLt", *gpu_peers((2, 8, 1), Rows(4, 1), "cpu")}
    for case in cases.values():
        case.ours()
        case.theirs()
