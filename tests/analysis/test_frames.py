"""Gathering: what stands in the run files stands in the dataset, in its place, and bad files are named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from analysis import frames
from analysis.errors import SweepError
from analysis.frames import load, open_sweep, save
from analysis.gridding import last, to_runs
from analysis.variants import variants
from mtrl.config import Config
from mtrl.results import read_run
from mtrl.run_writer import RunFileWriter
from tests.analysis.reference_analysis import DIVERGED, config_of, write_run, write_sweep


def test_every_value_is_in_its_place(tmp_path: Path) -> None:
    mixed = [
        config_of("reach-v3", 16, 0),
        config_of("drawer-close-v3+reach-v3", 32, 0),
        config_of("push-v3+drawer-close-v3", 32, 1, train__vector_steps=1_000),
    ]
    files = write_sweep(tmp_path, mixed[:1]) + write_sweep(tmp_path, mixed[1:2], layers=2)
    files += write_sweep(tmp_path, mixed[2:], success=[0.3], run_metrics=("q_mean", "critic_loss"))
    dataset = open_sweep(tmp_path)
    assert dataset.sizes["run"] == 3
    assert list(dataset.task.values) == ["drawer-close-v3", "push-v3", "reach-v3"]
    for file in files:
        check_against_file(dataset, file)


def test_plasticity_is_in_its_place_whatever_else_runs_have(tmp_path: Path) -> None:
    """Runs of other depths and tasks, one of an earlier version, and all of it from an earlier dataset again."""
    configs = [config_of("reach-v3", 16), config_of(width=32), config_of("push-v3+reach-v3", 64)]
    files = [f for config, layers in zip(configs, (3, 2, 0), strict=True)
             for f in write_sweep(tmp_path, [config], layers=layers)]  # fmt: skip
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    dataset = to_runs(open_sweep(tmp_path))
    assert dataset.task_dormant.dims == ("run", "eval", "batch", "network", "layer", "task")
    assert dataset.layer_srank.dims == ("run", "eval", "batch", "network", "layer")
    assert dataset.gradient_conflict.dims == ("run", "eval", "batch", "network", "task")
    for file in files:
        check_against_file(dataset, file)
        check_plasticity(dataset, file)
    save(dataset, tmp_path / "dataset.nc")
    xr.testing.assert_identical(open_sweep(tmp_path), dataset)


def check_plasticity(dataset: xr.Dataset, file: Path) -> None:
    """By names, through xarray on the file itself."""
    run = dataset.isel(run=dataset.run_id.values.tolist().index(read_run(file).config.run_id))
    with xr.open_dataset(file) as known:
        if "layer" not in known.dims:
            assert all(run[name].isnull().all() for name in ("layer_srank", "task_dormant", "gradient_norm"))
            return
        where = {"layer": known.layer.values}
        tasks = {"task": known.task.values}
        for found, expected in (
            (run.layer_srank.sel(where), known.per_layer.sel(layer_metric="srank")),
            (run.layer_dormant.sel(where), known.per_layer.sel(layer_metric="dormant")),
            (run.task_dormant.sel(where | tasks), known.dormant),
            (run.gradient_cosine.sel(tasks), known.task_gradient.sel(gradient_metric="cosine")),
        ):
            assert expected.notnull().all()
            np.testing.assert_array_equal(found, expected)
        assert int(run.task_dormant.count()) == known.dormant.size


def check_against_file(dataset: xr.Dataset, file: Path) -> None:
    """The obvious way: one value at a time, through `read_run`."""
    data = read_run(file)
    run = dataset.isel(run=dataset.run_id.values.tolist().index(data.config.run_id))
    rows = len(data.env_steps)
    for number, metric in enumerate(data.metrics):
        for task in dataset.task.values:
            found = run[metric].sel(task=task).values
            known = np.full(len(found), np.nan, np.float32)
            if task in data.tasks:
                known[:rows] = data.per_task[:, number, data.tasks.index(task)]
            np.testing.assert_array_equal(found, known, err_msg=f"{metric} of {task}")
    for number, metric in enumerate(data.run_metrics):
        np.testing.assert_array_equal(run[metric].values[:rows], data.per_run[:, number])
        assert np.isnan(run[metric].values[rows:]).all()
    assert run.env_steps.values[:rows].tolist() == data.env_steps.tolist()
    assert (run.env_steps.values[rows:] == -1).all()
    stored, config = data.config, Config.model_validate_json(str(run.config.values))
    assert config.agent.products == data.attributes["products"]
    assert config.model_copy(update={"agent": stored.agent}) == stored
    assert int(run.parameters_total) == data.attributes["parameters_total"]


def test_a_full_grid_has_its_own_dims_and_can_be_flattened(tmp_path: Path) -> None:
    widths = [(a, c) for a in (16, 32) for c in (8, 64)]
    configs = [config_of(width=c, seed=s, network__actor__width=a) for a, c in widths for s in (0, 3)]
    write_sweep(tmp_path, configs)
    grid = open_sweep(tmp_path)
    assert grid.success.dims == ("benchmark", "system", "actor_width", "critic_width", "seed", "eval", "task")
    assert grid.seed.values.tolist() == [0, 3]
    assert grid.task.values.tolist() == ["drawer-close-v3", "reach-v3"]
    assert float(grid.critic_loss.sel(actor_width=32, critic_width=64, seed=3).values[0, 0, 1]) == 64.01
    flat = to_runs(grid)
    assert flat.success.dims == ("run", "eval", "task")
    assert sorted(flat.run_id.values.tolist()) == sorted(config.run_id for config in configs)
    here = flat.isel(run=flat.run_id.values.tolist().index(configs[2].run_id))
    assert (int(here.actor_width), int(here.critic_width), int(here.seed)) == (16, 64, 0)


def test_only_actor_equal_to_critic_is_no_grid(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of(width=width) for width in (16, 32)])
    assert "run" in open_sweep(tmp_path).dims


def test_fields_that_differ_become_coordinates(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of(agent__batch_per_task=batch) for batch in (32, 64)])
    dataset = open_sweep(tmp_path)
    assert sorted(dataset["agent.batch_per_task"].values.tolist()) == [32, 64]
    assert "agent.discount" not in dataset.coords


def test_bad_files_are_skipped_and_named(tmp_path: Path) -> None:
    good, torn, old = write_sweep(tmp_path, [config_of(width=width) for width in (8, 16, 32)])
    torn.write_bytes(torn.read_bytes()[:3000])
    with h5py.File(old, "r+") as file:
        file.attrs["schema_version"] = 99
    foreign = tmp_path / "cells" / "foreign" / "run.h5"
    foreign.parent.mkdir()
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    (tmp_path / "cells" / "text").mkdir()
    (tmp_path / "cells" / "text" / "run.h5").write_text("no HDF5 at all")
    dataset = open_sweep(tmp_path)
    assert dataset.run_id.values.ravel().tolist() == [read_run(good).config.run_id]
    skipped = dataset.attrs["skipped"]
    assert len(skipped) == 4
    for file, reason in ((torn, ""), (old, "has schema 99"), (foreign, "not a run file"), ("text", "")):
        assert any(str(file) in line and reason in line for line in skipped), file


def test_uncommitted_rows_are_not_there(tmp_path: Path) -> None:
    (file,) = write_sweep(tmp_path, [config_of()])
    with h5py.File(file, "r+") as opened:
        opened["committed"][()] = 2
    dataset = to_runs(open_sweep(tmp_path))
    assert np.isnan(dataset.success.values[0, 2:]).all()
    assert np.isnan(dataset.critic_loss.values[0, 2:]).all()
    assert dataset.env_steps.values[0].tolist() == [1000, 2000, -1, -1]
    assert dataset.outcome.values.tolist() == ["unfinished"]


def test_outcomes_come_from_the_markers(tmp_path: Path) -> None:
    files = write_sweep(tmp_path, [config_of(seed=seed) for seed in range(3)])
    files[0].with_name("DONE.json").write_text('{"outcome": "diverged"}')
    files[1].with_name("FAILED.json").write_text("{}")
    dataset = to_runs(open_sweep(tmp_path))
    outcome = dict(zip(dataset.run_id.values.tolist(), dataset.outcome.values.tolist(), strict=True))
    assert [outcome[read_run(file).config.run_id] for file in files] == ["diverged", "failed", "done"]


def test_divergence_is_gathered_with_its_step_and_cause(tmp_path: Path) -> None:
    """A run that trains on after it is over only at its end."""
    configs = [config_of(seed=seed) for seed in range(4)]
    files = write_sweep(tmp_path, configs[:2]) + write_sweep(tmp_path, configs[2:], success=[0.1])
    for file, trained_on in zip(files[1:], (True, True, False), strict=True):
        RunFileWriter.open(file).mark_diverged(DIVERGED, trained_on=trained_on)
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    dataset = open_sweep(tmp_path)
    runs = to_runs(dataset).sortby("seed")
    assert runs.outcome.values.tolist() == ["done", "diverged", "unfinished", "diverged"]
    assert runs.diverged_at.values.tolist() == [-1, 1_200, 1_200, 1_200]
    assert runs.diverged_by.values.tolist() == ["", "q_mean", "q_mean", "q_mean"]
    save(dataset, tmp_path / "dataset.nc")
    xr.testing.assert_identical(open_sweep(tmp_path), dataset)


def test_saves_and_loads(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of(width=width) for width in (8, 16)])
    (tmp_path / "cells" / "bad").mkdir()
    (tmp_path / "cells" / "bad" / "run.h5").write_text("")
    dataset = open_sweep(tmp_path)
    save(dataset, tmp_path / "dataset.nc")
    again = load(tmp_path / "dataset.nc")
    xr.testing.assert_equal(dataset, again)
    assert again.attrs == dataset.attrs
    assert len(again.attrs["skipped"]) == 1
    with xr.open_dataset(tmp_path / "dataset.nc") as plain:
        assert "success" in plain


def test_an_open_writer_does_not_stop_the_gathering(tmp_path: Path) -> None:
    (file,) = write_sweep(tmp_path, [config_of()])
    code = f"import h5py; file = h5py.File({str(file)!r}, 'r+'); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        assert open_sweep(tmp_path).attrs["skipped"] == []
        writer.communicate("\n")


@pytest.mark.parametrize(("make", "message"), [(False, "no folder"), (True, "no run files under")])
def test_nothing_to_gather(tmp_path: Path, make: bool, message: str) -> None:
    if make:
        (tmp_path / "none" / "cells").mkdir(parents=True)
    with pytest.raises(SweepError, match=message):
        open_sweep(tmp_path / "none")


def test_only_bad_files(tmp_path: Path) -> None:
    write_run(tmp_path / "a.h5", config_of()).write_bytes(b"")
    with pytest.raises(SweepError, match=r"a\.h5"):
        open_sweep(tmp_path)


@given(st.permutations(range(9)))
def test_reordering_in_place(order: list[int]) -> None:
    array = np.arange(18).reshape(9, 2)
    known = array[order]
    frames._reorder(array, order)
    np.testing.assert_array_equal(array, known)


def read_again(monkeypatch: pytest.MonkeyPatch, root: Path) -> tuple[xr.Dataset, list[str]]:
    """The dataset, and the run ids of the files that were opened for it."""
    opened: list[str] = []
    plain = frames.open_file

    def noting(path: Path) -> Any:
        opened.append(path.parent.name)
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(frames, "open_file", noting)
        dataset = open_sweep(root)
    return dataset, opened


@pytest.mark.parametrize("grid", [False, True])
def test_gathering_again_reads_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: bool
) -> None:
    sets = ["MT10", "MT10"] if grid else ["reach-v3", "drawer-close-v3+reach-v3"]
    configs = [config_of(tasks, 16, seed) for seed, tasks in enumerate(sets)]
    files = write_sweep(tmp_path, configs)
    for file in files:
        os.utime(file, ns=(10**18, 10**18))
    first = open_sweep(tmp_path)
    assert ("run" in first.dims) != grid
    save(first, tmp_path / "dataset.nc")
    again, opened = read_again(monkeypatch, tmp_path)
    assert opened == []
    xr.testing.assert_identical(again, first)

    changed = write_run(files[0], configs[0], success=[0.5])
    new = write_sweep(tmp_path, [config_of("push-v3", 16, 5)])
    again, opened = read_again(monkeypatch, tmp_path)
    assert sorted(opened) == sorted(file.parent.name for file in (changed, *new))
    (tmp_path / "dataset.nc").unlink()
    xr.testing.assert_identical(again, open_sweep(tmp_path))
    files[1].unlink()
    assert configs[1].run_id not in open_sweep(tmp_path).run_id


def test_a_young_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes within a tick of the clock leave the same mtime, and a run file never changes its size."""
    write_sweep(tmp_path, [config_of()])
    save(open_sweep(tmp_path), tmp_path / "dataset.nc")
    assert len(read_again(monkeypatch, tmp_path)[1]) == 1


