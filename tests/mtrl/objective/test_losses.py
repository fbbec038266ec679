"""The losses, by hand."""

import torch

from mtrl.objective import losses


def column(*values):
    return torch.tensor(values)


def test_td_target_by_hand():
    target = losses.td_target(
        reward=column(1.0, 2.0),
        terminated=column(0.0, 1.0),
        next_q=torch.tensor([[10.0, 5.0], [8.0, 7.0]]),
        log_prob=column(-2.0, 3.0),
        temperature=column(0.5, 0.5),
        discount=column(0.9, 0.9),
    )
    # 1 + 0.9 (8 + 0.5 * 2); a terminated row keeps its reward alone.
    torch.testing.assert_close(target, column(9.1, 2.0))


def test_no_gradient_flows_through_the_target():
    q = torch.ones((2, 3), requires_grad=True)
    ones = torch.ones(3)
    assert not losses.td_target(ones, ones * 0, q, ones, ones, ones).requires_grad


def test_actor_loss_goes_to_the_first_least_critic():
    q = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 2.0]], requires_grad=True)
    loss = losses.actor_loss(column(1.0, 1.0, 1.0), q, column(0.1, 0.2, 0.3))
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), column(0.1 - 1, 0.2 - 4, 0.3 - 2))
    # The third row is a tie: the first critic alone gets its gradient.
    torch.testing.assert_close(q.grad, torch.tensor([[-1.0, 0.0, -1.0], [0.0, -1.0, 0.0]]))


def test_actor_loss_of_the_mean_goes_to_all_critics():
    q = torch.tensor([[1.0, 5.0], [3.0, 4.0]], requires_grad=True)
    loss = losses.actor_loss(column(1.0, 1.0), q, column(0.1, 0.2), "mean")
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), column(0.1 - 2, 0.2 - 4.5))
    torch.testing.assert_close(q.grad, torch.full((2, 2), -0.5))


def test_tasks_of_high_temperature_weigh_less():
    # exp(-log 1) : exp(-log 4) = 1 : 1/4
    torch.testing.assert_close(losses.temperature_weights(column(1.0, 4.0).log()), column(1.6, 0.4))


def test_temperature_rises_while_entropy_is_below_its_target():
    log_temperature = torch.zeros(2, requires_grad=True)
    log_prob = column(6.0, 2.0)  # entropies -6 and -2 about the target -4
    losses.temperature_loss(log_temperature, log_prob, -4.0).backward()
    torch.testing.assert_close(log_temperature.grad, column(-1.0, 1.0))
