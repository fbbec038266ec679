"""Small agents, batches for them, and the comparison of one update with its slow twin."""

from typing import NamedTuple

import numpy as np
import torch

from mtrl.agent import Agent
from mtrl.noise import Noise
from mtrl.overrides import build_config
from mtrl.tasks import BENCHMARKS
from tests.mtrl.reference_critic import first_update

BACKENDS = ("fused", "core", "torch")


class Rows(NamedTuple):
    observation: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    next_observation: torch.Tensor
    task: torch.Tensor
    weight: torch.Tensor
    discount: torch.Tensor


def make_batch(tasks, per_task, seed=0, *, terminated=0.0):
    generator = torch.Generator().manual_seed(seed)
    rows = tasks * per_task

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return Rows(
        observation=normal(rows, 39),
        action=normal(rows, 4).tanh(),
        reward=normal(rows).abs(),
        terminated=(torch.rand(rows, generator=generator) < terminated).float(),
        next_observation=normal(rows, 39),
        task=torch.arange(tasks).repeat_interleave(per_task),
        weight=torch.rand(rows, generator=generator) + 0.5,
        discount=0.99 ** torch.randint(1, 6, (rows,), generator=generator),
    )


def make_agent(backend="fused", tasks=3, width=24, **more):
    """backend: fused (what `core` picks for these networks), core (its operators under autograd) or torch."""
    overrides = {
        "env.tasks": BENCHMARKS["MT10"][:tasks],
        "network.actor.width": width,
        "network.critic.width": width,
        "agent.backend": "torch" if backend == "torch" else "core",
    }
    agent = Agent(build_config("paper", overrides | {k.replace("__", "."): v for k, v in more.items()}))
    if backend == "core":
        agent.fused = None
    return agent


def noises(agent, rows):
    """What the agent's next update will draw."""
    noise = Noise(torch.Generator())
    noise.load_state_dict(agent.update_noise.state_dict())
    return [noise.draw(rows, 4).double().numpy() for _ in range(2)]


def by_name(vector, module):
    """The parts of a flat vector under the names of the parameters that lie there."""
    return {
        name: vector[p.storage_offset() :][: p.numel()].view(p.shape) for name, p in module.named_parameters()
    }


def compare_with_reference(agent, batch, tolerance, **options):
    agent.target_value.mul_(0.9)  # away from the critic, so that taking one for the other or no average shows
    state = agent.state_dict()
    expected = first_update(state, batch, *noises(agent, len(batch.reward)), agent.config.agent, **options)
    assert expected["margin"] > 2e-7, "choose another seed: a ReLU stands on its kink within rounding error"
    update = agent.update(batch)
    for name, value in update.metrics.items():
        np.testing.assert_allclose(value, expected["metrics"][name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(update.priority, expected["priority"], rtol=1e-4, atol=1e-5)
    after = agent.state_dict()
    for network in ("actor", "critic", "target"):
        for name, value in after[network].items():
            np.testing.assert_allclose(
                value, expected[network][name], rtol=0, atol=tolerance, err_msg=f"{network}.{name}"
            )
    np.testing.assert_allclose(after["log_temperature"], expected["log_temperature"], rtol=1e-5)
    for network, adam in (("actor", agent.actor_adam), ("critic", agent.critic_adam)):
        # Adam's mean after one step is a tenth of the clipped gradient, which has norm 1 or less.
        for name, value in by_name(adam.mean, getattr(agent, network)).items():
            wanted = expected["clipped_gradient"][network][name] / 10
            np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-7, err_msg=f"{network}.{name}")


# Adam's first step is lr g / (|g| + eps): a gradient of float32 error 1e-8 near zero moves a weight by up to
# lr 1e-8 / eps = 3e-7; a tenth of the step itself (3e-5) would already be a wrong gradient.
FIRST_STEP = 2e-6


def same_state(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
