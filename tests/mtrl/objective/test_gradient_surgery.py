"""PCGrad and GradNorm against loops over tasks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtrl.objective.gradient_surgery import GradNorm, MeanGradient, PCGrad, pcgrad_shares, per_task
from tests.mtrl.objective import reference_options as reference

CPU = torch.device("cpu")


@given(st.integers(1, 7), st.integers(1, 12), st.integers(0, 10_000))
def test_pcgrad_equals_the_loop(tasks, parameters, seed):
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(tasks, parameters)) * 10 ** generator.uniform(-2, 2, (tasks, 1))
    order = generator.permutation(tasks).tolist()
    each = torch.tensor(gradients)
    ours = pcgrad_shares(each @ each.T, order) @ each
    np.testing.assert_allclose(ours, reference.pcgrad(gradients, order), rtol=1e-7, atol=1e-7)


def test_pcgrad_by_hand():
    each = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])  # conflict: product -1
    ours = pcgrad_shares(each @ each.T, [0, 1]) @ each
    # (1, 0) + (-1, 1) / 2 = (0.5, 0.5); (-1, 1) + (1, 0) = (0, 1)
    torch.testing.assert_close(ours, torch.tensor([0.25, 0.75]))


def test_pcgrad_leaves_gradients_that_agree():
    each = torch.rand((4, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pcgrad_shares(each @ each.T, [2, 0, 3, 1]), torch.full((4,), 0.25))


def test_no_task_is_worse_off_than_against_another():
    """Of two tasks, the result goes against neither."""
    each = torch.randn((2, 5), generator=torch.Generator().manual_seed(3))
    each[1] -= 2 * each[0]
    ours = pcgrad_shares(each @ each.T, [1, 0]) @ each
    assert (each @ ours >= -1e-5).all()
    assert (each @ each.mean(0) < 0).any()


class Regression:
    """A linear model with one flat parameter vector, whose gradient is known: 2 (x . w - y) x for each row."""

    def __init__(self, rows=30, tasks=3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn((rows, 4), generator=generator)
        self.y = torch.randn(rows, generator=generator)
        self.task = torch.randint(tasks, (rows,), generator=generator)
        self.weight = torch.randn(4, generator=generator).requires_grad_()
        self.gradient = torch.zeros(4)
        self.weight.grad = self.gradient

    def row_loss(self, rows):
        return (self.x[rows] @ self.weight - self.y[rows]).square()

    def by_task(self, tasks):
        """Loss and gradient of each task in float64, T/B times the sum over its rows."""
        x, y, w = (t.detach().double().numpy() for t in (self.x, self.y, self.weight))
        scale = tasks / len(y)
        delta = [(x @ w - y) * (self.task.numpy() == t) for t in range(tasks)]
        return [scale * (d**2).sum() for d in delta], np.stack([scale * 2 * d @ x for d in delta])


def test_each_task_has_its_own_rows_in_any_order_and_number():
    model = Regression(tasks=3)
    losses, gradients = per_task(model.gradient, model.row_loss, model.task, 5)  # tasks 3 and 4 have no rows
    expected, by_hand = model.by_task(5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(gradients, by_hand, rtol=1e-5, atol=1e-6)
    mean = MeanGradient()(model.gradient, model.row_loss, model.task)
    np.testing.assert_allclose(losses.mean(), mean, rtol=1e-5)
    np.testing.assert_allclose(gradients.mean(0), model.gradient, rtol=1e-5, atol=1e-6)


def test_pcgrad_of_a_model_equals_the_loop():
    model = Regression()
    rule = PCGrad(3, torch.Generator().manual_seed(5))
    for _ in range(5):  # several orders
        order = torch.randperm(3, generator=copy_of(rule)).tolist()
        loss = rule(model.gradient, model.row_loss, model.task)
        losses, gradients = model.by_task(3)
        np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(model.gradient, reference.pcgrad(gradients, order), rtol=1e-4, atol=1e-5)


def copy_of(rule):
    generator = torch.Generator()
    generator.set_state(rule.state_dict()["generator"])
    return generator


@pytest.mark.parametrize("asymmetry", [0.12, 1.5])
def test_gradnorm_of_a_model_equals_the_loop(asymmetry):
    model = Regression()
    rule = GradNorm(3, asymmetry=asymmetry, lr=0.05, device=CPU)
    twin = reference.GradNorm(3, asymmetry, 0.05)
    for _ in range(30):
        losses, gradients = model.by_task(3)
        expected = twin(np.array(losses), gradients)
        loss = rule(model.gradient, model.row_loss, model.task)
        np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(model.gradient, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rule.weight, twin.weight, rtol=1e-4)
        with torch.no_grad():
            model.weight -= 0.02 * model.gradient
    assert rule.weight.sum() == pytest.approx(3)
    assert (rule.weight - 1).abs().max() > 0.1
    rule.reset()
    assert (rule.weight == 1).all()


def test_gradnorm_raises_the_weight_of_small_gradients():
    model = Regression()
    model.x[model.task == 0] *= 0.1
    model.y[model.task == 0] *= 0.1
    rule = GradNorm(3, asymmetry=0.12, lr=0.05, device=CPU)
    for _ in range(20):
        rule(model.gradient, model.row_loss, model.task)
    assert rule.weight.argmax() == 0
