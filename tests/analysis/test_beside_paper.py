"""Ours beside the paper's published curve: where both have a step, with both intervals and a sentence."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.beside_paper import beside, published
from analysis.frames import open_sweep
from analysis.sweep_study import study
from analysis.variants import variants
from tests.analysis.reference_analysis import config_of, write_run


def early(root: Path, ends: tuple[float, ...], width: int = 256, **overrides: float) -> None:
    """Five evaluations, every 200,000 env steps, as the paper's early curve has them."""
    for seed, end in enumerate(ends):
        options = {"train__vector_steps": 100_000, "evaluate__every": 20_000, **overrides}
        config = config_of("MT10", width, seed, **options)
        curve = end * np.array([0.15, 0.55, 0.75, 0.8, 1.0]) - 0.0045  # the file adds as much
        write_run(root / "cells" / config.run_id / "run.h5", config, success=curve)


def test_the_last_step_in_common_is_compared(tmp_path: Path) -> None:
    ends = (0.20, 0.22, 0.25, 0.24, 0.21)
    early(tmp_path, ends)
    early(tmp_path, ends, width=128)  # the paper shows no early curve of it
    (found,) = beside(variants(open_sweep(tmp_path)), np.random.default_rng(0))
    assert found.steps.tolist() == [2e5, 4e5, 6e5, 8e5, 1e6]
    assert found.theirs[-1].estimate == 0.285
    error = 0.047 / np.sqrt(10 * 0.885)
    assert found.theirs[-1].high - 0.285 == pytest.approx(stats.t.ppf(0.975, 9) * error)
    own = (found.ours[-1].high - found.ours[-1].estimate) / stats.t.ppf(0.975, 4)
    known = stats.ttest_ind_from_stats(
        found.ours[-1].estimate, own * np.sqrt(5), 5, 0.285, error * np.sqrt(10), 10, equal_var=False
    )
    assert found.differences[-1].p == pytest.approx(known.pvalue)
    page = study(open_sweep(tmp_path), "early")
    (line,) = [line for line in page.shows if "the paper's" in line]
    assert line.startswith("MT10, width 256, at 1M env steps: our success differs from the paper's: IQM 0.22")


def test_an_interval_that_is_cut_at_one_leaves_the_error_whole(tmp_path: Path) -> None:
    early(tmp_path, (0.6, 0.7, 1.0, 1.0, 1.0))
    (found,) = beside(variants(open_sweep(tmp_path)), np.random.default_rng(0))
    ours, gap = found.ours[-1], found.differences[-1]
    assert ours.high == 1
    assert gap.high - gap.estimate > (ours.estimate - ours.low) * 0.9  # the paper's own error is small


def test_an_ordinary_sweep_does_not_differ(tmp_path: Path) -> None:
    early(tmp_path, (0.24, 0.33, 0.27, 0.22, 0.31))
    page = study(open_sweep(tmp_path), "early")
    assert any("our success does not differ from the paper's" in line for line in page.does_not_show)
    assert published()["MT10", 256].success[-1] == 0.285


def test_a_p_that_rounds_to_zero_is_written_as_less_than(tmp_path: Path) -> None:
    early(tmp_path, (0.80, 0.81, 0.82, 0.80, 0.81))
    page = study(open_sweep(tmp_path), "early")
    assert any("Welch's t test, p < .001)" in line for line in page.shows)


def test_variants_of_one_width_have_names_of_their_own(tmp_path: Path) -> None:
    for rate in (3e-4, 1e-3):
        early(tmp_path, (0.24, 0.33, 0.27), agent__critic_lr=rate)
    names = [each.name for each in beside(variants(open_sweep(tmp_path)), np.random.default_rng(0))]
    assert names == ["MT10, width 256, agent.critic_lr 0.0003", "MT10, width 256, agent.critic_lr 0.001"]


def test_other_steps_and_single_seeds_are_not_compared(tmp_path: Path) -> None:
    early(tmp_path / "one", (0.24,))
    assert beside(variants(open_sweep(tmp_path / "one")), np.random.default_rng(0)) == []
    config = config_of("MT10", 256)
    for seed in (0, 1):
        config = config_of("MT10", 256, seed)
        write_run(tmp_path / "short" / "cells" / config.run_id / "run.h5", config)
    assert beside(variants(open_sweep(tmp_path / "short")), np.random.default_rng(0)) == []
