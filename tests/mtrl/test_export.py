"""The exported policy: every kind of network, where torch alone can be imported, against the agent's own actions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mtrl.agent import Agent
from mtrl.checkpoint import load_tensors
from mtrl.cli import main
from mtrl.envs import VectorEnv
from mtrl.export import export_policy
from mtrl.train import Progress, train
from tests.mtrl.networks.small_networks import SMALL, name_of, small_config
from tests.mtrl.short_runs import short_config, stop_after

KINDS = [SMALL[i] for i in (0, 2, 3, 4, 7, 9, 10, 11, 13, 14)]  # each kind and block

# What a user has who was given only the files. Without the finder, mtrl could be imported here.
LOAD = """
import sys

class OnlyTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mtrl", "metaworld", "mujoco", "pydantic", "h5py", "scipy", "click"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, OnlyTorch())
try:
    import mtrl
    sys.exit("mtrl can be imported")
except ImportError:
    pass
import torch

rows = torch.load("rows.pt", weights_only=True)
actions = {}
for name in sys.argv[1:]:
    policy = torch.export.load(name).module()
    actions[name] = [policy(observation, task) for observation, task in rows]
torch.save(actions, "actions.pt")
"""


def load_and_act(folder: Path, names: list[str], rows: list[tuple[Any, Any]]) -> dict[str, list[Any]]:
    """The actions of the exported policies `names` in `folder`, as a process without mtrl gets them."""
    torch.save(rows, folder / "rows.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, *names], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    actions: dict[str, list[Any]] = torch.load(folder / "actions.pt", weights_only=True)
    return actions


def test_every_kind_acts_as_the_agent_where_only_torch_is(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [
        (torch.randn((len(tasks), 39), generator=generator), torch.tensor(tasks))
        for tasks in ([2], [0, 1, 2, 3], [3, 3, 1, 0, 2, 2, 0])
    ]
    agents = {}
    for shape in KINDS:
        name = f"{name_of(shape)}.pt2"
        agents[name] = Agent(small_config(shape))
        agents[name].actor_adam.value.mul_(3.0)  # so that actions are not all near 0
        export_policy(agents[name], tmp_path / name)
    actions = load_and_act(tmp_path, list(agents), rows)
    for name, agent in agents.items():
        assert actions[name][1].abs().max() > 1e-3
        for (observation, task), action in zip(rows, actions[name], strict=True):
            every = [agent.act(row.expand(4, 39).numpy(), deterministic=True) for row in observation]
            own = np.stack(every)[np.arange(len(task)), task]
            # float32 in another order of sums
            np.testing.assert_allclose(action, own, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose checkpoint of step 40 is still there."""
    directory, seen = tmp_path_factory.mktemp("run"), list[Progress]()
    config = short_config(train__vector_steps=60)
    assert train(config, directory, stop=lambda: stop_after(seen, 40), report=seen.append) == "stopped"
    assert train(config, directory) == "done"
    return directory


def mtrl(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def test_the_command_exports_a_run_and_its_usage_runs_as_printed(finished: Path, tmp_path: Path) -> None:
    usage = mtrl("export", finished, "--output", tmp_path / "reach.pt2")
    assert len(usage.splitlines()) == 3
    envs = VectorEnv(short_config().env, seed=3, workers=0)
    observation, _ = envs.reset()
    envs.close()
    names: dict[str, Any] = {"observation": torch.tensor(observation, dtype=torch.float32)}
    names["task"] = torch.arange(2)
    exec(usage, names)
    agent = Agent(short_config())
    agent.load_state_dict(load_tensors(finished / "agent.pt"))
    expected = agent.act(observation, deterministic=True)
    np.testing.assert_allclose(names["action"], expected, rtol=1e-4, atol=1e-6)
    about = {"policy.json": ""}
    torch.export.load(tmp_path / "reach.pt2", extra_files=about)
    facts = json.loads(about["policy.json"])
    assert facts["tasks"] == ["drawer-close-v3", "reach-v3"]
    assert facts["run_id"] == short_config(train__vector_steps=60).run_id
    assert "previous frame 18, goal 3" in facts["observation"]


def test_a_checkpoint_is_exported_evaluated_and_refused_where_damaged(finished: Path, tmp_path: Path) -> None:
    checkpoint = finished / "checkpoint/40"
    mtrl("export", checkpoint)
    (finished / "policy.pt2").rename(tmp_path / "early.pt2")
    mtrl("export", finished, "--output", tmp_path / "late.pt2")
    early, late = (
        torch.export.load(tmp_path / f"{name}.pt2").module()(torch.ones(2, 39), torch.arange(2))
        for name in ("early", "late")
    )
    agent = Agent(short_config())
    agent.load_state_dict(load_tensors(checkpoint / "state.pt")["agent"])
    expected = agent.act(np.ones((2, 39)), deterministic=True)
    np.testing.assert_allclose(early, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(late, expected, rtol=1e-3, atol=1e-5)
    assert "reach-v3" in mtrl("evaluate", checkpoint, "--episodes", 1)
    damaged = tmp_path / "40"
    damaged.mkdir()
    for file in checkpoint.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes()[:-1])
    assert "is damaged" in mtrl("evaluate", damaged, code=1)


@pytest.mark.parametrize("command", ["evaluate", "video", "export"])
def test_what_is_no_policy_is_named_with_the_cure(finished: Path, tmp_path: Path, command: str) -> None:
    assert "holds no run" in mtrl(command, tmp_path, code=1)
    (tmp_path / "run.h5").write_bytes((finished / "run.h5").read_bytes())
    assert "has no checkpoint yet" in mtrl(command, tmp_path, code=1)
    (tmp_path / "checkpoint").symlink_to(finished / "checkpoint")
    assert f"name its checkpoint, {tmp_path}/checkpoint/40" in mtrl(command, tmp_path, code=1)
    (tmp_path / "agent.pt").write_bytes((finished / "agent.pt").read_bytes())
    (tmp_path / "run.h5").write_text("not a run file")
    assert "not a readable run file" in mtrl(command, tmp_path, code=1)


def test_where_an_export_cannot_go_is_said(finished: Path, tmp_path: Path) -> None:
    assert "end in .pt2" in mtrl("export", finished, "--output", tmp_path / "policy.pt", code=2)
    assert "cannot be written" in mtrl("export", finished, "--output", tmp_path / "none/policy.pt2", code=1)
    assert list(tmp_path.iterdir()) == []
