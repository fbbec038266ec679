"""From runs to variants: what is one configuration, and what a run scores."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from analysis.frames import open_sweep
from analysis.gridding import to_runs
from analysis.history_table import open_histories
from analysis.scores import scores
from analysis.sweep_study import study
from analysis.variants import following_settings, groups, variants
from mtrl.config import Config
from tests.analysis.reference_analysis import config_of, write_run, write_sweep

NAN = np.nan


def history(
    tmp_path: Path, *rows: str, name: str = "theirs", header: str = "run,step,success,task"
) -> xr.Dataset:
    table = tmp_path / f"{name}.csv"
    table.write_text("\n".join([f"{header},width,parameters", *rows]) + "\n")
    return open_histories([table])


def test_scores_by_hand() -> None:
    curves = np.array([[[0.1], [0.3], [0.5], [0.9]], [[0.2], [0.4], [NAN], [NAN]]])
    steps = np.array([10, 20, 30, 40])
    assert scores("last", curves, steps).ravel().tolist() == pytest.approx([0.9, 0.4])
    assert scores("last3", curves, steps).ravel().tolist() == pytest.approx([1.7 / 3, 0.4])
    heights = [(0.2 + 0.4 + 0.7) / 3, (0.3 + 0.4 + 0.4) / 3]  # trapezoids; an early end keeps its height
    assert scores("height", curves, steps).ravel().tolist() == pytest.approx(heights)


def test_the_score_is_said_first_and_used_everywhere(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of(width=w, seed=s) for w in (16, 32) for s in range(3)])
    for kind, words, value in (
        ("last", "success at the last evaluation", 0.9005),
        ("last3", "mean success over the last three", (0.4 + 0.7 + 0.9) / 3 + 0.0005),
        ("height", "mean height of the learning curve", (0.25 + 0.55 + 0.8) / 3 + 0.0005),
    ):
        page = study(open_sweep(tmp_path), "x", score=kind)  # type: ignore[arg-type]
        assert page.lead.startswith(f"Score: {words}")
        found = variants(open_sweep(tmp_path), kind)  # type: ignore[arg-type]
        assert found[0].scores.mean() == pytest.approx(value, rel=1e-5)


def derived_sweep(root: Path, *, manifest: bool) -> None:
    """A learning rate that follows from the width, and batches that follow from a variable of the grid."""
    lines = []
    for width, seed, total in itertools.product((16, 32, 64, 128), range(2), (20, 40)):
        options = {"agent__critic_lr": 3e-4 * (16 / width) ** 0.5, "agent__batch_per_task": total // 2}
        config = config_of(width=width, seed=seed, **options)
        write_run(
            root / "cells" / config.run_id / "run.h5", config, success=(0.1, 0.2, 0.3, 0.4 + 0.01 * seed)
        )
        coordinates = {"network.actor.width": width, "network.critic.width": width, "total_batch": total}
        lines.append(
            {"run_id": config.run_id, "label": "", "coordinates": coordinates | {"train.seed": seed}}
            | {"config": config.model_dump(mode="json")}
        )
    if manifest:
        (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("manifest", [False, True])
def test_a_derived_setting_does_not_split_the_widths(tmp_path: Path, manifest: bool) -> None:
    """The learning rate follows from the width; the batch, which varies at each width, makes groups."""
    derived_sweep(tmp_path, manifest=manifest)
    found = groups(variants(open_sweep(tmp_path)))
    word, values = ("total_batch", (20, 40)) if manifest else ("batch_per_task", (10, 20))
    assert {name: len(group) for name, group in found.items()} == {
        f"drawer-close + reach, {word} {value}": 4 for value in values
    }
    page = study(open_sweep(tmp_path), "x")
    told = [line for line in page.does_not_show if "these settings change with the size" in line]
    assert len(told) == (0 if manifest else 1)


def test_a_setting_is_named_without_the_rounding_of_a_float(tmp_path: Path) -> None:
    for rate in (1e-4 * 3, 4e-4):
        config = config_of("MT10", 16, agent__critic_lr=rate)
        write_run(tmp_path / "cells" / config.run_id / "run.h5", config)
    assert sorted(variant.group for variant in variants(open_sweep(tmp_path))) == [
        "MT10, critic_lr 0.0003", "MT10, critic_lr 0.0004",
    ]  # fmt: skip


def test_two_task_sets_of_one_name_are_told_apart(tmp_path: Path) -> None:
    rows = [f"{task}{seed},{step},0.5,{task},16,100"
            for task in ("push", "reach") for seed in (0, 1) for step in (1, 2)]  # fmt: skip
    rows = [row.replace(",16,100", ",16,100,MT10") for row in rows]
    table = tmp_path / "theirs.csv"
    table.write_text("\n".join(["run,step,success,task,width,parameters,benchmark", *rows]) + "\n")
    dataset = open_histories([table])
    assert {v.benchmark for v in variants(dataset)} == {"MT10 (push)", "MT10 (reach)"}
    study(dataset, "x")


def test_a_last_step_that_lacks_a_task(tmp_path: Path) -> None:
    """The task counts with its last known value, and the page says so."""
    rows = [f"r{seed},{step},0.{step}{seed},{task},16,100"
            for seed in (0, 1) for step in (1, 2, 3) for task in ("a", "b") if (step, task) != (3, "b")]  # fmt: skip
    dataset = history(tmp_path, *rows)
    (variant,) = variants(dataset)
    np.testing.assert_allclose(variant.scores, [[0.30, 0.20], [0.31, 0.21]], rtol=1e-6)
    page = study(dataset, "x")
    assert any("The last evaluation of 2 runs lacks a task" in line for line in page.does_not_show)


def test_nan_success_is_passed_over(tmp_path: Path) -> None:
    """A run without any success of a task has no score; a NaN at the end counts with what was before it."""
    good, bad = config_of(seed=0), config_of(seed=1)
    write_run(tmp_path / "cells" / good.run_id / "run.h5", good, success=(0.1, 0.2, 0.4, NAN))
    write_run(tmp_path / "cells" / bad.run_id / "run.h5", bad, success=(NAN, NAN, NAN, NAN))
    (variant,) = variants(open_sweep(tmp_path))
    assert variant.seeds == (0,)
    assert variant.scores.mean() == pytest.approx(0.4005)
    page = study(open_sweep(tmp_path), "x")
    assert any("1 run ended without any success of some task" in line for line in page.does_not_show)


def test_a_repeated_run_is_read_once_and_not_called_unreadable(tmp_path: Path) -> None:
    config = config_of()
    write_run(tmp_path / "cells" / config.run_id / "run.h5", config)
    write_run(tmp_path / "cells" / "copy" / "run.h5", config)
    page = study(open_sweep(tmp_path), "x")
    lacks = "\n".join(page.does_not_show)
    assert "Runs that stand in several files (1 file more): each is read once" in lacks
    assert "could not be read" not in lacks


def test_one_run_makes_a_page_without_claims(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of("MT10")])
    page = study(open_sweep(tmp_path), "x")
    assert not any("failure" in line or " against " in line for line in page.shows)


def test_settings_that_follow_are_named_once(tmp_path: Path) -> None:
    derived_sweep(tmp_path, manifest=False)
    assert following_settings(to_runs(open_sweep(tmp_path))) == ["agent.critic_lr"]
    assert "critic_lr" in type(Config().agent).model_fields
