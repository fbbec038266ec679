"""`train.overlap`: what an update knows, and that neither workers nor stops show in the result."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mtrl.agent import Agent
from mtrl.checkpoint import load_tensors
from mtrl.config import ConfigError
from mtrl.envs import VectorEnv
from mtrl.replay import Replay
from mtrl.train import Progress, train
from tests.mtrl.short_runs import contents, short_config, stop_after

RICH = {
    "replay__mode": "prioritized",
    "replay__beta_end": 1.0,
    "agent__scaling": "reward",
    "agent__reset_every": 50,
    "train__updates_per_step": 2,
}
overlapping = partial(short_config, train__overlap=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("overlapping")
    assert train(overlapping(**RICH), directory) == "done"
    return directory


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(call, number) in order: updates made so far, or transitions of a task in the replay."""
    seen: list[tuple[str, int]] = []

    def watch(owner: Any, name: str, number: Any) -> None:
        call = getattr(owner, name)

        def watched(self: Any, *arguments: Any, **named: Any) -> Any:
            seen.append((name, number(self)))
            return call(self, *arguments, **named)

        monkeypatch.setattr(owner, name, watched)

    watch(Agent, "act", lambda agent: agent.actor_adam.steps)
    watch(VectorEnv, "step_async", lambda env: -1)
    watch(Replay, "sample", lambda replay: int(replay.size[0]))
    watch(VectorEnv, "step_wait", lambda env: -1)
    watch(Replay, "add", lambda replay: int(replay.size[0]))
    return seen


@pytest.mark.parametrize("overlap", [False, True])
def test_only_the_newest_transition_is_missing(
    tmp_path: Path, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy that acts has seen as many updates either way."""
    seen = record(monkeypatch)
    train(short_config(train__overlap=overlap, train__vector_steps=33, evaluate__every=1000), tmp_path)
    last = seen.index(("add", 31))  # of vector step 31
    step = seen[last + 1 : seen.index(("add", 32)) + 1]
    started = ("act", 2), ("step_async", -1)
    ended = ("step_wait", -1), ("add", 32)
    if overlap:
        assert step == [*started, ("sample", 32), *ended]
    else:
        assert step == [("sample", 32), *started, *ended]


def test_the_number_of_workers_changes_nothing(tmp_path: Path, finished: Path) -> None:
    for workers in (0, 2):
        config = overlapping(**RICH, run__env_workers=workers)
        assert train(config, tmp_path / str(workers)) == "done"
        assert contents(tmp_path / str(workers) / "run.h5") == contents(finished / "run.h5")


def test_another_result_than_without(tmp_path: Path, finished: Path) -> None:
    train(short_config(**RICH), tmp_path)
    ours, theirs = contents(tmp_path / "run.h5"), contents(finished / "run.h5")
    assert ours["random_policy"] == theirs["random_policy"]
    assert ours["per_run"] != theirs["per_run"]
    assert ours["attribute run_id"] != theirs["attribute run_id"]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, finished: Path) -> None:
    seen: list[Progress] = []
    for stop_at in (29, 41, 77):
        stop = partial(stop_after, seen, stop_at)
        assert train(overlapping(**RICH), tmp_path, stop=stop, report=seen.append) == "stopped"
    assert train(overlapping(**RICH), tmp_path) == "done"
    assert contents(tmp_path / "run.h5") == contents(finished / "run.h5")
    ours, theirs = (load_tensors(place / "agent.pt") for place in (tmp_path, finished))
    assert str(ours) == str(theirs)


def test_a_worker_that_dies_during_an_update_is_replaced(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, updates = Agent.update, 0

    def deadly(self: Agent, batch: Any, counts: Any) -> Any:
        nonlocal updates
        updates += 1
        if updates == 21:
            for child in children("worker_process"):
                os.kill(child, signal.SIGKILL)
        return update(self, batch, counts)

    monkeypatch.setattr(Agent, "update", deadly)
    config = overlapping(**RICH, run__env_workers=1, run__env_restarts=1)
    with pytest.warns(RuntimeWarning, match="takes over"):
        assert train(config, tmp_path) == "done"
    assert contents(tmp_path / "run.h5") == contents(finished / "run.h5")


def children(command: str) -> list[int]:
    """The children of this process with the newest work: the envs of training start before those of evaluations."""
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    running = [int(pid) for pid in pids if command in Path(f"/proc/{pid}/cmdline").read_text()]
    return running[:1]


def test_a_run_that_diverges_while_envs_step_ends(tmp_path: Path) -> None:
    config = overlapping(agent__critic_lr=1e30, agent__critic_clip=1e30, run__env_workers=1)
    assert train(config, tmp_path) == "diverged"
    assert not children("worker_process")


def test_the_first_update_needs_a_transition() -> None:
    with pytest.raises(ConfigError, match=r"train\.random_steps of at least replay\.n_step = 3"):
        overlapping(train__random_steps=2, replay__n_step=3)
    overlapping(train__random_steps=3, replay__n_step=3)
