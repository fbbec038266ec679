"""Whole runs, short and real: the run file, repetition, resumption, divergence."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from mtrl.agent import UPDATE_METRICS
from mtrl.checkpoint import CheckpointError, load_tensors
from mtrl.config import Config, ConfigError
from mtrl.devices import resolve_device
from mtrl.overrides import build_config
from mtrl.results import RunFileError, read_run
from mtrl.run import resolve_env_workers
from mtrl.train import Progress, train
from tests.mtrl.short_runs import SHORT, contents, short_config, stop_after


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished")
    assert train(short_config(), directory) == "done"
    return directory


def test_run_file_has_every_evaluation(finished: Path) -> None:
    run = read_run(finished / "run.h5")
    assert run.env_steps.tolist() == [80, 160, 180]
    assert np.isfinite(run.per_run[1:]).all()
    metrics = dict(zip(run.metrics, np.moveaxis(run.per_task, 1, 0), strict=True))
    assert np.isfinite(metrics["return"]).all()
    assert (metrics["length"] == 20).all()
    assert np.isfinite(run.random_policy[[run.metrics.index("success"), run.metrics.index("return")]]).all()
    assert run.attributes["parameters_total"] == (
        run.attributes["parameters_actor"] + run.attributes["parameters_critic"]
    )
    assert run.config.run_id == run.attributes["run_id"] == short_config().run_id


def test_run_file_opens_with_xarray(finished: Path) -> None:
    with xr.open_dataset(finished / "run.h5") as dataset:
        assert dataset.per_task.sel(metric="success", task="reach-v3").dims == ("eval",)
        assert dataset.per_run.sel(run_metric="critic_loss").notnull().any()
        fixed = dataset.sel(batch="fixed", network="critic", layer=3)
        assert fixed.dormant.sel(task="reach-v3").dims == ("eval",)
        assert fixed.per_layer.sel(layer_metric="srank").notnull().all()
        assert fixed.task_gradient.sel(gradient_metric="norm").notnull().all()


def test_plasticity_is_measured_from_the_first_update_on_and_changes_nothing_else(
    tmp_path: Path, finished: Path
) -> None:
    """Nor does the first evaluation, here before any update, measure a network that has learned nothing."""
    short_batch = short_config(plasticity__batch_per_task=3, plasticity__dormant_threshold=0.5)
    assert train(short_batch, tmp_path) == "done"
    ours, theirs = read_run(tmp_path / "run.h5"), read_run(finished / "run.h5")
    np.testing.assert_array_equal(ours.per_task, theirs.per_task)
    known = [name in UPDATE_METRICS for name in ours.run_metrics]
    np.testing.assert_array_equal(ours.per_run[:, known], theirs.per_run[:, known])
    for name, array in ours.plasticity.items():
        assert np.isfinite(array).all()
        assert (array != theirs.plasticity[name]).any(), name
    late = short_config(train__random_steps=60)
    assert train(late, tmp_path / "late") == "done"
    arrays = read_run(tmp_path / "late/run.h5").plasticity
    assert all(np.isnan(array[0]).all() and np.isfinite(array[1:]).all() for array in arrays.values())


@pytest.mark.parametrize("mode", ["uniform", "prioritized", "prioritized_independent"])
def test_same_config_gives_the_same_file_for_any_threads_and_workers(tmp_path: Path, mode: str) -> None:
    train(short_config(replay__mode=mode), tmp_path / "one")
    train(short_config(replay__mode=mode, run__threads=2, run__env_workers=2), tmp_path / "two")
    assert contents(tmp_path / "one/run.h5") == contents(tmp_path / "two/run.h5")
    train(short_config(replay__mode=mode, train__seed=1), tmp_path / "other")
    assert contents(tmp_path / "one/run.h5") != contents(tmp_path / "other/run.h5")


@pytest.mark.parametrize("stops", [(5,), (33, 41), (40, 77, 89)])
def test_stopped_and_resumed_run_leaves_the_same_file(
    tmp_path: Path, finished: Path, stops: tuple[int, ...]
) -> None:
    seen: list[Progress] = []
    for stop_at in stops:
        outcome = train(short_config(), tmp_path, stop=partial(stop_after, seen, stop_at), report=seen.append)
        assert outcome == "stopped"
        assert seen[-1].vector_step == stop_at
    assert train(short_config(), tmp_path) == "done"
    assert contents(tmp_path / "run.h5") == contents(finished / "run.h5")
    ours, theirs = (load_tensors(place / "agent.pt") for place in (tmp_path, finished))
    assert str(ours) == str(theirs)


def test_killed_before_the_first_checkpoint_starts_anew(tmp_path: Path, finished: Path) -> None:
    def kill(progress: Progress) -> None:
        if progress.vector_step == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(short_config(), tmp_path, report=kill)
    assert train(short_config(), tmp_path) == "done"
    assert contents(tmp_path / "run.h5") == contents(finished / "run.h5")


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path, finished: Path) -> None:
    shutil.copy(finished / "run.h5", tmp_path)
    with pytest.raises(RunFileError, match=r"train\.seed is 1, was 0\. Use another folder"):
        train(short_config(train__seed=1), tmp_path)
    assert (tmp_path / "run.h5").read_bytes() == (finished / "run.h5").read_bytes()

    seen: list[Progress] = []
    train(short_config(), tmp_path, stop=partial(stop_after, seen, 5), report=seen.append)
    (tmp_path / "run.h5").unlink()
    with pytest.raises(CheckpointError, match=r"agent\.discount is 0\.9, was 0\.99"):
        train(short_config(agent__discount=0.9), tmp_path)


@pytest.mark.parametrize("more", [{}, {"replay__mode": "prioritized", "train__updates_per_step": 2}])
def test_divergence_is_noticed_and_recorded(tmp_path: Path, more: dict[str, Any]) -> None:
    config = short_config(agent__critic_lr=1e30, agent__critic_clip=1e30, **more)
    assert train(config, tmp_path) == "diverged"
    with h5py.File(tmp_path / "run.h5") as file:
        assert 30 < file.attrs["diverged_at_vector_step"] <= 90
    assert read_run(tmp_path / "run.h5").per_run.shape[0] < 3


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("brc", {"agent.batch": 16}),
        ("simba", {"agent.batch_per_task": 8}),
    ],
)
def test_the_presets_of_later_work_train(tmp_path: Path, preset: str, sizes: dict[str, int]) -> None:
    short = {key: value for key, value in SHORT.items() if key != "agent.batch_per_task"}
    assert train(build_config(preset, short | sizes), tmp_path) == "done"
    assert np.isfinite(read_run(tmp_path / "run.h5").per_run[1:]).all()


def test_held_out_goals_change_evaluations_alone(tmp_path: Path, finished: Path) -> None:
    assert train(short_config(evaluate__goals="held_out"), tmp_path) == "done"
    ours, theirs = read_run(finished / "run.h5"), read_run(tmp_path / "run.h5")
    np.testing.assert_array_equal(ours.per_run, theirs.per_run)
    place = ours.metrics.index("return")
    assert (ours.per_task[:, place] != theirs.per_task[:, place]).any(axis=0).all()


def test_both_backends_train(tmp_path: Path, finished: Path) -> None:
    assert train(short_config(agent__backend="torch"), tmp_path) == "done"
    ours, theirs = read_run(finished / "run.h5"), read_run(tmp_path / "run.h5")
    place = ours.run_metrics.index("critic_loss")
    np.testing.assert_allclose(ours.per_run[:, place], theirs.per_run[:, place], rtol=1e-3)


def test_env_workers_are_for_gpus_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtrl.run.usable_cpus", lambda: 8)
    free, fixed = short_config(), short_config(run__env_workers=3)
    for config, device, workers in (
        (free, "cpu", 0),
        (free, "cuda", 7),
        (short_config(train__overlap=True), "cpu", 7),
        (fixed, "cpu", 3),
        (fixed, "cuda", 3),
    ):
        assert resolve_env_workers(config, torch.device(device)).run.env_workers == workers


def test_a_run_survives_an_env_worker(tmp_path: Path, finished: Path) -> None:
    def kill(progress: Progress) -> None:
        if progress.vector_step == 50:
            worker = next(child for child in children() if "worker_process" in child.read_text())
            os.kill(int(worker.parent.name), signal.SIGKILL)

    config = short_config(run__env_workers=1, run__env_restarts=1)
    with pytest.warns(RuntimeWarning, match="takes over"):
        assert train(config, tmp_path, report=kill) == "done"
    assert contents(tmp_path / "run.h5") == contents(finished / "run.h5")


def children() -> list[Path]:
    """/proc/<pid>/cmdline of this process's children."""
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/cmdline") for pid in pids]


