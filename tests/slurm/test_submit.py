"""From cells to arrays, and from an array to the words of sbatch; profiles."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from submitit.helpers import DelayedSubmission

from slurm.commands import SlurmError
from slurm.executor import submit_array
from slurm.job import run_task
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
from slurm.submit import CellRequest, memory_class, plan_arrays, submit

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


def test_jobs_that_share_their_cells_are_as_many_as_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest cells come first; a limit on jobs leaves no cell out."""
    cells = [CellRequest(one.task, 1_000, seconds=index % 7) for index, one in enumerate(requests(50))]
    [array] = plan_arrays(cells, profile(pull=True, cells_per_job=3, max_running=8), Limits())
    assert (array.size, len(array.tasks[0])) == (8, 50)
    seconds = {cell.task.run_id: cell.seconds for cell in cells}
    assert [seconds[task.run_id] for task in array.tasks[0]] == sorted(seconds.values(), reverse=True)
    assert plan_arrays(cells, profile(pull=True, cells_per_job=3), Limits())[0].size == 17
    monkeypatch.setattr("slurm.submit._submit_one", lambda sweep, record: "7")
    done = submit(tmp_path, [array], lambda record: None, room=5)
    assert (done.left_over, [record.size for record in done.records]) == ([], [5])
    assert read_records(tmp_path) == done.records


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


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """A stand-in for sbatch on the PATH. Returns what tells the environment that the latest call had."""
    fake = tmp_path / "bin/sbatch"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/bash\nenv > {tmp_path}/environment\necho Submitted batch job 77\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    return (tmp_path / "environment").read_text


def submitted(sweep: Path, settings: Profile, tasks: int = 1) -> str:
    """Submits an array; returns its script."""
    packed = [[request.task] for request in requests(tasks)]
    (sweep / "slurm").mkdir(parents=True, exist_ok=True)
    assert submit_array(sweep, Record("t", packed, settings.model_dump(mode="json"), 3_000)) == "77"
    return (sweep / "slurm/t.sh").read_text()


def flags(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_hostile_values_are_single_words(tmp_path: Path, sbatch: Callable[[], str]) -> None:
    hostile = "$(touch owned); `touch owned`; 'x' \"y\" %j \\n #"
    evil = profile(account=hostile, container=("echo", EVIL), options={"comment": hostile}, python=EVIL)
    script = submitted(tmp_path / "a 'b'; $(touch owned)", evil)
    for line in flags(script):
        if line.startswith(("--account", "--comment")):
            assert shlex.split(line)[0].partition("=")[2].replace("\\\\", "\\") == hostile
    command = script[script.index("exec echo") :]
    folder = str(tmp_path / "a 'b'; $(touch owned)" / "slurm")
    assert shlex.split(command) == ["exec", "echo", EVIL, EVIL, "-u", "-m", "submitit.core._submit", folder]
    path = tmp_path / "script"
    path.write_text(submitted(tmp_path / "other", profile(container=("printf", "%s"), python=EVIL)))
    said = subprocess.run(["bash", path], capture_output=True, text=True, cwd=tmp_path).stdout
    assert said.startswith(EVIL)
    assert not (tmp_path / "owned").exists()


def test_what_sbatch_is_asked_for(tmp_path: Path, sbatch: Callable[[], str]) -> None:
    settings = profile(
        partition="p", gpus=2, gpu_type="a100", max_running=7, exclude=("n1", "n2"), signal_seconds=60,
        options={"mail-type": "END"},
    )  # fmt: skip
    asked = flags(submitted(tmp_path / "a 100%", settings, tasks=2))
    output = tmp_path / "a 100%%/slurm/t.out"
    for word in ("--array=0-1%7", "--gres=gpu:a100:2", "--exclude=n1,n2", "--signal=B:USR2@60", "--mem=3000M",
                 "--requeue", "--job-name=mtrl-t", "--partition=p", f"--output='{output}'", "--time=240",
                 "--mail-type=END"):  # fmt: skip
        assert word in asked
    assert len({word.partition("=")[0] for word in asked}) == len(asked), "nothing is asked for twice"
    assert not any(word.startswith(("--account", "--qos", "--wckey", "--error")) for word in asked)


def test_the_environment_overrides_nothing(
    tmp_path: Path, sbatch: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch prefers its variables to what a script says. Those that nothing is asked about stay."""
    for name in (
        "PARTITION",
        "TIMELIMIT",
        "ARRAY_INX",
        "MEM_PER_CPU",
        "OUTPUT",
        "ERROR",
        "NO_REQUEUE",
        "QOS",
    ):
        monkeypatch.setenv(f"SBATCH_{name}", "mine")
    submitted(tmp_path / "sweep", profile(partition="p"))
    assert [line for line in sbatch().splitlines() if line.startswith("SBATCH_")] == ["SBATCH_QOS=mine"]


def test_one_pickle_serves_every_task(tmp_path: Path, sbatch: Callable[[], str]) -> None:
    submitted(tmp_path, profile(), tasks=50)
    assert sorted(path.name for path in (tmp_path / "slurm").iterdir()) == ["t.pkl", "t.sh"]
    call = DelayedSubmission.load(tmp_path / "slurm/t.pkl")
    assert (call.function, call.args) == (run_task, (str(tmp_path), "t"))


@pytest.mark.parametrize("name", ["%A", "x%jx", "%t", "%a", "back\\slash"])
def test_a_folder_whose_name_slurm_would_change_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="give another folder with --runs"):
        submit(tmp_path / name, plan_arrays(requests(1), profile(), Limits()), lambda record: None)
    assert not (tmp_path / name).exists()


def test_a_refused_array_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin/sbatch"
    fake.parent.mkdir()
    fake.write_text("#!/bin/bash\necho sbatch: error: invalid partition specified: p >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    (tmp_path / "slurm").mkdir()
    done = submit(tmp_path, plan_arrays(requests(3), profile(), Limits()), lambda record: None)
    assert (len(done.left_over), "invalid partition" in done.refusal) == (3, True)
    assert not list((tmp_path / "slurm").iterdir())


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
        ('[options]\nclusters = "a,b"', "write a profile for each cluster"),
        ('[options]\narray = "0-3"', "set by the launcher"),
        ('account = "a\\nb"', "must not span lines"),
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


def test_a_signal_before_python_listens_does_not_end_the_job(
    tmp_path: Path, sbatch: Callable[[], str]
) -> None:
    script = submitted(tmp_path / "sweep", profile(container=("echo", "alive"), setup=("kill -USR2 $$",)))
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout.startswith("alive")
