"""One trial; 50 and more over all presets are run by hand: python tests/chaos/kill_runs.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kill_runs import PRESETS, kill_runs


def test_a_killed_run_leaves_what_an_unkilled_one_leaves(tmp_path: Path) -> None:
    report = kill_runs(1, seed=0, folder=tmp_path, names=tuple(PRESETS)[-1:])
    assert report.differences == []
    assert report.kills >= 1
    assert (tmp_path / "whole 0/agent.pt").exists()
