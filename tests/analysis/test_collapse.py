"""Runs that collapse are noticed, counted with exact intervals, and do not hide the law of the others."""

from pathlib import Path

import numpy as np
import pytest

from analysis import collapse, law_study
from analysis.frames import open_sweep
from analysis.law_study import law_of
from analysis.sweep_study import study
from analysis.variants import Variant, variants
from tests.analysis.reference_analysis import config_of, write_run


def sweep(root: Path, collapse_chance: float, seed: int = 0) -> list[Variant]:
    """Failure falls as N^-.25; a run collapses to a few per cent, more often the wider it is."""
    generator = np.random.default_rng(seed)
    widths = (64, 128, 256, 512, 1024)
    for place, width in enumerate(widths):
        for number in range(5):
            config = config_of("MT10", width, number, evaluate__episodes=50)
            end = 1 - 0.4 * (width / 64) ** -0.5 * np.exp(generator.normal(0, 0.08))
            curve = end * np.array([0.4, 0.7, 0.9, 1.0])
            if generator.random() < collapse_chance * place / (len(widths) - 1):
                curve[-1] = 0.02
            write_run(root / "cells" / config.run_id / "run.h5", config, success=curve)
    return variants(open_sweep(root))


def test_a_collapse_is_noticed_and_low_success_is_none(tmp_path: Path) -> None:
    for seed, curve in enumerate([(0.5, 0.7, 0.8, 0.85)] * 3 + [(0.5, 0.7, 0.8, 0.1)]):
        config = config_of("MT10", 64, seed)
        write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=curve)
    for seed, end in enumerate((0.12, 0.05, 0.11, 0.13)):  # nothing was learned: nothing could be lost
        config = config_of("MT10", 16, seed)
        write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=(0.1, 0.1, 0.12, end))
    narrow, wide = variants(open_sweep(tmp_path))
    assert collapse.collapsed(narrow).tolist() == [False] * 4
    assert collapse.collapsed(wide).tolist() == [False, False, False, True]
    (line, trend) = collapse.sentences("MT10", [narrow, wide])
    assert (
        line
        == "MT10: 1 of 8 runs collapsed or diverged (95% intervals, exact): width 64: 1 of 4 (1% to 81%)."
    )
    assert "is open" in trend


def test_the_law_of_the_others_stands_beside_that_of_all(tmp_path: Path) -> None:
    found = sweep(tmp_path, 0.9)
    law = law_of("MT10", found, "auto", np.random.default_rng(0))
    assert law.lost >= 4
    assert law.without_lost is not None
    rest = law.without_lost.exponents["parameters"]
    assert rest.low < 0.25 < rest.high
    assert rest.high - rest.low < 0.1
    shows, _ = law_study.sentences(law)
    (line,) = [line for line in shows if "collapsed or diverged runs: " in line]
    assert f"without its {law.lost}" in line
    page = study(open_sweep(tmp_path), "x")
    assert any("collapsed or diverged (95% intervals" in line for line in page.shows)
    assert any("the rate rises with size" in line for line in page.shows)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_collapse_not_a_word(tmp_path: Path, seed: int) -> None:
    found = sweep(tmp_path, 0, seed)
    assert collapse.sentences("MT10", found) == []
