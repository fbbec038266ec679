"""What becomes of a cell, by what went wrong."""

from pathlib import Path

import pytest

from slurm.limits import Limits
from slurm.profiles import Profile
from slurm.queue import Queue, QueuedTask
from slurm.records import History, Record, Task, read_records, write_record
from slurm.retry import blamed_nodes, insist, judge
from slurm.state import CellState, State
from sweeps.grid import expand, load_grid, override
from sweeps.manifest import add_cells, open_sweep_folder
from sweeps.on_slurm import launch_on_slurm


def cell(state: State, step: int = 0, cause: str = "", reason: str = "") -> CellState:
    marker = {"cause": cause, "error": reason} if cause else {}
    return CellState("id", state, reason, {"vector_step": step}, marker)


def job(state: str, node: str = "n1") -> QueuedTask:
    return QueuedTask(state, "", node)


@pytest.mark.parametrize("state", ["done", "diverged", "running", "pending", "cancelled"])
def test_what_is_over_at_work_or_cancelled_is_left_alone(state: State) -> None:
    assert judge(cell(state), None, History()).action == "leave"


@pytest.mark.parametrize("ended", ["PREEMPTED", "NODE_FAIL", "BOOT_FAIL"])
def test_what_the_cluster_ended_is_free_for_ever(ended: str) -> None:
    history = History()
    for _ in range(9):
        verdict = judge(cell("stopped", step=5), job(ended), history)
        assert verdict.action == "resubmit"
        history = verdict.history
    assert (history.attempts, history.stalls, history.exceptions) == (9, 0, 0)


def test_held_jobs_are_free_for_ever() -> None:
    history = History()
    for _ in range(9):
        verdict = judge(cell("held", reason="launch failed requeued held"), None, history)
        assert verdict.action == "resubmit"
        history = verdict.history


@pytest.mark.parametrize("by_marker", [True, False])
def test_out_of_memory_is_given_more_twice(by_marker: bool) -> None:
    history, actions = History(), []
    for _ in range(3):
        state = cell("failed", cause="memory") if by_marker else cell("stopped")
        verdict = judge(state, None if by_marker else job("OUT_OF_MEMORY"), history)
        actions.append((verdict.action, verdict.history.grown))
        history = verdict.history
    assert actions == [("resubmit", 1), ("resubmit", 2), ("give up", 2)]


def test_an_exception_is_tried_once_more() -> None:
    failed = cell("failed", cause="exception", reason="ValueError: x")
    first = judge(failed, job("FAILED"), History())
    assert (first.action, first.history.exceptions) == ("resubmit", 1)
    second = judge(failed, job("FAILED"), first.history)
    assert (second.action, second.reason) == ("give up", "ValueError: x")
    again = insist(second)
    assert (again.action, again.history.exceptions) == ("resubmit", 0)


@pytest.mark.parametrize("ended", ["TIMEOUT", "CANCELLED", ""])
def test_anything_else_is_free_while_the_cell_moves_on(ended: str) -> None:
    history = History()
    for step in (10, 20, 30, 40):
        verdict = judge(cell("stopped", step), job(ended) if ended else None, history)
        assert (verdict.action, verdict.history.vector_step) == ("resubmit", step)
        history = verdict.history
    verdict = judge(cell("stopped", 40, reason="job TIMEOUT"), job("TIMEOUT"), history)
    assert (verdict.action, verdict.history.stalls) == ("resubmit", 1)
    verdict = judge(cell("stopped", 40, reason="job TIMEOUT"), job("TIMEOUT"), verdict.history)
    assert (verdict.action, verdict.reason) == ("give up", "no progress in 2 attempts (job TIMEOUT)")


def test_a_killed_process_counts_as_a_stall_not_as_an_exception() -> None:
    first = judge(cell("failed", 5, cause="killed"), None, History())
    assert (first.action, first.history.stalls, first.history.exceptions) == ("resubmit", 0, 0)
    second = judge(cell("failed", 5, cause="killed"), None, first.history)
    assert (second.action, second.history.stalls) == ("resubmit", 1)


def test_a_cell_that_never_ran_is_submitted() -> None:
    assert judge(cell("missing"), None, History()).reason == "never ran"


def test_a_node_blamed_twice_is_left_out() -> None:
    first = judge(cell("stopped", 5), job("NODE_FAIL", "n7"), History()).history
    assert blamed_nodes([first]) == []
    assert blamed_nodes([first, History(nodes=("n7",)), History(nodes=("n2",))]) == ["n7"]
    assert blamed_nodes([History(nodes=("n7", "n7"))]) == [], "one cell's word is not enough"


def test_the_next_jobs_keep_off_a_node_that_two_cells_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_sweep_folder(tmp_path)
    entries = add_cells(tmp_path, expand(override(load_grid("smoke"), ["train.seed=0,1"]))[:2])
    tasks = [[Task(entry.run_id, entry.offset)] for entry in entries]
    write_record(tmp_path, Record("1-a", tasks, {"name": "lab"}, 100, job="7"))
    ended = {("7", number): QueuedTask("NODE_FAIL", "", "n7", "7", "mtrl-1-a") for number in range(2)}
    monkeypatch.setattr("sweeps.on_slurm.read_queue", lambda: Queue(ended, {"mtrl-1-a": "7"}))
    monkeypatch.setattr("sweeps.on_slurm.read_limits", lambda *names: Limits())
    monkeypatch.setattr("slurm.submit._submit_one", lambda sweep, record: "8")
    profile = Profile(name="lab", exclude=("n1",))
    assert launch_on_slurm(tmp_path, entries, profile, by_rule=True).submitted == 2
    (record,) = [record for record in read_records(tmp_path) if record.job == "8"]
    assert record.profile["exclude"] == ["n1", "n7"]
    assert [task.history.nodes for tasks in record.tasks for task in tasks] == [("n7",), ("n7",)]
