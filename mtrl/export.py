"""The trained policy as one file that needs only torch: observations and tasks in, deterministic actions out."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from mtrl import __version__
from mtrl.agent import Agent
from mtrl.networks import tanh_gaussian
from mtrl.networks.build import build_actor
from mtrl.tasks import ACTION_SIZE, OBSERVATION_SIZE

ABOUT = "policy.json"  # the extra file in the archive that describes the policy
USAGE = """\
import torch
policy = torch.export.load("{path}").module()
action = policy(observation, task)  # float32 [B, 39] as the envs give them, int64 [B] -> [B, 4] in [-1, 1]
"""


class DeterministicPolicy(nn.Module):
    """tanh of the means: observations [B, 39] as the envs give them, tasks [B] (int64) -> actions [B, 4]."""

    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observation: Tensor, task: Tensor) -> Tensor:
        return tanh_gaussian.mode(self.actor(observation, task)[0])


def export_policy(agent: Agent, path: Path) -> None:
    """Writes the deterministic policy of `agent` to `path` (.pt2), whole or not at all, by `torch.export`.

    The program takes any number of rows: observations [B, 39] (float32, neither normalised nor reordered) and the index
    of each row's task [B] (int64). It holds no operator of mtrl's. Its extra file `policy.json` names the tasks in
    order, what an observation and an action hold, and the run. Raises OSError if it cannot be written.
    """
    config = agent.config
    actor = build_actor(config, torch.Generator().manual_seed(0), "torch")
    actor.load_state_dict(agent.actor.state_dict())
    # torch 2.6 cannot export FiLM for a number of rows without a maximum
    rows = torch.export.Dim("rows", min=1, max=2**31 - 1)
    program = torch.export.export(
        DeterministicPolicy(actor.requires_grad_(False).eval()),
        (torch.zeros(2, OBSERVATION_SIZE), torch.zeros(2, dtype=torch.int64)),
        dynamic_shapes=({0: rows}, {0: rows}),
    )
    about = {
        "tasks": config.env.tasks,  # a row's task is its place here
        "observation": "float32 [rows, 39]: frame 18, previous frame 18, goal 3, as Meta-World gives them",
        "task": "int64 [rows]: index into tasks",
        "action": f"float32 [rows, {ACTION_SIZE}] in [-1, 1]: hand's movement in x, y, z, and grip",
        "run_id": config.run_id,
        "mtrl": __version__,
        "torch": torch.__version__,
    }
    unfinished = path.with_name(f"{path.stem}.unfinished.pt2")
    try:
        torch.export.save(program, unfinished, extra_files={ABOUT: json.dumps(about)})
        unfinished.replace(path)
    except (RuntimeError, OSError) as error:  # what torch makes of a missing folder or a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
