"""The run file: what is committed can be read, by us and by plain xarray; what is not a run file is named."""

import json
import os
import random
import shutil
import signal
import struct
import time
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from mtrl.config import Config
from mtrl.longer_run import extend_run
from mtrl.results import (
    CLOCKS,
    PLASTICITY,
    SCHEMAS,
    TASK_METRICS,
    RunFileError,
    read_run,
)
from mtrl.run_folder import as_begun, refuse_another_run
from mtrl.run_writer import RunFileWriter
from tests.analysis.reference_analysis import DIVERGED, RUN_METRICS, config_of, write_run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run.h5", config_of(), success=[0.1, 0.4, 0.7])


def test_what_was_written_is_read(path: Path) -> None:
    data = read_run(path)
    assert data.config == config_of()
    assert data.tasks == ("drawer-close-v3", "reach-v3")
    assert data.run_metrics == RUN_METRICS
    assert data.evaluations_planned == 4
    assert data.env_steps.tolist() == [1000, 2000, 3000]
    success = data.per_task[:, TASK_METRICS.index("success")]
    np.testing.assert_allclose(success, [[0.1, 0.101], [0.4, 0.401], [0.7, 0.701]], rtol=1e-6)  # float32
    np.testing.assert_array_equal(data.per_run[1], np.full(4, 16.01))
    np.testing.assert_allclose(data.random_policy[TASK_METRICS.index("success")], 0.2, rtol=1e-6)
    assert data.attributes["parameters_total"] == 9 * 16**2
    assert data.attributes["run_id"] == data.config.run_id


def test_the_file_names_the_version_of_every_package(path: Path) -> None:
    with h5py.File(path) as file:
        packages = json.loads(file.attrs["packages"])
    assert packages["mujoco"] == version("mujoco")
    assert list(packages) == sorted(packages, key=str.lower)


def test_what_was_left_out_is_nan(path: Path) -> None:
    data = read_run(path)
    assert np.isnan(data.per_task[:, TASK_METRICS.index("temperature")]).all()
    assert np.isnan(data.timing[:, 1:]).all()


def test_plain_xarray_opens_it(path: Path) -> None:
    with xr.open_dataset(path) as dataset:
        curve = dataset.per_task.sel(metric="success", task="reach-v3")
        np.testing.assert_allclose(curve.values[:3], [0.101, 0.401, 0.701], rtol=1e-6)  # float32
        assert dataset.attrs["run_id"] == config_of().run_id
        assert int(dataset.committed) == 3


def test_a_reopened_file_goes_on(path: Path) -> None:
    writer = RunFileWriter.open(path)
    assert writer.committed == 3
    writer.write_evaluation(4000, {"success": np.ones(2)}, {}, {})
    writer.close()
    assert read_run(path).env_steps.tolist() == [1000, 2000, 3000, 4000]


