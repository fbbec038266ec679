"""The worker around a stand-in for the trainer: markers, lock, signals, heartbeat, attempts."""

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtrl.overrides import build_config
from slurm.records import History
from slurm.retry import judge
from slurm.state import ALIVE_SECONDS, cell_directory, read_json, read_state, write_done, write_json
from slurm.worker import CellBusyError, CellJob, Heartbeat, hold_cell, run_cell
from tests.slurm.stand_in import CONFIG, progress, write_run_file

Trainer = Callable[..., str]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trainer], None]:
    """Puts a function in the place of `mtrl.train.train`."""

    def install(train: Trainer) -> None:
        module = types.ModuleType("mtrl.train")
        module.train = train  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mtrl.train", module)

    return install


@pytest.fixture
def job(tmp_path: Path) -> CellJob:
    return CellJob(CONFIG.run_id, cell_directory(tmp_path, CONFIG.run_id), CONFIG.model_dump_json(), 0.0)


def state_of(job: CellJob) -> Any:
    return read_state(job.directory.parent.parent, job.run_id)


def train_to_the_end(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
    assert config == CONFIG
    report(progress(9))
    write_run_file(directory)
    (directory / "checkpoint").mkdir(exist_ok=True)
    return "done"


def test_done(job: CellJob, trainer: Any) -> None:
    trainer(train_to_the_end)
    assert run_cell(job, log=False) == "done"
    state = state_of(job)
    assert (state.state, state.finished) == ("done", True)
    assert {"run_id", "outcome", "seconds", "attempts"} <= set(state.marker)
    assert not (job.directory / "checkpoint").exists()
    beat = read_json(job.directory / "heartbeat.json")
    assert beat is not None
    assert (beat["state"], beat["vector_step"], beat["success"]) == ("done", 9, None)


@pytest.mark.parametrize(("on_gpu", "device"), [(True, "auto"), (True, "cpu"), (False, "auto")])
def test_a_job_with_a_gpu_never_trains_on_the_cpu_in_silence(
    job: CellJob, trainer: Any, monkeypatch: pytest.MonkeyPatch, on_gpu: bool, device: str
) -> None:
    trainer(lambda config, directory, **more: train_to_the_end(CONFIG, directory, **more))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    chosen = build_config("debug", {"run.device": device}).model_dump_json()
    outcome = run_cell(CellJob(job.run_id, job.directory, chosen, 0.0, on_gpu=on_gpu), log=False)
    if not on_gpu or device == "cpu":
        assert outcome == "done"
        return
    state = state_of(job)
    assert (outcome, state.marker["cause"], state.heartbeat["vector_step"]) == ("failed", "no gpu", None)
    assert "the job was given a GPU, but torch sees no GPU (driver: " in state.reason
    assert judge(state, None, History()).action == "give up"


def test_a_finished_cell_is_left_alone(job: CellJob, trainer: Any) -> None:
    trainer(train_to_the_end)
    run_cell(job, log=False)
    before = {path: path.stat().st_mtime_ns for path in job.directory.iterdir() if path.name != "lock"}
    trainer(lambda *_, **__: pytest.fail("trained again"))
    assert run_cell(job, log=False) == "done"
    assert before == {
        path: path.stat().st_mtime_ns for path in job.directory.iterdir() if path.name != "lock"
    }


def test_divergence_is_a_result(job: CellJob, trainer: Any) -> None:
    def diverge(config: Any, directory: Path, **_: Any) -> str:
        write_run_file(directory)
        return "diverged"

    trainer(diverge)
    assert run_cell(job, log=False) == "diverged"
    assert state_of(job).finished


def test_failure_leaves_its_reason_and_the_next_attempt_clears_it(job: CellJob, trainer: Any) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ValueError("the reason")

    trainer(fail)
    assert [run_cell(job, log=False) for _ in range(2)] == ["failed", "failed"]
    state = state_of(job)
    assert (state.state, state.reason) == ("failed", "ValueError: the reason")
    assert state.marker["attempts"] == 2
    assert "raise ValueError" in state.marker["traceback"]
    assert state.marker["cause"] == "exception"
    trainer(train_to_the_end)
    assert run_cell(job, log=False) == "done"
    assert not (job.directory / "FAILED.json").exists()


def test_out_of_memory_is_a_cause_of_its_own(job: CellJob, trainer: Any) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise MemoryError

    trainer(fail)
    assert run_cell(job, log=False) == "failed"
    assert state_of(job).marker["cause"] == "memory"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_is_only_a_flag(job: CellJob, trainer: Any, number: int) -> None:
    def train(config: Any, directory: Path, *, stop: Any, report: Any) -> str:
        assert not stop()
        os.kill(os.getpid(), number)
        report(progress(4))
        assert stop()
        return "stopped"

    trainer(train)
    before = signal.getsignal(number)
    assert run_cell(job, log=False) == "stopped"
    assert signal.getsignal(number) is before
    assert state_of(job).state == "stopped"
    assert state_of(job).heartbeat["vector_step"] == 4


def test_a_twin_is_kept_out(job: CellJob, trainer: Any) -> None:
    trainer(lambda *_, **__: pytest.fail("two at once"))
    job.directory.mkdir(parents=True)
    with (
        hold_cell(job.directory),
        pytest.raises(CellBusyError, match=f"process {os.getpid()}"),
        hold_cell(job.directory),
    ):
        pass
    with hold_cell(job.directory):
        assert run_cell(job, log=False) == "busy"
    assert os.listdir(job.directory) == ["lock"]  # noqa: PTH208


def test_a_lock_of_a_dead_process_holds_nobody_up(job: CellJob, trainer: Any) -> None:
    job.directory.mkdir(parents=True)
    code = (
        "import os, pathlib; from slurm.worker import hold_cell\n"
        f"with hold_cell(pathlib.Path({str(job.directory)!r})): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert "process" in (job.directory / "lock").read_text()
    trainer(train_to_the_end)
    assert run_cell(job, log=False) == "done"


def test_environment_is_set_before_training(
    job: CellJob, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTRL_TEST_ONE", "before")
    monkeypatch.setenv("MTRL_TEST_TWO", "before")

    def train(config: Any, directory: Path, **_: Any) -> str:
        assert os.environ["MTRL_TEST_ONE"] == "1"
        assert "MTRL_TEST_TWO" not in os.environ
        write_run_file(directory)
        return "done"

    trainer(train)
    environment = (("MTRL_TEST_ONE", "1"), ("MTRL_TEST_TWO", None))
    assert run_cell(CellJob(job.run_id, job.directory, job.config, 0.0, environment), log=False) == "done"


def test_a_full_disk_is_a_failure_like_others(job: CellJob, trainer: Any) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    trainer(fail)
    assert run_cell(job, log=False) == "failed"
    assert "No space left" in state_of(job).reason


def test_heartbeats_are_throttled(job: CellJob) -> None:
    job.directory.mkdir(parents=True)
    heartbeat = Heartbeat(CellJob(job.run_id, job.directory, job.config, heartbeat_seconds=3600.0))
    stamp = (job.directory / "heartbeat.json").stat().st_mtime_ns
    for step in range(100):
        heartbeat(progress(step))
    assert (job.directory / "heartbeat.json").stat().st_mtime_ns == stamp
    heartbeat.write("stopped")
    assert read_json(job.directory / "heartbeat.json")["vector_step"] == 99  # type: ignore[index]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_a_damaged_marker_is_no_result(job: CellJob, content: bytes) -> None:
    job.directory.mkdir(parents=True)
    write_run_file(job.directory)
    (job.directory / "DONE.json").write_bytes(content)
    assert (state_of(job).state, state_of(job).reason) == ("missing", "DONE.json is damaged")
    (job.directory / "DONE.json").unlink()
    (job.directory / "FAILED.json").write_bytes(content)
    assert (state_of(job).state, state_of(job).reason) == ("failed", "FAILED.json is damaged")


def test_a_marker_without_its_run_file_is_no_result(job: CellJob) -> None:
    job.directory.mkdir(parents=True)
    write_run_file(job.directory)
    write_done(job.directory, job.run_id, "done")
    assert state_of(job).state == "done"
    os.utime(job.directory / "run.h5", (1, 1))  # a copy: another time stamp, still readable
    assert state_of(job).state == "done"
    (job.directory / "run.h5").write_bytes(b"torn")
    assert (state_of(job).state, "not a readable run file" in state_of(job).reason) == ("missing", True)
    (job.directory / "run.h5").unlink()
    assert (state_of(job).state, state_of(job).reason) == ("missing", "run.h5 is gone")


def test_an_old_heartbeat_is_no_running_cell(job: CellJob) -> None:
    job.directory.mkdir(parents=True)
    heartbeat = Heartbeat(job)
    assert state_of(job).state == "running"
    beat = json.loads((job.directory / "heartbeat.json").read_text())
    write_json(job.directory / "heartbeat.json", {**beat, "time": beat["time"] - ALIVE_SECONDS - 1})
    assert state_of(job).state == "stopped"
    heartbeat.write("stopped")
    assert state_of(job).state == "stopped"
