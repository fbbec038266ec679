"""Categorical targets against loops over atoms, and the two kinds of critic output."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtrl.config import ConfigError
from mtrl.objective import categorical
from mtrl.objective.value_heads import build_value_head
from mtrl.overrides import build_config
from tests.mtrl.objective import reference_options as reference

CPU = torch.device("cpu")
finite = st.floats(-30, 30)


def atoms_of(bins):
    return torch.linspace(-10, 10, bins, dtype=torch.float64)


def check_distribution(probability, atoms, value):
    assert (probability >= 0).all()
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(
        categorical.expectation(probability, atoms), np.clip(value, -10, 10), atol=1e-9
    )


@given(st.lists(finite, min_size=1, max_size=20), st.integers(2, 101))
def test_two_hot_equals_the_loop_and_keeps_the_mean(values, bins):
    atoms = atoms_of(bins)
    ours = categorical.two_hot(torch.tensor(values, dtype=torch.float64), atoms)
    np.testing.assert_allclose(ours, reference.two_hot(values, atoms.numpy()), atol=1e-9)
    check_distribution(ours, atoms, values)
    assert ((ours > 0).sum(1) <= 2).all()


def test_two_hot_of_an_atom_is_one_hot():
    ours = categorical.two_hot(torch.tensor([-10.0, 0.0, 10.0]), torch.linspace(-10, 10, 5))
    torch.testing.assert_close(ours, torch.eye(5)[[0, 2, 4]])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_value_stays_in_its_row(broken):
    atoms = torch.linspace(-10, 10, 5)
    for target in (categorical.two_hot, lambda v, a: categorical.hl_gauss(v, a, 0.75)):
        ours = target(torch.tensor([1.0, broken]), atoms)
        assert ours[0].isfinite().all()
        assert ours[1].isnan().any() == np.isnan(broken)


@given(st.lists(finite, min_size=1, max_size=8), st.integers(2, 60), st.sampled_from((0.3, 0.75, 3.0)))
def test_hl_gauss_equals_the_loop(values, bins, sigma):
    atoms = atoms_of(bins)
    ours = categorical.hl_gauss(torch.tensor(values, dtype=torch.float64), atoms, sigma)
    np.testing.assert_allclose(ours, reference.hl_gauss(values, atoms.numpy(), sigma), atol=1e-12)


def head(**more):
    overrides = {"agent.scaling": "return", "agent.bins": 21}
    config = build_config("paper", overrides | {f"agent.{name}": value for name, value in more.items()})
    return build_value_head(config.agent, "torch", CPU)


def random_target(critics=3, rows=40, bins=21, seed=0):
    generator = np.random.default_rng(seed)
    output = generator.normal(0, 3, (critics, rows, bins)).astype(np.float32)
    columns = {
        "reward": generator.normal(0, 6, rows),
        "terminated": generator.random(rows) < 0.3,
        "log_prob": generator.normal(0, 4, rows),
        "temperature": generator.random(rows),
        "discount": 0.99 ** generator.integers(1, 4, rows),
    }
    return output, {name: column.astype(np.float32) for name, column in columns.items()}


def softmax(x):
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


@pytest.mark.parametrize("reduction", ["min", "mean"])
@pytest.mark.parametrize("kind", ["c51", "two_hot", "hl_gauss"])
def test_categorical_target_equals_the_loop(kind, reduction):
    output, columns = random_target()
    ours, y = head(value=kind, critic_reduction=reduction).target(
        torch.tensor(output), **{name: torch.tensor(column) for name, column in columns.items()}
    )
    atoms = np.linspace(-10, 10, 21)
    probability = softmax(output.astype(np.float64))
    if reduction == "mean":
        next_probability = probability.mean(0)
    else:
        least = (probability @ atoms).argmin(0)
        next_probability = np.stack([probability[e, row] for row, e in enumerate(least)])
    follows = columns["discount"] * (1 - columns["terminated"])
    bonus = columns["temperature"] * columns["log_prob"]
    scalar = columns["reward"] + follows * (next_probability @ atoms - bonus)
    if kind == "c51":
        expected = reference.c51(next_probability, atoms, columns["reward"], follows, bonus)
    elif kind == "two_hot":
        expected = reference.two_hot(scalar, atoms)
    else:
        expected = reference.hl_gauss(scalar, atoms, 0.75)
    np.testing.assert_allclose(ours, expected, atol=2e-5)  # places in float32: 1e-6 of 20 bins
    np.testing.assert_allclose(y, scalar, atol=1e-4)


def test_categorical_loss_value_and_metrics():
    values = head(value="two_hot")
    output = torch.randn((2, 5, 21), generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = categorical.two_hot(torch.tensor([-3.0, 0.0, 2.5, 9.9, 30.0]), torch.linspace(-10, 10, 21))
    probability = softmax(output.detach().double().numpy())
    loss = values.loss(output, target)
    np.testing.assert_allclose(loss.detach(), -(target.numpy() * np.log(probability)).sum(2), rtol=1e-5)
    np.testing.assert_allclose(
        values.value(output).detach(), probability @ np.linspace(-10, 10, 21), atol=1e-5
    )
    error = np.abs(probability @ np.linspace(-10, 10, 21) - [-3.0, 0.0, 2.5, 9.9, 10.0])
    np.testing.assert_allclose(values.error(output, target).detach(), error, atol=1e-5)
    loss.sum().backward()  # the gradient of cross-entropy in the logits is p - target
    np.testing.assert_allclose(output.grad, probability - target.numpy(), atol=1e-6)
    metrics = values.metrics(torch.tensor([-11.0, 0.0, 10.0, 30.0]))
    assert {name: float(value) for name, value in metrics.items()} == {"targets_outside_support": 0.5}


@pytest.mark.parametrize(("reduction", "expected"), [("min", [9.1, 2.0]), ("mean", [10.0, 2.0])])
@pytest.mark.parametrize("backend", ["core", "torch"])
def test_scalar_target_by_hand(backend, reduction, expected):
    config = build_config("paper", {"agent.critic_reduction": reduction})
    target, y = build_value_head(config.agent, backend, CPU).target(
        torch.tensor([[[10.0], [5.0]], [[8.0], [7.0]]]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([-2.0, 3.0]),
        torch.tensor([0.5, 0.5]),
        torch.tensor([0.9, 0.9]),
    )
    # 1 + 0.9 (8 + 0.5 * 2), or with the mean 9 of the critics; a terminated row keeps its reward alone.
    torch.testing.assert_close(target, torch.tensor(expected))
    assert target is y


@pytest.mark.parametrize("backend", ["core", "torch"])
def test_clipped_q_by_hand(backend):
    """As paco's published runs had it: in the target, in the critics' loss and in what the actor climbs."""
    settings = build_config("paper", {"agent.q_clip": 6.0}).agent
    values = build_value_head(settings, backend, CPU)
    output = torch.tensor([[[10.0], [5.0]], [[8.0], [-7.0]]], requires_grad=True)
    rows = [torch.tensor(row) for row in ([1.0, 2.0], [0.0, 0.0], [-2.0, 3.0], [0.5, 0.5], [0.9, 0.9])]
    target, y = values.target(output.detach(), *rows)
    # 1 + 0.9 (6 + 0.5 * 2) = 7.3, over the limit; 2 + 0.9 (-6 - 0.5 * 3)
    torch.testing.assert_close(target, torch.tensor([6.0, -4.75]))
    assert target is y
    torch.testing.assert_close(values.value(output), torch.tensor([[6.0, 5.0], [6.0, -6.0]]))
    values.loss(output, torch.tensor([6.0, 0.0])).sum().backward()
    torch.testing.assert_close(output.grad.squeeze(2), torch.tensor([[0.0, 10.0], [0.0, 0.0]]))


def test_clipped_q_is_for_scalar_values_and_off_in_paper():
    assert build_config("paper", {"system": "paco"}).agent.q_clip == 0
    with pytest.raises(ConfigError, match="leave q_clip out"):
        build_config("brc", {"agent.q_clip": 5000.0})