def test_missing_device_is_named() -> None:
    with pytest.raises(ConfigError, match="'cua' is no device"):
        resolve_device("cua")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"use run\.device=cpu"):
            resolve_device("cuda")


def test_returns_of_several_steps_and_their_discount_reach_the_update(tmp_path: Path, finished: Path) -> None:
    """A run of n-step returns is another run; with discount 0 only the first reward counts, so it is the same again."""
    runs = {"one": {}, "three": {"replay__n_step": 3}}
    for name, changes in runs.items():
        train(short_config(**changes, agent__discount=0.0), tmp_path / f"blind {name}")
    assert columns(tmp_path / "blind one/run.h5") == columns(tmp_path / "blind three/run.h5")
    assert train(short_config(replay__n_step=3), tmp_path / "three") == "done"
    assert columns(tmp_path / "three/run.h5") != columns(finished / "run.h5")


def columns(path: Path) -> tuple[bytes, bytes]:
    with h5py.File(path) as file:
        return file["per_task"][()].tobytes(), file["per_run"][()].tobytes()


def test_annealed_exponents_rows_in_files_and_a_batch_ahead_resume(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "replay__mode": "prioritized",
        "replay__alpha_end": 0.3,
        "replay__beta_end": 1.0,
    }
    # a prefetched batch, rows in files that are shared
    changes |= {
        "replay__lag": 1,
        "replay__capacity": 40,
    }

    def config(prefetch: bool) -> Config:
        return short_config(**changes, run__replay_folder=str(tmp_path), run__prefetch=prefetch)

    train(config(True), tmp_path / "straight")
    seen: list[Progress] = []
    for stop_at in (41, 66):
        stop = partial(stop_after, seen, stop_at)
        train(config(stop_at == 66), tmp_path / "resumed", stop=stop, report=seen.append)
    train(config(False), tmp_path / "resumed")
    assert contents(tmp_path / "straight/run.h5") == contents(tmp_path / "resumed/run.h5")
    train(short_config(replay__mode="prioritized"), tmp_path / "fixed")
    assert columns(tmp_path / "straight/run.h5") != columns(tmp_path / "fixed/run.h5")
