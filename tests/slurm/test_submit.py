"""From cells to arrays, and from an array to the words of sbatch; profiles."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slurm.commands import SlurmError
from slurm.limits import Limits
from slurm.profiles import Profile, ProfileError, load_profile, point_at, profile_names
from slurm.records import (
    History,
    Record,
    Task,
    close_record,
    last_profile,
    read_record,
    read_records,
    record_path,
    write_record,
)
from slurm.submit import CellRequest, _script, command_of, memory_class, plan_arrays, submit

EVIL = "$(touch owned); `touch owned`; 'x' \"y\" %j\n#SBATCH --wrap"


def requests(count: int, memory: int = 1_000, **history: Any) -> list[CellRequest]:
    return [
        CellRequest(Task(f"{index:012x}", index * 100, History(**history)), memory) for index in range(count)
    ]


def profile(**settings: Any) -> Profile:
    return Profile(name="test", **settings)


def test_arrays_are_split_and_every_cell_is_in_one() -> None:
    arrays = plan_arrays(requests(2_500), profile(), Limits(max_array=1_001))
    assert [len(array.tasks) for array in arrays] == [1_001, 1_001, 498]
    assert [task.run_id for array in arrays for tasks in array.tasks for task in tasks] == [
        request.task.run_id for request in requests(2_500)
    ]
    assert len({array.token for array in arrays}) == 3


def test_ten_thousand_cells_fit_into_ten_arrays() -> None:
    assert len(plan_arrays(requests(10_000), profile(), Limits())) == 10


def test_cells_are_packed_with_their_like() -> None:
    mixed = [*requests(5, memory=900), *requests(3, memory=7_000)]
    arrays = plan_arrays(mixed, profile(cells_per_job=2, memory_mb=2_000), Limits())
    assert [[len(tasks) for tasks in array.tasks] for array in arrays] == [[2, 2, 1], [2, 1]]
    assert [array.memory_mb for array in arrays] == [2_000, 16_000]


def test_memory_grows_by_half_for_each_time_it_ran_out() -> None:
    sizes = [memory_class(requests(1, grown=grown)[0], profile(memory_mb=4_000)) for grown in range(3)]
    assert sizes == [4_000, 6_000, 9_000]


@pytest.mark.parametrize("room", [0, 1, 37, 63, 64, 100])
def test_what_fits_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """A cluster that refuses an array with more tasks than it has room for, and says no more than that."""
    taken: list[int] = []

    def sbatch(sweep: Path, record: Record) -> str:
        assert read_record(sweep, record.token) == record, "the intention is on disk before sbatch"
        if sum(taken) + len(record.tasks) > room:
            raise SlurmError("sbatch: Job violates accounting/QOS policy (job submit limit, ...)")
        taken.append(len(record.tasks))
        return str(len(taken))

    monkeypatch.setattr("slurm.submit._submit_one", sbatch)
    arrays = plan_arrays(requests(64), profile(), Limits(max_array=40))
    done = submit(tmp_path, arrays, lambda record: None)
    assert sum(len(record.tasks) for record in done.records) == min(room, 64)
    submitted = [task.run_id for record in done.records for tasks in record.tasks for task in tasks]
    assert [*submitted, *(task.run_id for task in done.left_over)] == [
        one.task.run_id for one in requests(64)
    ]
    assert bool(done.refusal) == (room < 64)
    assert len(read_records(tmp_path)) == len(done.records), "refused records are withdrawn"


def test_a_known_room_is_not_overdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm.submit._submit_one", lambda sweep, record: "7")
    arrays = plan_arrays(requests(64), profile(), Limits(max_array=40))
    done = submit(tmp_path, arrays, lambda record: None, room=50)
    assert [len(record.tasks) for record in done.records] == [40, 10]
    assert (len(done.left_over), done.refusal) == (14, "you may have 50 more jobs in the queue")


def test_hostile_values_are_single_words(tmp_path: Path) -> None:
    evil = profile(account=EVIL, container=("echo", EVIL), options={"comment": EVIL}, python=EVIL)
    record = Record("token", [requests(1)[0].task and [requests(1)[0].task]], {}, 100)
    words = command_of(tmp_path, record, evil)
    assert f"--account={EVIL}" in words
    assert f"--comment={EVIL}" in words
    line = _script(evil, [[EVIL, "-m", "slurm.job"]]).splitlines(keepends=True)
    assert shlex.split("".join(line[2:])) == ["echo", EVIL, EVIL, "-m", "slurm.job"]
    script = tmp_path / "script"
    script.write_text(_script(profile(container=("printf", "%s")), [[EVIL]]))
    assert subprocess.run(["bash", script], capture_output=True, text=True, cwd=tmp_path).stdout == EVIL
    assert not (tmp_path / "owned").exists()


def test_words_of_sbatch() -> None:
    record = Record("t", [[Task("a", 0)], [Task("b", 9)]], {}, 3_000)
    settings = profile(
        partition="p", gpus=2, gpu_type="a100", max_running=7, exclude=("n1", "n2"), signal_seconds=60
    )
    words = command_of(Path("/sweep 100%"), record, settings)
    for word in ("--array=0-1%7", "--gres=gpu:a100:2", "--exclude=n1,n2", "--signal=B:USR2@60", "--mem=3000M",
                 "--requeue", "--job-name=mtrl-t", "--partition=p", "--output=/sweep 100%%/slurm/t.out"):  # fmt: skip
        assert word in words
    assert not any(word.startswith(("--account", "--qos")) for word in words)


def test_records_survive_and_are_put_away(tmp_path: Path) -> None:
    history = History(attempts=2, stalls=1, nodes=("n1",), vector_step=40)
    record = Record(
        "5-a", [[Task("a", 0, history), Task("b", 7)], [Task("c", 9)]], {"name": "lab"}, 100, 1.0, "77"
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path, "5-a") == record
    assert read_records(tmp_path) == [record]
    record_path(tmp_path, "6-b").write_text("{torn")
    assert read_records(tmp_path) == [record]
    close_record(tmp_path, record)
    assert read_records(tmp_path) == []
    record_path(tmp_path, "6-b").unlink()
    assert last_profile(tmp_path) == Profile(name="lab")


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_project_is_valid(name: str) -> None:
    assert load_profile(name).name == name


def test_bad_profiles_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ProfileError, match="no profile 'mni'; did you mean 'mini'"):
        load_profile("mni")
    own = tmp_path / "mtrl/profiles/lab.toml"
    own.parent.mkdir(parents=True)
    for text, message in (
        ('partitoin = "x"', "did you mean 'partition'"),
        ("minutes = 0", "minutes"),
        ("minutes = ", "is not TOML"),
        ('[options]\n"x; rm" = "y"', "no long option of sbatch"),
    ):
        own.write_text(text)
        with pytest.raises(ProfileError, match=message):
            load_profile("lab")
    own.write_text('partition = "mine"')
    assert load_profile("lab").partition == "mine"
    assert "lab" in profile_names()


def test_a_profile_points_at_its_cluster_unless_the_environment_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/mine")
    point_at(profile(slurm_conf="/theirs"))
    assert os.environ["SLURM_CONF"] == "/mine"
    monkeypatch.delenv("SLURM_CONF")
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    point_at(profile())
    assert "SLURM_CONF" not in os.environ
    point_at(profile(slurm_conf="/tmp/of-$USER/slurm.conf"))
    assert os.environ["SLURM_CONF"] == "/tmp/of-me/slurm.conf"


def test_a_signal_before_python_listens_does_not_end_the_job() -> None:
    script = _script(profile(), [["echo", "alive"]], replace_shell=True)
    early = script.replace("exec echo", "kill -USR2 $$; exec echo")
    assert subprocess.run(["bash", "-c", early], capture_output=True, text=True).stdout == "alive\n"
