"""Files and queue put together: one state per cell."""

import math
import time
from pathlib import Path

import pytest

from slurm.queue import Queue, QueuedTask
from slurm.records import Record, Task, write_record
from slurm.state import (
    cell_directory,
    parse_lines,
    read_json,
    write_cancelled,
    write_done,
    write_failed,
    write_json,
)
from slurm.survey import survey

RUN = "aaaaaaaaaaaa"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep whose one cell was submitted as task 0 of job 7."""
    (tmp_path / "cells").mkdir()
    write_record(tmp_path, Record("1-a", [[Task(RUN, 0)]], {"name": "lab"}, 100, job="7"))
    return tmp_path


def queue(state: str, reason: str = "None", name: str = "mtrl-1-a", number: str = "7") -> Queue:
    return Queue({("7", 0): QueuedTask(state, reason, "n1", number, name)}, {name: "7"})


def begin(sweep: Path, step: int = 5) -> Path:
    directory = cell_directory(sweep, RUN)
    directory.mkdir(exist_ok=True)
    beat = {"state": "running", "time": time.time(), "vector_step": step, "host": "n1", "pid": 1}
    write_json(directory / "heartbeat.json", beat)
    return directory


def state(sweep: Path, found: Queue | None) -> tuple[str, str]:
    cell = survey(sweep, [RUN], found).cells[RUN]
    return cell.state, cell.reason


def test_states_by_the_queue(sweep: Path) -> None:
    assert state(sweep, queue("PENDING", "Priority")) == ("pending", "Priority")
    assert state(sweep, queue("PENDING", "JobHeldUser")) == ("held", "JobHeldUser")
    assert state(sweep, queue("RUNNING")) == ("running", "n1")
    assert state(sweep, queue("NODE_FAIL")) == ("missing", "job NODE_FAIL on n1")
    assert state(sweep, Queue()) == ("missing", "no longer in Slurm's queue")
    begin(sweep)
    assert state(sweep, queue("TIMEOUT")) == ("stopped", "job TIMEOUT on n1")
    assert state(sweep, queue("PENDING")) == ("pending", "")
    assert state(sweep, None) == ("running", "")


def test_another_job_with_the_same_number_says_nothing(sweep: Path) -> None:
    assert state(sweep, queue("RUNNING", name="somebody else's")) == ("missing", "no longer in Slurm's queue")


def test_a_failure_counts_only_for_the_job_that_left_it(sweep: Path) -> None:
    directory = begin(sweep)
    write_json(directory / "FAILED.json", {"error": "E", "job": "7_0"})
    assert state(sweep, queue("FAILED")) == ("failed", "E")
    assert state(sweep, queue("RUNNING")) == ("failed", "E")  # its job goes on with other cells
    write_json(directory / "FAILED.json", {"error": "E", "job": "6_0"})
    assert state(sweep, queue("RUNNING")) == ("running", "n1")
    assert state(sweep, queue("NODE_FAIL")) == ("stopped", "job NODE_FAIL on n1")


def test_accounting_is_asked_for_jobs_that_left_the_queue(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def read_ended(jobs: set[str]) -> dict[tuple[str, int], QueuedTask]:
        asked.append(set(jobs))
        return {("7", 0): QueuedTask("OUT_OF_MEMORY", "", "n3", "7", "mtrl-1-a")}

    monkeypatch.setattr("slurm.survey.read_ended", read_ended)
    begin(sweep)
    found = survey(sweep, [RUN], Queue())
    assert found.cells[RUN].reason == "job OUT_OF_MEMORY on n3"
    queued = found.queued(RUN)
    assert queued is not None
    assert queued.state == "OUT_OF_MEMORY", "and retry sees the same"
    assert asked == [{"7"}]
    survey(sweep, [RUN], queue("RUNNING"))
    survey(sweep, [RUN], None)
    write_cancelled(sweep, {RUN})
    survey(sweep, [RUN], Queue())
    assert len(asked) == 1


def test_memory_kills_are_read_from_the_output(sweep: Path) -> None:
    begin(sweep)
    output = sweep / "slurm/1-a.out"
    output.write_text("slurmstepd: error: StepId=7.batch exceeded memory limit (2 > 1), being killed\n")
    assert state(sweep, queue("FAILED")) == ("stopped", "job OUT_OF_MEMORY on n1")
    assert state(sweep, queue("FAILED", number="8")) == ("stopped", "job FAILED on n1")
    output.write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.\n")
    assert state(sweep, queue("CANCELLED")) == ("stopped", "job OUT_OF_MEMORY on n1")


def test_a_job_that_fails_before_its_cell_begins_is_quoted(sweep: Path) -> None:
    output = sweep / "slurm/1-a.out"
    output.write_text(
        "/spool/job00007/slurm_script: line 9: module: command not found\n"
        "/spool/job00008/slurm_script: line 9: another job's\n"
        "submitit INFO (2026-01-01) - Starting with JobEnvironment\n"
    )
    reason = state(sweep, queue("FAILED"))[1]
    assert reason.startswith(
        "job FAILED on n1: /spool/job00007/slurm_script: line 9: module: command not found"
    )
    assert str(output) in reason
    begin(sweep)
    assert state(sweep, queue("FAILED")) == ("stopped", "job FAILED on n1"), "its cell has a log of its own"


def shared_queue(*states: str) -> Queue:
    tasks = {
        ("7", n): QueuedTask(state, "None", f"n{n}", str(7 + n), "mtrl-1-a") for n, state in enumerate(states)
    }
    return Queue(tasks, {"mtrl-1-a": "7"})


def test_states_of_a_cell_that_jobs_share(sweep: Path) -> None:
    write_record(sweep, Record("1-a", [[Task(RUN, 0)]], {"name": "lab"}, 100, job="7", jobs=2))
    waits = "until a job of its array takes it"
    assert state(sweep, shared_queue("PENDING", "PENDING")) == ("pending", waits)
    assert state(sweep, shared_queue("COMPLETED", "RUNNING")) == ("pending", waits)
    assert state(sweep, shared_queue("FAILED", "COMPLETED"))[0] == "missing"
    directory = begin(sweep)
    beat = read_json(directory / "heartbeat.json") or {}
    write_json(directory / "heartbeat.json", {**beat, "job": "7_1"})
    assert state(sweep, shared_queue("RUNNING", "RUNNING")) == ("running", "n1")
    assert state(sweep, shared_queue("RUNNING", "NODE_FAIL")) == ("pending", waits)
    assert state(sweep, shared_queue("COMPLETED", "NODE_FAIL")) == ("stopped", "job NODE_FAIL on n1")
    write_failed(directory, RUN, "E", cause="exception", job="7_1")
    for states in (("RUNNING", "RUNNING"), ("RUNNING", "PENDING"), ("COMPLETED", "COMPLETED")):
        assert state(sweep, shared_queue(*states)) == ("failed", "E"), states


def test_cancelled_is_final_once_its_job_has_ended(sweep: Path) -> None:
    write_cancelled(sweep, {RUN})
    assert state(sweep, queue("COMPLETING"))[0] == "running"
    assert state(sweep, queue("CANCELLED")) == ("cancelled", "")


def test_what_is_over_is_remembered_and_verified_on_demand(sweep: Path) -> None:
    directory = begin(sweep)
    (directory / "run.h5").write_bytes(b"x")
    write_done(directory, RUN, "done", seconds=2.0)
    assert state(sweep, None) == ("done", "")
    (directory / "run.h5").unlink()
    assert state(sweep, None) == ("done", ""), "remembered without a look"
    checked = survey(sweep, [RUN], Queue(), verify=True).cells[RUN]
    assert (checked.state, checked.reason) == ("missing", "run.h5 is gone")
    assert state(sweep, Queue())[0] == "missing", "and forgotten"


def test_a_torn_line_of_the_memory_is_skipped(sweep: Path) -> None:
    directory = begin(sweep)
    (directory / "run.h5").write_bytes(b"x")
    write_done(directory, RUN, "diverged")
    (sweep / "finished.jsonl").write_text('{"run_id": "aaaa')
    assert state(sweep, None) == ("diverged", "")
    assert state(sweep, None) == ("diverged", "")


def test_lines_are_read_whatever_they_hold() -> None:
    lines = [b'{"label": "a"}', b"", b'{"cut', b'{"label": "\\udcff"}', b'{"rate": NaN}', b"\xff"]
    read = parse_lines(lines)
    assert read[:4] == [{"label": "a"}, None, None, {"label": "\udcff"}]
    assert math.isnan(read[4]["rate"])
    assert read[5] is None