def test_a_damaged_earlier_dataset_is_ignored(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of()])
    (tmp_path / "dataset.nc").write_text("no")
    assert open_sweep(tmp_path).sizes["seed"] == 1


def test_several_sweeps(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", [config_of(seed=0)])
    write_sweep(tmp_path / "b", [config_of(seed=1), config_of(seed=2)])
    dataset = to_runs(open_sweep(tmp_path / "a", tmp_path / "b"))
    assert dataset.sizes["run"] == 3
    assert sorted(dataset.sweep.values.tolist()) == ["a", "b", "b"]


def test_a_run_of_two_sweeps_counts_once(tmp_path: Path) -> None:
    """The file with more evaluations is the one that counts, wherever it stands."""
    write_sweep(tmp_path / "a", [config_of(seed=0), config_of(seed=1)], success=[0.1])
    (longer,) = write_sweep(tmp_path / "b", [config_of(seed=0)])
    dataset = to_runs(open_sweep(tmp_path / "a", tmp_path / "b"))
    assert dataset.committed.sortby("seed").values.tolist() == [4, 1]
    (line,) = dataset.attrs["repeated"]
    assert line.endswith(f"is the same run as {longer}, and read once")
    assert dataset.attrs["skipped"] == []


@pytest.fixture(params=["file", "folder"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A dataset whose run files are gone: two runs, one of them failed, of a grid with a variable of its own."""
    root = tmp_path / "early"
    configs = [config_of(width=16), config_of(width=32, agent__actor_lr=0.1)]
    done, failed = write_sweep(root, configs, success=[0.1, 0.2])
    (done.parent / "DONE.json").write_text('{"outcome": "done"}')
    (failed.parent / "FAILED.json").write_text("{}")
    lines = [
        {
            "run_id": c.run_id,
            "coordinates": {"network.actor.width": 1, "size": n},
            "config": c.model_dump(mode="json"),
        }
        for n, c in enumerate(configs)
    ]
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = tmp_path / "studies" / "early" / "dataset.nc"
    file.parent.mkdir(parents=True)
    save(open_sweep(root), file, compress=True)
    return file if request.param == "file" else file.parent


def test_a_kept_dataset_is_taken_with_sweeps(tmp_path: Path, kept: Path) -> None:
    """As their run files would be: values, outcomes, the grid's variable; only where the rows come from differs."""
    write_sweep(tmp_path / "split", [config_of(width=64, seed=3), config_of(tasks="push-v3", seed=4)])
    ours = open_sweep(kept, tmp_path / "split")
    xr.testing.assert_identical(ours, open_sweep(tmp_path / "early", tmp_path / "split"))
    assert sorted(to_runs(ours).outcome.values.tolist()) == ["done", "done", "done", "failed"]


def test_what_a_grid_derived_is_known_of_a_kept_dataset(kept: Path, tmp_path: Path) -> None:
    alone = open_sweep(kept)
    assert json.loads(alone.attrs["derived"]) == ["agent.actor_lr"]
    xr.testing.assert_identical(alone, open_sweep(tmp_path / "early"))


def test_a_run_of_a_kept_dataset_and_of_a_sweep_counts_once(tmp_path: Path, kept: Path) -> None:
    write_sweep(tmp_path / "again", [config_of(width=16)])
    dataset = to_runs(open_sweep(kept, tmp_path / "again"))
    assert dataset.committed.sortby("actor_width").values.tolist() == [4, 2]
    assert len(dataset.attrs["repeated"]) == 1


def test_a_dataset_of_another_format_is_named(kept: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "studies" / "early" / "dataset.nc", "r+") as file:
        file.attrs["format"] = 1
    with pytest.raises(SweepError, match=r"dataset\.nc was kept by another version of mtrl"):
        open_sweep(kept)


@pytest.mark.parametrize(("content", "reason"), [("no", "is not a dataset"), (None, "no file")])
def test_a_dataset_that_cannot_be_taken_is_named(tmp_path: Path, content: str | None, reason: str) -> None:
    write_sweep(tmp_path / "a", [config_of()])
    if content is not None:
        (tmp_path / "kept.nc").write_text(content)
    with pytest.raises(SweepError, match=rf"{reason}.*kept\.nc|kept\.nc {reason}"):
        open_sweep(tmp_path / "kept.nc", tmp_path / "a")


def test_several_sweeps_are_gathered_again_from_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for seed, root in enumerate(roots):
        for file in write_sweep(root, [config_of(seed=seed)]):
            os.utime(file, ns=(10**18, 10**18))
        save(open_sweep(root), root / "dataset.nc")
    known = open_sweep(*roots)
    monkeypatch.setattr(frames, "open_file", None)
    xr.testing.assert_identical(open_sweep(*roots), known)
    for root in roots:
        (root / "dataset.nc").unlink()
    monkeypatch.undo()
    xr.testing.assert_identical(open_sweep(*roots), known)


def test_a_run_of_another_version_is_gathered(tmp_path: Path) -> None:
    """Its configuration lacks a field of today and has one that nobody here knows."""
    files = write_sweep(tmp_path, [config_of(seed=0), config_of(seed=1)])
    with h5py.File(files[0], "r+") as opened:
        config = json.loads(opened.attrs["config"])
        del config["agent"]["polyak"]
        config["agent"]["sharpness"] = 2
        opened.attrs["config"] = json.dumps(config)
    dataset = to_runs(open_sweep(tmp_path))
    assert dataset.attrs["skipped"] == []
    assert dataset["agent.sharpness"].sortby("seed").values.tolist() == ["2", "None"]
    assert "agent.polyak" not in dataset.coords
    assert [variant.name for variant in variants(dataset)] == [
        "width 16, agent.sharpness 2",
        "width 16, agent.sharpness None",
    ]


@pytest.mark.parametrize("at_once", [0.0, np.inf])
def test_progress_counts_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: float) -> None:
    """With threads that fetch ahead and without."""
    monkeypatch.setattr(frames, "AT_ONCE", at_once)
    write_sweep(tmp_path, [config_of(seed=seed) for seed in range(40)], success=[0.5])
    told: list[tuple[int, int]] = []
    dataset = open_sweep(tmp_path, progress=lambda done, all_: told.append((done, all_)))
    assert dataset.seed.values.tolist() == list(range(40))
    assert told == [(number, 40) for number in range(1, 41)]


def test_a_file_without_an_index_is_read(tmp_path: Path) -> None:
    (file,) = write_sweep(tmp_path, [config_of()])
    with h5py.File(file, "r+") as opened:
        del opened.attrs["index"]
    check_against_file(to_runs(open_sweep(tmp_path)), file)


def test_the_last_value_of_each_run(tmp_path: Path) -> None:
    """Runs of different lengths: each has its own last evaluation; a dataset over a grid has it too."""
    write_sweep(tmp_path, [config_of(seed=0)], success=(0.1, 0.4, 0.7, 0.9))
    write_sweep(tmp_path, [config_of(seed=1, train__vector_steps=1_000)], success=(0.1, 0.3))
    sweep = open_sweep(tmp_path)
    flat = to_runs(sweep)
    np.testing.assert_allclose(last(flat, "success").isel(task=0), [0.9, 0.3], rtol=1e-6)
    assert last(flat, "env_steps").values.tolist() == [4_000, 2_000]
    assert last(sweep, "success").dims == tuple(dim for dim in sweep.success.dims if dim != "eval")
