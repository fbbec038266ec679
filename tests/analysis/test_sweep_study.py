"""The page about a sweep says what its runs show and what they do not."""

import itertools
import re
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from matplotlib.contour import ContourSet

from analysis import plasticity_study
from analysis.comparisons import Pair, comparisons
from analysis.errors import SweepError
from analysis.findings import is_above
from analysis.frames import open_sweep
from analysis.report import Drawing, Page, render
from analysis.variants import variants
from mtrl.run_writer import RunFileWriter
from tests.analysis.pages import Checked, page_of, smoke, table_of
from tests.analysis.reference_analysis import DIVERGED, RUN_METRICS, config_of, write_run, write_sweep


def test_a_smoke_study_claims_curves_but_no_width_effect(smoke_page: Page) -> None:
    page = smoke_page
    shows, lacks = "\n".join(page.shows), "\n".join(page.does_not_show)
    assert "pipeline" not in shows + lacks
    assert page.lead.startswith("Score: success at the last evaluation.")
    assert (
        "drawer-close rises above its random-policy line (20%) in 4 of 4 runs: success is 90% over" in shows
    )
    assert "A width effect: there is 1 run per width" in lacks
    assert "the widest network here has 128" in lacks
    assert "2,000 steps per task, 0.001 of the paper's 2,000,000" in lacks
    assert "the largest set here has 2 tasks" in lacks
    assert lacks.count("a scaling exponent is not identified: 1 seed of each size, 2 needed") == 2


def test_the_words_follow_the_data(tmp_path: Path) -> None:
    smoke(tmp_path, seeds=3, widths=(16, 32, 64))
    lacks = "\n".join(page_of(tmp_path).does_not_show)
    assert "A width effect" not in lacks
    assert "3 sizes, 4 needed" in lacks


@pytest.mark.parametrize(("rates", "first"), [(2, True), (7, False)])
def test_what_is_said_of_each_of_many_groups_comes_last(tmp_path: Path, rates: int, first: bool) -> None:
    configs = [
        config_of(width=width, agent__critic_lr=rate / 1000)
        for width in (16, 32)
        for rate in range(1, rates + 1)
    ]
    write_sweep(tmp_path, configs)
    lacks = page_of(tmp_path).does_not_show
    of_groups = [place for place, line in enumerate(lacks) if "exponent is not identified" in line]
    of_all = next(place for place, line in enumerate(lacks) if line.startswith("Final performance"))
    assert len(of_groups) == rates
    assert (of_groups[0] < of_all) == first
    assert (of_groups[-1] < of_all) == first


def test_a_task_that_is_not_learned_is_said(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of("reach-v3")], success=[0.1, 0.2, 0.2, 0.2])
    page = page_of(tmp_path)
    line = next(line for line in page.does_not_show if line.startswith("reach"))
    assert "does not rise above its random-policy line (20%) in any of 1 run: success is 20%" in line


def test_above_the_random_policy_means_beyond_chance() -> None:
    assert is_above(0.8, 20, 0.2, 20)
    assert not is_above(0.3, 20, 0.2, 20)
    assert not is_above(1.0, 5, 0.6, 5)


def test_a_law_in_the_data_is_reported(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for width in (256, 512, 1024, 2048, 4096):
        for seed in range(4):
            config = config_of("drawer-close-v3+reach-v3", width, seed, evaluate__episodes=1000)
            failure = 0.05 + 0.3 * (width / 256) ** -0.8
            value = 1 - failure + generator.normal(0, 0.005)
            write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=[0.1, 0.2, 0.3, value])
    page = page_of(tmp_path)
    (law,) = [line for line in page.shows if "the exponent with a free floor" in line]
    low, high = map(float, law.rstrip(".").split("interval ")[1].split(" to "))
    assert low < 0.4 < high  # parameters grow with the width squared
    assert high - low < 0.2
    (floor,) = [line for line in page.shows if "failure has a floor of" in line]
    low, high = (float(end.rstrip("%")) for end in floor.rstrip(".").split("interval ")[1].split(" to "))
    assert low < 5 < high
    assert any("failure falls as N^-a with a = 0." in line for line in page.shows)
    assert not any("width effect" in line for line in page.does_not_show)


