"""One trial; 50 and more over all presets are run by hand: python -m tests.chaos.kill_runs."""

from pathlib import Path

from tests.chaos.kill_runs import PRESETS, kill_runs


def test_a_killed_run_leaves_what_an_unkilled_one_leaves(tmp_path: Path) -> None:
    report = kill_runs(1, seed=0, folder=tmp_path, names=tuple(PRESETS)[-1:])
    assert report.differences == []
    assert report.kills >= 1
    assert (tmp_path / "whole 0/agent.pt").exists()
