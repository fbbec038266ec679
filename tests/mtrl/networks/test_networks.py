"""The networks: exact parameter counts, initialisation, forward values against a dense transcription, the policy."""

import math

import numpy as np
import pytest
import torch

from mtrl.config import NetworkSettings
from mtrl.networks import tanh_gaussian
from mtrl.networks.build import build_actor, build_critic
from mtrl.networks.moore import orthonormalize
from mtrl.overrides import build_config
from mtrl.sizing import count_parameters
from tests.mtrl.networks import reference_networks
from tests.mtrl.networks.small_networks import CRITICS, SMALL, name_of, small_config

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
SYSTEM_COUNTS = [
    ("soft_modularization", "MT10", 691_022, 1_381_646),
    ("soft_modularization", "MT50", 1_606_140, 3_211_882),
    ("moore", "MT10", 1_379_320, 2_715_300),
    ("moore", "MT50", 2_181_500, 4_101_500),
    ("paco", "MT10", 1_700_095, 3_388_120),
    ("paco", "MT50", 6_801_180, 13_554_080),
    ("care", "MT10", 420_564, 837_914),
    ("care", "MT50", 451_168, 900_722),
    ("film", "MT10", 377_414, 749_614),
    ("film", "MT50", 379_414, 753_614),
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


@pytest.mark.parametrize(("system", "benchmark", "actor", "critics"), SYSTEM_COUNTS)
def test_parameter_counts_of_the_other_systems_are_the_papers(system, benchmark, actor, critics):
    assert count(build(build_actor, system=system, env__tasks=benchmark)) == actor
    assert count(build(build_critic, system=system, env__tasks=benchmark)) == critics


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


def build_small(shape, build_network=build_critic, backend="torch"):
    """A network with every parameter moved, so that no bias is 0 and no output is tiny; and rows of mixed tasks."""
    generator = torch.Generator().manual_seed(1)
    network = build_network(small_config(shape), generator, backend)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    inputs = 39 if build_network is build_actor else 43
    x, task = (
        torch.randn((12, inputs), generator=generator),
        torch.tensor([0, 0, 1, 2, 2, 2, 3, 0, 3, 1, 0, 2]),
    )
    return network, x, task


@pytest.mark.parametrize("backend", ["core", "torch"])
@pytest.mark.parametrize("build_network", [build_actor, build_critic])
@pytest.mark.parametrize("shape", SMALL, ids=name_of)
def test_forward_equals_the_slow_transcription(shape, build_network, backend):
    network, x, task = build_small(shape, build_network, backend)
    critics = 1 if build_network is build_actor else CRITICS
    expected = reference_networks.forward(
        network, critics, NetworkSettings(**shape), x.double().numpy(), task.numpy()
    )
    assert expected.shape == (critics, 12, 8 if build_network is build_actor else 1)
    # float32 against float64 through a few layers of sums of at most 60 numbers of size 10
    np.testing.assert_allclose(network(x, task).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", ["scalar", "hl_gauss"])
@pytest.mark.parametrize("shape", SMALL, ids=name_of)
def test_closed_form_counts_equal_the_built_networks(shape, value):
    config = small_config(shape, **{"agent.value": value, "agent.value_max": 1000.0})
    counted = count_parameters(config)
    generator = torch.Generator().manual_seed(0)
    assert counted.actor == count(build_actor(config, generator, "torch"))
    assert counted.critic == counted.target == count(build_critic(config, generator, "torch"))


@pytest.mark.parametrize("shape", SMALL, ids=name_of)
def test_features_are_the_hidden_layers_and_every_parameter_is_used(shape):
    network, x, task = build_small(shape)
    features = network.features(x, task)
    assert len(features) == network.hidden_layers
    assert all(layer.shape[:2] == (CRITICS, 12) for layer in features)
    network(x, task).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.flatten(1).any(1).all() if parameter.dim() > 1 else parameter.grad.any(), name


@pytest.mark.parametrize("shape", SMALL, ids=name_of)
def test_gradients(shape):
    network, x, task = build_small(shape)
    network.double()
    names, values = zip(*network.named_parameters(), strict=True)
    rows = x[:3].double().requires_grad_()

    def output(rows, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(network, state, (rows, task[[0, 2, 3]]))

    assert torch.autograd.gradcheck(output, (rows, *values), fast_mode=True)


@pytest.mark.parametrize("shape", SMALL, ids=name_of)
def test_critics_and_backends_agree_on_gradients(shape):
    gradients = []
    for backend in ("core", "torch"):
        network, x, task = build_small(shape, backend=backend)
        network(x, task).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


def test_the_seed_decides_every_number():
    for shape in SMALL:
        one, two = (
            build_critic(small_config(shape), torch.Generator().manual_seed(s), "torch") for s in (0, 0)
        )
        other = build_critic(small_config(shape), torch.Generator().manual_seed(1), "torch")
        assert str(one.state_dict()) == str(two.state_dict()) != str(other.state_dict())


def test_gram_schmidt_gives_orthonormal_vectors_of_the_same_span():
    x = torch.randn((2, 4, 50, 9), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = orthonormalize(x)
    gram = torch.einsum("enbw,embw->ebnm", basis, basis)
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64).expand(2, 50, 4, 4), rtol=0, atol=1e-6)
    along = torch.einsum("enbw,embw->ebnm", x, basis)  # of x in the basis: nothing is left over
    torch.testing.assert_close(torch.einsum("ebnm,embw->enbw", along, basis), x, rtol=1e-6, atol=1e-6)
    assert (along.triu(1).abs() < 1e-6).all()  # the nth expert lies in the span of the first n


def test_dependent_experts_stay_finite():
    x = torch.ones((1, 3, 2, 5), requires_grad=True)
    basis = orthonormalize(x)
    assert basis.isfinite().all()
    assert torch.autograd.grad(basis.sum(), x)[0].isfinite().all()


def test_routing_rows_sum_to_one():
    network, x, task = build_small(SMALL[9])
    weights = network.routing(x, task)
    assert [tuple(p.shape) for p in weights] == [
        (CRITICS, 12, 3, 3),
        (CRITICS, 12, 3, 3),
        (CRITICS, 12, 1, 3),
    ]
    for p in weights:
        assert (p > 0).all()
        torch.testing.assert_close(p.sum(3), torch.ones(p.shape[:3]))


def test_attention_rows_sum_to_one():
    network, _, _ = build_small(SMALL[13])
    assert network.weights().shape == (CRITICS, 4, 3)
    torch.testing.assert_close(network.weights().sum(2), torch.ones((CRITICS, 4)))


HE = {  # fan-in of each kernel that is He-uniform, by its name's beginning, at the paper's sizes for MT10 critics
    "soft_modularization": {
        "observation.linear.0": 43,
        "observation.linear.1": 400,
        "task": 10,
        "embedding.linear.0": 400,
        "embedding.linear.1": 256,
        "module.0": 400,
        "module.1": 256,
        "condition.0": 4,
    },
    "paco": {"mixture": 10, "kernel.0": 43, "kernel.1": 400, "kernel.2": 400},
    "moore": {"expert.linear.0": 43, "expert.linear.1": 400, "expert.linear.2": 400, "mixture": 10},
    "care": {
        "context.linear.0": 50,
        "attention.linear.2": 50,
        "expert.linear.0": 43,
        "expert.linear.2": 50,
        "torso.linear.0": 100,
        "torso.linear.2": 400,
    },
    "film": {"modulation.linear.2": 50, "encoder.linear.0": 43, "torso.linear.0": 100, "torso.linear.1": 400},
    "mtsac": {"task_row": 53, "kernel.0": 53, "kernel.1": 400},
}
OUTPUT = {"paco": ("kernel.3", "bias.3"), "moore": ("head_kernel", "head_bias")}
OUTPUT |= dict.fromkeys(("care", "film"), ("torso.linear.3.kernel", "torso.linear.3.bias"))
OUTPUT |= dict.fromkeys(("soft_modularization", "mtsac"), ("head.kernel", "head.bias"))


@pytest.mark.parametrize("system", HE)
def test_initial_weights_are_within_their_bounds(system):
    critic = dict(build(build_critic, system=system).named_parameters())
    actor = dict(build(build_actor, system=system).named_parameters())
    for beginning, fan_in in HE[system].items():
        (kernel,) = (v for k, v in critic.items() if k.removesuffix(".kernel") == beginning)
        bound = math.sqrt(6 / fan_in)
        assert 0.9 * bound < kernel.abs().max() <= bound, beginning
    kernel, bias = OUTPUT[system]
    for parameters, bound in ((critic, 3e-3), (actor, 1e-3)):
        assert 0.9 * bound < parameters[kernel].abs().max() <= bound
        assert 0 < parameters[bias].abs().max() <= bound
        zeros = [v for k, v in parameters.items() if "bias" in k and k != bias]
        assert zeros
        assert not any(v.any() for v in zeros)
    for name, route in critic.items():
        if name.startswith("route_kernel"):
            assert 0.9e-3 < route.abs().max() <= 1e-3


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
