"""What a cell and a command ask of the file system, counted with strace: little, and no more the more cells are over.

`benchmarks/bench_scale.py` counts the same and says what follows for 100,000 cells (docs/scale.md).
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from bench_scale import count_cell, count_launch, count_status

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None and not os.environ.get("CI"), reason="strace is not installed"
)


def test_of_a_status(tmp_path: Path) -> None:
    few, many = count_status(tmp_path, over=3, begun=2), count_status(tmp_path, over=40, begun=2)
    assert few == many <= 20
    assert count_status(tmp_path, over=3, begun=12) - few <= 3 * 10


def test_of_a_launch_that_finds_all_cells_over(tmp_path: Path) -> None:
    few, many = count_launch(tmp_path, over=5), count_launch(tmp_path, over=25)
    assert many - few <= 4 * 20, "a marker and a run file, looked at by the plan and by the launch"
    assert few <= 45


def test_of_a_cell(tmp_path: Path) -> None:
    alone = count_cell(tmp_path, "alone")
    assert alone == count_cell(tmp_path, "crowded", over=20)
    assert alone <= 50