def test_rewinding_forgets_the_later_rows(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.h5", config_of(), success=[0.1, 0.4, 0.7], layers=2)
    writer = RunFileWriter.open(path)
    writer.rewind(1)
    writer.close()
    assert len(read_run(path).env_steps) == 1
    with h5py.File(path) as file:
        assert np.isnan(file["per_task"][1:]).all()
        assert np.isnan(file["per_run"][1:]).all()
        assert all(np.isnan(file[name][1:]).all() and np.isfinite(file[name][0]).all() for name in PLASTICITY)


def test_rewinding_to_the_future_is_refused(path: Path) -> None:
    writer = RunFileWriter.open(path)
    with pytest.raises(RunFileError, match="has 3 evaluations, the checkpoint 4"):
        writer.rewind(4)
    writer.close()


def test_creation_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_run(tmp_path / "run.h5", config_of())
    assert not (tmp_path / "run.h5").exists()


def spoil(path: Path, how: str) -> None:
    match how:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not HDF5")
        case "cut":
            path.write_bytes(path.read_bytes()[:2000])
        case "foreign":
            with h5py.File(path, "w") as file:
                file["x"] = 1
        case "newer":
            with h5py.File(path, "r+") as file:
                file.attrs["schema_version"] = 99
        case "hole":
            with h5py.File(path, "r+") as file:
                del file["per_run"]
        case "config":
            with h5py.File(path, "r+") as file:
                file.attrs["config"] = "{"


@pytest.mark.parametrize("how", ["empty", "text", "cut", "foreign", "newer", "hole", "config"])
def test_a_bad_file_is_named(path: Path, how: str) -> None:
    spoil(path, how)
    with pytest.raises(RunFileError, match=str(path)):
        read_run(path)


@pytest.mark.parametrize("how", ["empty", "text", "cut", "foreign"])
def test_a_bad_file_is_not_continued(path: Path, how: str) -> None:
    spoil(path, how)
    with pytest.raises(RunFileError, match=r"move it away"):
        RunFileWriter.open(path)


def change_config(path: Path, change: dict[str, object], drop: str = "") -> None:
    """The file as another version of mtrl would have written it."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["config"])
        config["agent"] |= change
        config["agent"].pop(drop, None)
        file.attrs["config"] = json.dumps(config)


def test_a_file_from_before_a_field_was_there_is_read(path: Path) -> None:
    change_config(path, {}, drop="polyak")
    assert read_run(path).config == config_of()


def test_a_file_with_a_field_of_another_version_is_read_but_not_run(path: Path) -> None:
    change_config(path, {"sharpness": 2})
    data = read_run(path)
    assert data.env_steps.tolist() == [1000, 2000, 3000]
    assert data.stored_config["agent"]["sharpness"] == 2
    with pytest.raises(RunFileError, match=r"written by mtrl test.*agent\.sharpness"):
        data.config  # noqa: B018


DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_file_of_every_schema_is_read(schema: int) -> None:
    """The files were written by the version of their schema, and are never written again."""
    data = read_run(DATA / f"run-schema-{schema}.h5")
    assert data.attributes["schema_version"] == schema
    assert data.tasks == ("drawer-close-v3", "reach-v3")
    assert data.env_steps.tolist() == [1000, 2000, 3000]
    success = data.per_task[:, data.metrics.index("success")]
    np.testing.assert_allclose(success, [[0.1, 0.101], [0.4, 0.401], [0.7, 0.701]], rtol=1e-6)  # float32
    np.testing.assert_array_equal(data.per_run[1], np.full(4, 16.01))
    assert data.stored_config["evaluate"]["whole_episodes"] == (schema == 1)


def test_a_run_of_float32_products_alone_goes_on_in_a_file_of_schema_2(tmp_path: Path) -> None:
    """Whose default that was: given the same words, this version means auto."""
    shutil.copy(DATA / "run-schema-2.h5", tmp_path / "run.h5")
    stored = read_run(tmp_path / "run.h5").config
    assert stored.agent.products == "float32"
    words = stored.model_copy(update={"agent": stored.agent.model_copy(update={"products": "auto"})})
    with pytest.raises(RunFileError, match=r"agent\.products is auto, was float32"):
        refuse_another_run(tmp_path / "run.h5", words)
    assert as_begun(tmp_path, words) == stored
    tf32 = stored.model_copy(update={"agent": stored.agent.model_copy(update={"products": "tf32"})})
    assert as_begun(tmp_path, tf32) == tf32


def test_a_run_of_whole_episodes_alone_is_that_of_a_file_of_schema_1(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["config"])
        del config["evaluate"]["whole_episodes"]
        file.attrs["config"], file.attrs["schema_version"] = json.dumps(config), 1
    refuse_another_run(path, config_of(evaluate__whole_episodes=True))
    with pytest.raises(RunFileError, match=r"evaluate\.whole_episodes is False, was True"):
        refuse_another_run(path, config_of())


def longer(**overrides: object) -> Config:
    return config_of(**({"train__vector_steps": 3_000} | overrides))  # type: ignore[arg-type]


def test_a_run_is_extended(tmp_path: Path) -> None:
    """By the obvious way: the longer run written from the start has the same file, but for where it came from."""
    short = write_run(tmp_path / "short.h5", config_of(), success=[0.1, 0.4, 0.7, 0.9], layers=2)
    before = short.read_bytes()
    assert extend_run(short, tmp_path / "long.h5", longer()) == 4
    assert short.read_bytes() == before
    writer = RunFileWriter.open(tmp_path / "long.h5")
    writer.write_evaluation(5_000, {"success": np.ones(2)}, {}, {})
    writer.close()
    data = read_run(tmp_path / "long.h5")
    known = read_run(write_run(tmp_path / "known.h5", longer(), success=[0.1, 0.4, 0.7, 0.9], layers=2))
    assert data.config == longer()
    assert data.evaluations_planned == 6
    assert data.attributes == known.attributes | {"extended_from": config_of().run_id}
    assert data.env_steps.tolist() == [1000, 2000, 3000, 4000, 5000]
    for name in ("per_task", "per_run", "timing"):
        np.testing.assert_array_equal(getattr(data, name)[:4], getattr(known, name))
    for name, array in known.plasticity.items():
        np.testing.assert_array_equal(data.plasticity[name][:4], array)
    assert len(known.plasticity) == 3
    np.testing.assert_array_equal(data.random_policy, known.random_policy)


def test_an_evaluation_out_of_step_is_left_behind(tmp_path: Path) -> None:
    """The last step is always evaluated; the longer run does not stop there."""
    short = write_run(tmp_path / "short.h5", config_of(train__vector_steps=1_700))
    assert extend_run(short, tmp_path / "long.h5", longer()) == 3


def test_another_run_is_no_extension(path: Path, tmp_path: Path) -> None:
    to = tmp_path / "long.h5"
    with pytest.raises(RunFileError, match=r"differ in train\.vector_steps alone"):
        extend_run(path, to, longer(seed=1))
    with pytest.raises(RunFileError, match="already has 2000 vector steps"):
        extend_run(path, to, longer(train__vector_steps=1_000))
    RunFileWriter.open(path).mark_diverged(DIVERGED)
    with pytest.raises(RunFileError, match="diverged at vector step 1200: q_mean was -12000, beyond 10000"):
        extend_run(path, to, longer())
    assert not to.exists()


KILLS = int(os.environ.get("MTRL_KILLS", "12"))  # 200 in the long proof


def write_until_killed(path: Path, told: int, seed: int) -> None:
    """Rewinds a little, as a resumed run does, then writes rows whose every number is the row's, and tells of each."""
    writer = RunFileWriter.open(path)
    writer.rewind(max(0, writer.committed - seed % 3))
    for row in range(writer.committed, 400):
        values = {name: np.full(2, row) for name in TASK_METRICS}
        writer.write_evaluation(row, values, dict.fromkeys(RUN_METRICS, row), dict.fromkeys(CLOCKS, row))
        if row % 5 == 0:
            writer.mark_diverged(DIVERGED if row % 10 == 0 else None, trained_on=True)
        os.write(told, struct.pack("i", row + 1))
    os._exit(0)


def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    """kill -9 at a random moment: the file reads, holds every evaluation that was acknowledged, and none is torn."""
    path = write_run(tmp_path / "run.h5", config_of(train__vector_steps=200_000), success=[])
    generator = random.Random(0)
    rows = 0
    for kill in range(KILLS):
        if rows == 400:
            path = write_run(tmp_path / f"run{kill}.h5", config_of(train__vector_steps=200_000), success=[])
        heard, told = os.pipe()
        child = os.fork()
        if child == 0:
            write_until_killed(path, told, kill)
        os.close(told)
        first = os.read(heard, 4)  # the kill comes at any moment after the first acknowledged row
        time.sleep(generator.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = first + b"".join(iter(lambda pipe=heard: os.read(pipe, 4096), b""))  # type: ignore[misc]
        os.close(heard)
        data = read_run(path)
        assert data.divergence in (None, DIVERGED)
        assert data.trained_on == bool(data.divergence)
        rows = len(data.env_steps)
        assert rows >= struct.unpack("i", acknowledged[-4:])[0]
        known = np.arange(rows)
        np.testing.assert_array_equal(data.env_steps, known)
        for array in (data.per_task, data.per_run, data.timing):
            np.testing.assert_array_equal(
                array, np.broadcast_to(known.reshape(-1, *[1] * (array.ndim - 1)), array.shape)
            )