def test_unfinished_and_skipped_are_said_and_listed(tmp_path: Path) -> None:
    smoke(tmp_path)
    write_sweep(tmp_path, [config_of(width=8)], success=[0.1])
    (tmp_path / "cells" / "bad").mkdir()
    (tmp_path / "cells" / "bad" / "run.h5").write_text("<b>no</b>")
    page = page_of(tmp_path)
    assert any("1 run not finished" in line for line in page.does_not_show)
    assert any("1 file could not be read" in line for line in page.does_not_show)
    text = render(page)
    assert "cells/bad/run.h5" in text


def test_no_finished_run(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of()], success=[0.1])
    with pytest.raises(SweepError, match=r"no finished runs in smoke \(1 unfinished\)"):
        page_of(tmp_path)


def actor_critic_sweep(root: Path, sets: tuple[str, ...] = ("MT10",), seeds: int = 2) -> None:
    """Failure falls with the critic's size and hardly with the actor's."""
    generator = np.random.default_rng(0)
    widths = (64, 192, 512, 1536)
    for number, tasks in enumerate(sets):
        for actor, critic, seed in itertools.product(widths, widths, range(seeds)):
            config = config_of(
                tasks,
                critic,
                seed,
                network__actor__width=actor,
                evaluate__episodes=50,
                train__vector_steps=6_000,
            )
            failure = 0.02 + 0.05 * number + 0.02 * (actor / 64) ** -0.4 + 0.5 * (critic / 64) ** -1.2
            final = 1 - failure * np.exp(generator.normal(0, 0.03))
            sizes = {"actor": 3 * actor**2, "critic": 6 * critic**2, "target": 6 * critic**2}
            write_run(
                root / "cells" / config.run_id / "run.h5",
                config,
                success=final * np.linspace(0.1, 1, 12) ** 0.3,
                parameters=sizes | {"total": sizes["actor"] + sizes["critic"]},
            )


def test_the_critics_exponent_is_found_larger(tmp_path: Path) -> None:
    actor_critic_sweep(tmp_path)
    page = page_of(tmp_path)
    assert any("the critic's exponent is larger than the actor's" in line for line in page.shows)
    assert any("the critic's elasticity is larger than the actor's" in line for line in page.shows)
    names = {item.name for section in page.sections for item in section.items if isinstance(item, Drawing)}
    assert names >= {"actor_critic_0", "exponents", "residuals", "dormant", "profiles"}
    fits = page.fits["MT10"]
    assert isinstance(fits, dict)
    share = fits["best_critic_share"]["with a floor, parameters"]
    assert 0.5 < share["low"] < share["share"] < share["high"] < 1
    Checked(render(page))


def test_lines_of_equal_parameters_need_no_cell_of_every_pair_of_widths(tmp_path: Path) -> None:
    """Sizes of actor and critics add up, so that of a pair of widths without a cell is known."""
    for actor, critic in ((16, 16), (16, 64), (64, 16)):
        config = config_of("MT10", critic, network__actor__width=actor)
        sizes = {"actor": actor**2, "critic": 2 * critic**2, "target": 2 * critic**2}
        total = sizes["actor"] + sizes["critic"]
        write_run(tmp_path / "cells" / config.run_id / "run.h5", config, parameters=sizes | {"total": total})
    (drawing,) = [
        item
        for section in page_of(tmp_path).sections
        for item in section.items
        if isinstance(item, Drawing) and item.name == "actor_critic_0"
    ]
    (lines,) = [c for c in drawing.figure.axes[0].collections if isinstance(c, ContourSet)]
    assert sum(len(path.vertices) > 1 for path in lines.get_paths()) == 4


def test_comparisons_are_made_where_there_are_seeds_and_corrected_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for width, success in ((16, 0.3), (32, 0.8), (64, 0.81)):
        for seed in range(5):
            config = config_of("MT10", width, seed)
            final = success + generator.normal(0, 0.03)
            write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=[0.1, 0.2, 0.3, final])
    page = page_of(tmp_path)
    rows = {row[0]: row for row in table_of(page, "Neighbouring sizes").rows}
    names = [f"MT10: width {a} above width {b}" for a, b in ((32, 16), (64, 32), (64, 16))]
    assert list(rows) == names
    assert [rows[name][-2:] for name in names] == [
        ["apart", "supported"], ["overlap", "not supported"], ["apart", "supported"],
    ]  # fmt: skip
    (sentence,) = [line for line in page.shows if line.startswith("MT10, width 32 against width 16")]
    assert re.fullmatch(
        r"MT10, width 32 against width 16: IQM of success 0\.\d+ \(n = 5\) against 0\.\d+ \(n = 5\), difference "
        r"\+0\.\d+ \(95% interval \+0\.\d+ to \+0\.\d+; exact rank test, p = \.024 after Holm's correction for 3 "
        r"comparisons\)\.",
        sentence,
    )
    assert any(line.startswith("MT10, width 64 against width 32") for line in page.does_not_show)


