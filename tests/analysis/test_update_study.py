"""A sweep of several updates per step -> the law of its env steps to a success, in words, a table and a figure."""

from pathlib import Path

import numpy as np
from scipy import special

from analysis.frames import open_sweep
from analysis.report import Drawing, Table
from analysis.sweep_study import study
from tests.analysis.reference_analysis import config_of, write_run


def sweep(root: Path, updates: tuple[int, ...] = (1, 2, 4, 8)) -> None:
    """As grid=utd: half success after 1e6 (1 + 3 / u^.7 + 3 (N / N0)^-.5) env steps, 5 per cent off from run to run."""
    steps = np.arange(1, 41) * 2e5
    for width in (256, 512, 1024):
        for update in updates:
            for seed in range(3):
                config = config_of(
                    "MT10", width, seed,
                    train__vector_steps=800_000, evaluate__every=20_000, train__updates_per_step=update,
                )  # fmt: skip
                noise = np.exp(0.05 * np.random.default_rng([width, update, seed]).normal())
                half = 1e6 * (1 + 3 * update**-0.7 + 3 * (width / 256) ** -1.0) * noise
                success = special.expit(2 * np.log(steps / half)) - 0.0045
                write_run(root / "cells" / config.run_id / "run.h5", config, success=success)


def test_a_sweep_of_updates_has_its_law(tmp_path: Path) -> None:
    sweep(tmp_path)
    page = study(open_sweep(tmp_path), "x")
    (line,) = [line for line in page.shows if line.startswith("MT10: env steps to 50% success go as sigma^-")]
    assert "from 128 to 1.02k samples per env step (sigma)" in line
    assert "of 36 runs censored" in line
    (law,) = [each for each in page.fits["updates"]["MT10"] if each["success"] == 0.5]
    for name, truth in (("sigma", 0.7), ("N", 0.5)):
        found = law["law"][name]
        assert found["low"] < truth < found["high"]
    assert law["law"]["sigma"]["refusal"] == "3 seeds of some variant, 10 needed"
    assert not law["law"]["N"]["refusal"]
    (section,) = [section for section in page.sections if section.title == "Data and compute"]
    assert "steps_by_updates" in {item.name for item in section.items if isinstance(item, Drawing)}
    (table,) = [i for i in section.items if isinstance(i, Table) and "D_min" in i.header]
    assert [row[1] for row in table.rows] == ["25%", "50%", "75%"]


def test_two_numbers_of_updates_are_too_few(tmp_path: Path) -> None:
    sweep(tmp_path, updates=(1, 4))
    page = study(open_sweep(tmp_path), "x")
    said = "MT10: env steps to 50% success, by updates and size: 2 values of sigma, 3 needed."
    assert said in page.does_not_show


def test_one_number_of_updates_has_no_such_law(tmp_path: Path) -> None:
    sweep(tmp_path, updates=(1,))
    page = study(open_sweep(tmp_path), "x")
    assert page.fits["updates"] == {}
    assert not any("sigma" in line for line in page.shows + page.does_not_show)
