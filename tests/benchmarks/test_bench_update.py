"""What bench_update.py starts on a GPU runs through here: kernels and graphs by their stand-ins, peers on the CPU."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.mtrl.cuda.recorded_graphs import Recorder, record_graphs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from bench_update import Bmm, Peer, Rows, captured, cuda_cases_of, gpu_peers


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    return record_graphs(monkeypatch)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda side: nullcontext())


def test_a_captured_peer_asks_nothing_of_the_host(graphs: list[Recorder], streams: None) -> None:
    peer = Peer(Bmm, 2, 8, 1)
    replay = captured(peer, Rows(6, 1))
    before = peer.slow[0].clone()
    replay()
    assert not torch.equal(peer.slow[0], before), "the captured update is done again"
    assert len(graphs) == 1


@pytest.mark.slow  # torch.compile
def test_every_case_for_a_gpu_runs(
    graphs: list[Recorder],
    streams: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = {case.peer: case for case in cuda_cases_of((2, 8, 4, 1), "cpu")}
    assert capsys.readouterr().out == "", "nothing was left out"
    assert set(cases) == {"torch twin", "ours without cuBLASLt", *gpu_peers((2, 8, 1), Rows(4, 1), "cpu")}
    for case in cases.values():
        case.ours()
        case.theirs()
