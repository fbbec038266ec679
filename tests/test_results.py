"""The run file: what is committed can be read, by us and by plain xarray; what is not a run file is named."""

import os
import random
import signal
import struct
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from reference_analysis import RUN_METRICS, config_of, write_run

from mtrl.results import CLOCKS, TASK_METRICS, RunFileError, RunFileWriter, read_run


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


def test_rewinding_forgets_the_later_rows(path: Path) -> None:
    writer = RunFileWriter.open(path)
    writer.rewind(1)
    writer.close()
    assert len(read_run(path).env_steps) == 1
    with h5py.File(path) as file:
        assert np.isnan(file["per_task"][1:]).all()
        assert np.isnan(file["per_run"][1:]).all()


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


KILLS = int(os.environ.get("MTRL_KILLS", "12"))  # 200 in the long proof


def write_until_killed(path: Path, told: int, seed: int) -> None:
    """Rewinds a little, as a resumed run does, then writes rows whose every number is the row's, and tells of each."""
    writer = RunFileWriter.open(path)
    writer.rewind(max(0, writer.committed - seed % 3))
    for row in range(writer.committed, 400):
        values = {name: np.full(2, row) for name in TASK_METRICS}
        writer.write_evaluation(row, values, dict.fromkeys(RUN_METRICS, row), dict.fromkeys(CLOCKS, row))
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
        rows = len(data.env_steps)
        assert rows >= struct.unpack("i", acknowledged[-4:])[0]
        known = np.arange(rows)
        np.testing.assert_array_equal(data.env_steps, known)
        for array in (data.per_task, data.per_run, data.timing):
            np.testing.assert_array_equal(
                array, np.broadcast_to(known.reshape(-1, *[1] * (array.ndim - 1)), array.shape)
            )
