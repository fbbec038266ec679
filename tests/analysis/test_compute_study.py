"""Learning curves of a sweep -> laws in data and compute on its page."""

import re
from pathlib import Path

import numpy as np
import pytest

from analysis import compute_study
from analysis.errors import SweepError
from analysis.frames import open_sweep
from analysis.history_table import open_histories
from analysis.law_study import estimate_words
from analysis.report import Drawing, Table
from analysis.sandwich import Estimate
from analysis.sweep_study import study
from analysis.variants import variants
from mtrl.sizing import update_flops
from tests.analysis.reference_analysis import config_of, write_run


def sweep(root: Path, widths: tuple[int, ...] = (128, 256, 512, 1024, 2048), seeds: int = 3) -> None:
    """f = .05 (N / 1e6)^-.35 + .1 (D / 4e6)^-.7, a few per cent off from run to run."""
    generator = np.random.default_rng(0)
    steps = np.arange(1, 21) * 1e6
    for width in widths:
        for seed in range(seeds):
            config = config_of(
                "MT10",
                width,
                seed,
                train__vector_steps=2_000_000,
                evaluate__every=100_000,
                evaluate__episodes=50,
            )
            failure = 0.05 * (9 * width**2 / 1e6) ** -0.35 + 0.1 * (steps / 4e6) ** -0.7
            success = 1 - failure * np.exp(generator.normal(0, 0.05) + generator.normal(0, 0.03, 20)) - 0.0045
            write_run(root / "cells" / config.run_id / "run.h5", config, success=success)


def test_a_sweep_of_curves_has_its_laws_in_data_and_compute(tmp_path: Path) -> None:
    sweep(tmp_path)
    page = study(open_sweep(tmp_path), "x")
    (line,) = [line for line in page.shows if "the additive law has exponents" in line]
    numbers = [float(word.rstrip(")")) for word in line.replace(")", " ").split() if word[:2] == "0."]
    a, a_low, a_high, b, b_low, b_high = numbers
    assert a_low < 0.35 < a_high
    assert b_low < 0.7 < b_high
    assert a_low < a < a_high
    assert b_low < b < b_high
    assert any(
        "success at ten times the largest compute run" in line for line in page.shows + page.does_not_show
    )
    (section,) = [section for section in page.sections if section.title == "Data and compute"]
    names = {item.name for item in section.items if isinstance(item, Drawing)}
    assert names == {"iso_flop", "success_against_compute", "success_against_steps_times_size"}
    (budgets,) = [i for i in section.items if isinstance(i, Table) and i.caption.startswith("What a budget")]
    assert {row[2] for row in budgets.rows} == {"additive", "bounded"}


def test_what_is_not_identified_predicts_nothing(tmp_path: Path) -> None:
    """Curves that are flat in size: the laws say nothing about compute."""
    for width in (128, 256, 512, 1024):
        for seed in range(3):
            config = config_of("MT10", width, seed, train__vector_steps=2_000, evaluate__every=200)
            curve = 0.5 + 0.02 * np.arange(10) + np.random.default_rng([width, seed]).normal(0, 0.02)
            write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=curve)
    page = study(open_sweep(tmp_path), "x")
    assert "MT10: what compute buys; for that both laws must know both exponents." in page.does_not_show
    assert not any("ten times the largest compute" in line for line in page.shows + page.does_not_show)


def test_an_interval_that_says_nothing_is_not_printed(tmp_path: Path) -> None:
    """Flat curves of few runs: neither sentences nor tables have an exponent of 40, from -389 to 468."""
    wide = Estimate(40.0, -389.0, 468.0, 0.9, 3.0)
    assert estimate_words(wide) == "not identified by these data"
    assert estimate_words(Estimate(0.4, 0.3, 0.5, 0.01, 30.0)) == "0.40 (0.30 – 0.50)"
    for width in (128, 256, 512, 1024):
        for seed in range(2):
            config = config_of("MT10", width, seed, train__vector_steps=2_000, evaluate__every=200)
            curve = 0.5 + np.random.default_rng([width, seed]).normal(0, 0.02, 10)
            write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=curve)
    page = study(open_sweep(tmp_path), "x")
    (line,) = [line for line in page.does_not_show if "the bounded law does not know its exponent of" in line]
    (section,) = [section for section in page.sections if section.title == "Data and compute"]
    (table,) = [i for i in section.items if isinstance(i, Table) and i.caption.startswith("Laws over")]
    words = [line, *(cell for row in table.rows for cell in row[4:6])]
    assert "its exponent of N and D; that of N is 0.00 (" in line
    assert "that of D" not in line
    assert any("not identified by these data" in each for each in words)
    numbers = [float(n) for each in words for n in re.findall(r"-?\d+\.\d+", each)]
    assert all(abs(number) < 5 for number in numbers)


def test_compute_is_that_of_the_updates(tmp_path: Path) -> None:
    sweep(tmp_path, widths=(128,), seeds=1)
    (variant,) = variants(open_sweep(tmp_path))
    config = config_of("MT10", 128)
    assert compute_study.flops_per_env_step(variant) == update_flops(config) / 10


def test_few_widths_and_seeds_have_no_law_in_data(tmp_path: Path) -> None:
    sweep(tmp_path, seeds=1)
    page = study(open_sweep(tmp_path), "x")
    said = "MT10: a law in env steps and compute is not identified: 1 seed at some width, 2 needed."
    assert said in page.does_not_show


def test_figures_over_compute(tmp_path: Path) -> None:
    """The widest run ends at the FLOPs of its 2M updates, one per vector step."""
    sweep(tmp_path, widths=(128, 256), seeds=2)
    page = study(open_sweep(tmp_path), "x", x_axis="compute")
    drawn = {i.name: i.figure for section in page.sections for i in section.items if isinstance(i, Drawing)}
    whole = update_flops(config_of("MT10", 256)) * 2_000_000
    for name in ("learning_curves", "success_against_parameters"):
        (axis,) = drawn[name].axes
        assert "FLOPs" in axis.get_xlabel()
        ends = [max(line.get_xdata()) for line in axis.get_lines() if len(line.get_xdata()) > 1]
        assert any(abs(end / whole - 1) < 1e-6 for end in ends)
    assert "success_against_parts" not in drawn


def test_compute_that_is_not_known_is_refused(tmp_path: Path) -> None:
    rows = [f"r{n},{step},{step / 10},{n * 100}" for n in (1, 2) for step in (1, 2, 3)]
    file = tmp_path / "h.csv"
    file.write_text("\n".join(["run,step,success,parameters_total", *rows]))
    with pytest.raises(SweepError, match="a column batch_per_task"):
        study(open_histories([file], None), "x", x_axis="compute")