def test_a_wide_critic_is_compared_with_as_wide_an_actor(tmp_path: Path) -> None:
    """Of all mirrored widths the two that are furthest apart; a wide critic without its mirror is not compared."""
    for actor, critic, success in ((16, 64, 0.8), (64, 16, 0.4), (16, 32, 0.6), (32, 16, 0.5), (8, 64, 0.7)):
        for seed in range(4):
            config = config_of("MT10", critic, seed, network__actor__width=actor)
            final = success + 0.01 * seed
            write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=[0.1, 0.2, 0.3, final])
    (row,) = table_of(page_of(tmp_path), "Neighbouring sizes").rows
    assert row[0] == "MT10: wide critic (width 16/64) above wide actor (width 64/16)"
    assert row[-1] == "supported"


def test_a_side_has_one_interval_in_all_its_comparisons() -> None:
    a, b, c = np.random.default_rng(0).random((3, 5, 4))
    pairs = [Pair("", "a", "b", a, b), Pair("", "a", "c", a, c), Pair("", "c", "b", c, b)]
    ab, ac, cb = comparisons(pairs, np.random.default_rng(1))
    for one, other in ((ab.sides[0], ac.sides[0]), (ab.sides[1], cb.sides[1]), (ac.sides[1], cb.sides[0])):
        np.testing.assert_equal(astuple(one), astuple(other))  # Python 3.13 finds NaN unequal in a dataclass


def test_other_settings_are_other_groups(tmp_path: Path) -> None:
    """A law is not fitted across settings; the settings are compared at each size."""
    modes = ("uniform", "prioritized")
    write_sweep(
        tmp_path,
        [config_of(width=w, seed=s, replay__mode=m) for w in (16, 32) for s in (0, 1) for m in modes],
    )
    page = page_of(tmp_path)
    assert {name for name in page.fits if name not in ("comparisons", "curves", "updates")} == {
        f"drawer-close + reach, mode {mode}" for mode in modes
    }
    claims = [row[0] for row in table_of(page, "Neighbouring sizes").rows]
    assert (
        sum("mode" in claim.split(" above ")[0] and "mode" in claim.split(" above ")[1] for claim in claims)
        == 2
    )


def test_systems_of_like_size_are_compared(tmp_path: Path) -> None:
    """What follows from the system is no setting of its own; sizes a quarter apart and more are not compared."""
    for seed in range(4):
        for system, width, total, success in (
            ("mtmhsac", 64, 1000, 0.8),
            ("moore", 16, 1100, 0.4),
            ("paco", 16, 9000, 0.5),
        ):
            options = (
                {}
                if system == "mtmhsac"
                else {"network__actor__kind": system, "network__critic__kind": system}
            )
            experts = {"moore": 3, "paco": 4}.get(system)
            if experts:
                options |= {"network__actor__experts": experts, "network__critic__experts": experts}
            config = config_of("MT10", width, seed, **options)
            sizes = {"actor": 100, "critic": total - 100, "target": total - 100, "total": total}
            path = tmp_path / "cells" / config.run_id / "run.h5"
            write_run(path, config, success=[0.1, 0.2, 0.3, success + 0.01 * seed], parameters=sizes)
    page = page_of(tmp_path)
    assert {name for name in page.fits if name not in ("comparisons", "curves", "updates")} == {
        "MT10",
        "MT10, moore",
        "MT10, paco",
    }
    (row,) = table_of(page, "Neighbouring sizes").rows
    assert row[0] == "MT10: plain MLP, width 64 above moore 16"
    assert row[-1] == "supported"


