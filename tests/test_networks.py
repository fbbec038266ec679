"""The networks: exact parameter counts, initialisation, forward values against a dense transcription, the policy."""

import math

import numpy as np
import pytest
import torch
from reference_critic import Mlp

from mtrl.config import build_config
from mtrl.networks import build_actor, build_critic, tanh_gaussian

# PAPER §1: benchmark, width, actor parameters, parameters of both critics.
COUNTS = [
    ("MT10", 256, 164_944, 295_956),
    ("MT10", 400, 372_880, 692_820),
    ("MT10", 1024, 2_232_400, 4_329_492),
    ("MT10", 4096, 34_095_184, 67_649_556),
    ("MT50", 256, 257_424, 336_996),
    ("MT50", 400, 517_200, 756_900),
    ("MT50", 1024, 2_601_360, 4_493_412),
    ("MT50", 4096, 35_570_064, 68_304_996),
]


def build(build_network, backend="torch", **overrides):
    config = build_config("paper", {key.replace("__", "."): value for key, value in overrides.items()})
    return build_network(config, torch.Generator().manual_seed(0), backend)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("benchmark", "width", "actor", "critics"), COUNTS)
def test_parameter_counts_are_the_papers(benchmark, width, actor, critics):
    shape = {"env__tasks": benchmark, "network__actor__width": width, "network__critic__width": width}
    assert count(build(build_actor, **shape)) == actor
    assert count(build(build_critic, **shape)) == critics


def test_initial_weights_are_he_uniform_with_the_one_hot_counted():
    critic = build(build_critic)
    first, hidden = math.sqrt(6 / (43 + 10)), math.sqrt(6 / 400)
    for weights, bound in (
        (critic.kernel[0], first),
        (critic.task_row, first),
        (critic.kernel[1], hidden),
        (critic.kernel[2], hidden),
        (critic.head_kernel, 3e-3),
    ):
        assert 0.98 * bound < weights.abs().max() <= bound
        assert abs(float(weights.detach().mean())) < 0.05 * bound
    assert all(not bias.any() for bias in critic.bias)
    assert 0 < critic.head_bias.abs().max() <= 3e-3
    actor = build(build_actor)
    assert actor.head_kernel.abs().max() <= 1e-3
    assert 0 < actor.head_bias.abs().max() <= 1e-3


@pytest.mark.parametrize("backend", ["core", "torch"])
@pytest.mark.parametrize("build_network", [build_actor, build_critic])
@pytest.mark.parametrize("depth", [1, 3])
def test_forward_equals_the_dense_transcription(build_network, backend, depth):
    shape = {"network__actor__width": 33, "network__critic__width": 33}
    depths = {"network__actor__depth": depth, "network__critic__depth": depth}
    network = build(build_network, backend, agent__critics=3, **shape, **depths)
    x = torch.randn((50, network.kernel[0].shape[1]), generator=torch.Generator().manual_seed(1))
    task = torch.arange(10).repeat(5)
    output = network(x, task)
    for member in range(len(output)):
        dense = Mlp(network.state_dict(), member, 10).forward(x.double().numpy(), np.eye(10)[task])
        np.testing.assert_allclose(output[member].detach(), dense, rtol=1e-5, atol=1e-6)


def test_tanh_gaussian_density_and_limits():
    output = torch.tensor([[0.3, -20.0, 0.0, 1.0, 0.5, 5.0, -50.0, 0.0]], dtype=torch.float64)
    noise = torch.tensor([[0.7, -0.1, 2.0, 1.0]], dtype=torch.float64)
    action, log_prob = tanh_gaussian.sample(output, noise, -20, 2)
    log_std = np.clip([0.5, 5.0, -50.0, 0.0], -20, 2)
    u = np.array([0.3, -20.0, 0.0, 1.0]) + np.exp(log_std) * noise.numpy()[0]
    normal = -0.5 * noise.numpy()[0] ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    # 1 - tanh(u)^2 = 1 / cosh(u)^2; cosh does not round to a zero density at u = -20.7.
    np.testing.assert_allclose(log_prob, [(normal + 2 * np.log(np.cosh(u))).sum()], rtol=1e-12)
    np.testing.assert_allclose(action, [np.tanh(u)])


def test_tanh_gaussian_gradient():
    output = torch.randn((5, 8), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn((5, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda y: tanh_gaussian.sample(y, noise, -20, 2), output)
