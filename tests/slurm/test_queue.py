"""Reading squeue, and talking to commands that fail, hang or are not there."""

import sys
import time
import types

import pytest

from slurm.accounting import parse_ended
from slurm.commands import SlurmError, call
from slurm.limits import parse_limits
from slurm.queue import QueuedTask, parse_queue


def test_arrays_single_jobs_and_what_ended() -> None:
    queue = parse_queue(
        "12|0-2,7%5|PENDING||12|mtrl-a|Priority\n"
        "12|3|RUNNING|n1|15|mtrl-a|None\n"
        "12|4|NODE_FAIL|n2|16|mtrl-a|None\n"
        "13|N/A|PENDING||13|a name|with bars|Dependency\n"
        "14|0-6:3|COMPLETED|n[1-2]|14|mtrl-b|None\n"
        "slurm_load_jobs error: something\n"
    )
    assert {key for key in queue.tasks if key[0] == "12"} == {("12", n) for n in (0, 1, 2, 3, 4, 7)}
    assert queue.tasks["12", 3] == QueuedTask("RUNNING", "None", "n1", "15", "mtrl-a")
    assert not queue.tasks["12", 4].alive
    assert ("13", 0) in queue.tasks
    assert [key for key in queue.tasks if key[0] == "14"] == [("14", 0), ("14", 3), ("14", 6)]
    assert queue.jobs["mtrl-a"] == "12"


@pytest.mark.parametrize(
    ("state", "reason", "alive", "held"),
    [
        ("PENDING", "Priority", True, False),
        ("PENDING", "BeginTime", True, False),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", True, False),
        ("PENDING", "launch failed requeued held", False, True),
        ("PENDING", "JobHeldUser", False, True),
        ("PENDING", "JobHeldAdmin", False, True),
        ("COMPLETING", "None", True, False),
        ("TIMEOUT", "TimeLimit", False, False),
        ("SOMETHING_NEW", "", False, False),
    ],
)
def test_who_will_run_without_help(state: str, reason: str, alive: bool, held: bool) -> None:
    task = QueuedTask(state, reason, "")
    assert (task.alive, task.held) == (alive, held)


def test_limits() -> None:
    limits = parse_limits(
        "Configuration data as of 2025\nAccountingStorageType   = accounting_storage/slurmdbd\n"
        "JobRequeue              = 0\nMaxArraySize            = 500\nMaxJobCount             = 2000\n"
        "PreemptMode             = REQUEUE\nSLURM_VERSION           = 22.05.8\n"
    )
    assert (limits.max_array, limits.max_jobs, limits.preempt_mode) == (500, 2_000, "REQUEUE")
    assert (limits.requeue, limits.accounting, limits.version) == (False, True, "22.05.8")
    assert parse_limits("").max_array == 1_001


def test_a_command_that_fails_hangs_or_is_missing() -> None:
    assert call([sys.executable, "-c", "print(3)"]) == "3\n"
    with pytest.raises(SlurmError, match="no command sbatch-of-nowhere; run this on a login node"):
        call(["sbatch-of-nowhere"])
    with pytest.raises(SlurmError, match="no such partition") as refused:
        call([sys.executable, "-c", "import sys; sys.exit('no such partition')"])
    assert not refused.value.passing
    with pytest.raises(SlurmError, match=r"did not answer within 0 s") as slow:
        call([sys.executable, "-c", "import time; time.sleep(9)"], seconds=0.3, tries=1)
    assert slow.value.passing


def test_a_passing_fault_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(
        "slurm.commands.time", types.SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic)
    )
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        call([sys.executable, "-c", "import sys; sys.exit('Unable to contact slurm controller')"], tries=4)
    assert pauses == [1, 2, 4]


def test_a_full_queue_is_an_answer_and_is_not_waited_out() -> None:
    code = "import sys, time; print('temporarily unable to accept job', file=sys.stderr, flush=True); time.sleep(60)"
    with pytest.raises(SlurmError, match="unable to accept job") as full:
        call([sys.executable, "-c", code])
    assert not full.value.passing


def test_what_accounting_knows_of_ended_jobs() -> None:
    ended = parse_ended(
        "12_3|15|mtrl-a|CANCELLED by 1000|n1\n"
        "12_[4-9]|12|mtrl-a|CANCELLED by 1000|None assigned\n"
        "13|13|mtrl-b|OUT_OF_MEMORY|n2\n"
        "slurm_load_jobs error: something\n"
    )
    assert ended == {
        ("12", 3): QueuedTask("CANCELLED", "", "n1", "15", "mtrl-a"),
        ("13", 0): QueuedTask("OUT_OF_MEMORY", "", "n2", "13", "mtrl-b"),
    }