def test_diverged_runs_are_counted(tmp_path: Path) -> None:
    files = write_sweep(tmp_path, [config_of(seed=seed) for seed in range(3)], success=[0.2, 0.4])
    files += write_sweep(tmp_path, [config_of(seed=3)], success=[])  # before its first evaluation
    for file in files:
        RunFileWriter.open(file).mark_diverged(DIVERGED)
    page = page_of(tmp_path)
    assert any(line.startswith("4 runs diverged, seen by q_mean in 4;") for line in page.shows)
    lost = "4 of 4 runs collapsed or diverged (95% intervals, exact): width 16: 4 of 4 (40% to 100%)."
    assert f"drawer-close + reach: {lost}" in page.shows
    (variant,) = variants(open_sweep(tmp_path))
    assert variant.scores.mean(-1).tolist() == pytest.approx([0.4005] * 3 + [0.0])


def plastic_sweep(root: Path, batches: tuple[int, ...]) -> None:
    """Odds of dormancy double with width, and halve with the total batch; tasks do nothing. No batch: 32 per task."""
    generator = np.random.default_rng(0)
    for tasks, width, batch, seed in itertools.product(
        ("MT10", "MT25", "MT50"), (64, 256), batches or (0,), range(2)
    ):
        total = batch or 32 * int(tasks[2:])
        config = config_of(tasks, width, seed, agent__batch_per_task=total // int(tasks[2:]))
        odds = 0.2 * (width / 64) / (total / 800) * np.exp(generator.normal(0, 0.05))
        write_run(
            root / "cells" / config.run_id / "run.h5",
            config,
            run_metrics=(*RUN_METRICS, "dormant_critic_fixed"),
            metrics={"dormant_critic": odds / (1 + odds), "dormant_critic_fixed": odds / (2 + odds)},
            layers=2,
        )


def test_tasks_and_batch_are_told_apart_where_the_grid_allows(tmp_path: Path) -> None:
    plastic_sweep(tmp_path / "apart", (400, 1600))
    page = page_of(tmp_path / "apart")
    rows = {
        row[0]: [float(row[1]), *map(float, row[2].split(" – "))]
        for row in table_of(page, "By how much").rows
    }
    for name, truth in (("width", 2), ("tasks", 1), ("total batch", 0.5)):
        estimate, low, high = rows[name]
        assert low <= truth <= high, name
        assert estimate == pytest.approx(truth, abs=0.1)
    assert any("doubling the tasks" in line and "may be no change" in line for line in page.does_not_show)
    names = {item.name for section in page.sections for item in section.items if isinstance(item, Drawing)}
    assert {"tasks_by_width", "plasticity_curves", "dormant"} <= names
    fixed = table_of(page, "By how much the odds that a neuron of the critic is dormant on the fixed batch")
    assert [float(row[1]) for row in fixed.rows] == pytest.approx([row[0] for row in rows.values()], abs=0.05)
    (curves,) = (
        item
        for section in page.sections
        for item in section.items
        if isinstance(item, Drawing) and item.name == "plasticity_curves"
    )
    titles = {axis.get_title(loc="left").replace("\n", " ") for axis in curves.figure.axes}
    wanted = ("dormant_critic_fixed", "srank_critic_fixed", "cosine_critic_fixed")
    assert {plasticity_study.CURVES[name] for name in wanted} <= titles

    plastic_sweep(tmp_path / "together", ())
    page = page_of(tmp_path / "together")
    assert [row[0] for row in table_of(page, "By how much").rows] == ["width", "tasks (and batch)"]
    assert any("Whether more tasks or larger batches" in line for line in page.does_not_show)


def test_the_laws_are_put_to_the_test(tmp_path: Path) -> None:
    """Rivals, other likelihoods, and what a fit without the largest size predicts of it."""
    generator = np.random.default_rng(0)
    for width, seed in itertools.product((256, 512, 1024, 2048, 4096, 8192), range(3)):
        config = config_of("MT10", width, seed, evaluate__episodes=1000)
        value = 1 - (0.05 + 0.3 * (width / 256) ** -0.8) * np.exp(generator.normal(0, 0.02))
        write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=[0.1, 0.2, 0.3, value])
    page = page_of(tmp_path)
    rivals = {row[1]: row for row in table_of(page, "Laws by their error").rows}
    assert float(rivals["power"][3]) < float(rivals["constant"][3])
    others = table_of(page, "The law with a floor by three").rows
    assert {row[2] for row in others} == {
        "least squares on logits",
        "Huber on logits",
        "beta-binomial on counts",
    }
    assert all(abs(float(row[3]) - 0.4) < 0.1 for row in others)
    names = {item.name for section in page.sections for item in section.items if isinstance(item, Drawing)}
    assert {"residuals", "extrapolation", "exponent_profiles"} <= names
