"""One SAC update written out in numpy float64: dense one-hots, every head of every row, gradients by hand.

Slow and obvious, to check the agent against. It follows PAPER §2 line by line and shares no code with the library.
"""

from __future__ import annotations

import numpy as np

HEADS = ("head_kernel", "head_bias")


class Mlp:
    """One network of a multi-head network, from the agent's state dict."""

    def __init__(self, state, e, tasks):
        def take(name):
            return state[name][e].double().numpy()

        depth = sum(name.startswith("kernel.") for name in state)
        first = np.concatenate((take("kernel.0"), take("task_row")))  # the one-hot is the last `tasks` inputs
        self.kernels = [first, *(take(f"kernel.{i}") for i in range(1, depth))]
        self.biases = [take(f"bias.{i}") for i in range(depth)]
        self.head_kernel, self.head_bias, self.tasks = take("head_kernel"), take("head_bias"), tasks

    def forward(self, x, one_hot):
        self.one_hot, self.inputs, self.margin = one_hot, [np.concatenate((x, one_hot), 1)], np.inf
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            z = self.inputs[-1] @ kernel + bias
            self.margin = min(self.margin, np.abs(z).min())
            self.inputs.append(np.maximum(z, 0))
        every = np.einsum("bw,two->bto", self.inputs[-1], self.head_kernel) + self.head_bias
        return np.einsum("bto,bt->bo", every, one_hot)

    def backward(self, dy):
        """The gradients by name for an output gradient [B, O], and the gradient in the inputs without the one-hot."""
        every = np.einsum("bo,bt->bto", dy, self.one_hot)
        gradient = {
            "head_kernel": np.einsum("bw,bto->two", self.inputs[-1], every),
            "head_bias": every.sum(0),
        }
        dh = np.einsum("bto,two->bw", every, self.head_kernel)
        for i in reversed(range(len(self.kernels))):
            dz = dh * (self.inputs[i + 1] > 0)
            gradient[f"kernel.{i}"] = self.inputs[i].T @ dz
            gradient[f"bias.{i}"] = dz.sum(0)
            dh = dz @ self.kernels[i].T
        gradient["kernel.0"], gradient["task_row"] = np.split(gradient["kernel.0"], [-self.tasks])
        return gradient, dh[:, : -self.tasks]


def adam(value, gradient, moments, steps, lr, eps, weight_decay=0.0):
    mean = 0.9 * moments[0] + 0.1 * gradient
    square = 0.999 * moments[1] + 0.001 * gradient**2
    decayed = value - lr * weight_decay * value
    return decayed - lr * (mean / (1 - 0.9**steps)) / (np.sqrt(square / (1 - 0.999**steps)) + eps)


def squashed(output, noise, low, high):
    """Action and log-density of tanh of a Gaussian, and what the gradient needs."""
    mean, raw = np.split(output, 2, axis=1)
    log_std = np.clip(raw, low, high)
    u = mean + np.exp(log_std) * noise
    density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    squash = 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))  # log(1 - tanh(u)^2)
    return np.tanh(u), (density - squash).sum(1), log_std, (raw >= low) & (raw <= high)


def stack(gradients):
    return {name: np.stack([g[name] for g in gradients]) for name in gradients[0]}


def clipped(gradient, limit):
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    return {name: g * min(1, limit / norm) for name, g in gradient.items()}, norm


def values(state):
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def first_update(state, batch, next_noise, noise, settings, *, task_weight=None, combine=None):
    """The first update from `state`: metrics, priority, and the new actor, critic, target and log_temperature.

    task_weight [T] multiplies the losses of actor and critics. combine(name, gradients) makes one gradient out of those
    of the tasks, each the gradient of T/B times the sum over the task's rows; without it, their mean is taken.

    `margin` is the least distance of a differentiated ReLU's argument from 0: within rounding error of float32, the two
    precisions may stand on different sides of the kink, and their gradients rightly differ.
    """
    tasks = len(state["log_temperature"])
    task = batch.task.numpy()
    one_hot = np.eye(tasks)[task]
    rows = {
        n: getattr(batch, n).double().numpy()
        for n in ("observation", "action", "reward", "terminated", "next_observation", "weight", "discount")
    }
    b, ensemble = len(task), len(state["critic"]["head_bias"])
    log_temperature = state["log_temperature"].double().numpy()
    alpha = np.exp(log_temperature)[task]
    limits = (settings.log_std_min, settings.log_std_max)
    loss_weight = np.ones(b) if task_weight is None else np.asarray(task_weight)[task]

    def over_tasks(name, gradient_of):
        """The gradient for rows weighted by loss_weight; gradient_of takes a weight of each row."""
        if combine is None:
            return gradient_of(loss_weight)
        return combine(name, [gradient_of(loss_weight * tasks * (task == t)) for t in range(tasks)])

    actor = Mlp(state["actor"], 0, tasks)
    next_action, next_log_prob, *_ = squashed(
        actor.forward(rows["next_observation"], one_hot), next_noise, *limits
    )
    next_x = np.concatenate((next_action, rows["next_observation"]), 1)
    next_q = np.stack(
        [Mlp(state["target"], e, tasks).forward(next_x, one_hot)[:, 0] for e in range(ensemble)]
    )
    y = rows["reward"] + rows["discount"] * (1 - rows["terminated"]) * (next_q.min(0) - alpha * next_log_prob)

    x = np.concatenate((rows["action"], rows["observation"]), 1)
    critics = [Mlp(state["critic"], e, tasks) for e in range(ensemble)]
    q = np.stack([c.forward(x, one_hot)[:, 0] for c in critics])
    delta, old_critics = q - y, critics

    def critic_gradient(weight):
        slope = 2 * weight * rows["weight"] * delta / (ensemble * b)
        return stack([c.backward(s[:, None])[0] for c, s in zip(old_critics, slope, strict=True)])

    gradient, critic_norm = clipped(over_tasks("critic", critic_gradient), settings.critic_clip)
    clipped_gradient = {"critic": gradient}
    critic = {
        name: adam(v, gradient[name], (0, 0), 1, settings.critic_lr, settings.adam_eps, settings.weight_decay)
        for name, v in values(state["critic"]).items()
    }
    target = {name: v + settings.polyak * (critic[name] - v) for name, v in values(state["target"]).items()}

    output = actor.forward(rows["observation"], one_hot)
    action, log_prob, log_std, inside = squashed(output, noise, *limits)
    new = _tensors(critic)
    critics = [Mlp(new, e, tasks) for e in range(ensemble)]
    x = np.concatenate((action, rows["observation"]), 1)
    new_q = np.stack([c.forward(x, one_hot)[:, 0] for c in critics])
    least = new_q.argmin(0)

    def actor_gradient(weight):
        each = (weight / b)[:, None]
        da = np.zeros_like(action)
        for e, c in enumerate(critics):
            da += c.backward(-each * (least == e)[:, None])[1][:, : action.shape[1]]
        # log pi holds -log(1 - tanh(u)^2), whose derivative in u is 2 tanh(u).
        entropy = each * alpha[:, None]
        du = da * (1 - action**2) + entropy * 2 * action
        dlog_std = (du * np.exp(log_std) * noise - entropy) * inside
        return stack([actor.backward(np.concatenate((du, dlog_std), 1))[0]])

    gradient, actor_norm = clipped(over_tasks("actor", actor_gradient), settings.actor_clip)
    clipped_gradient["actor"] = gradient
    new_actor = {
        name: adam(v, gradient[name], (0, 0), 1, settings.actor_lr, settings.adam_eps, settings.weight_decay)
        for name, v in values(state["actor"]).items()
    }

    per_row = -(log_prob + settings.target_entropy)
    temperature_gradient = one_hot.T @ per_row / b
    metrics = {
        "critic_loss": (loss_weight * rows["weight"] * delta**2).mean(),
        "q_mean": q.mean(),
        "critic_gradient_norm": critic_norm,
        "actor_loss": (loss_weight * (alpha * log_prob - new_q.min(0))).mean(),
        "actor_gradient_norm": actor_norm,
        "temperature_loss": (log_temperature[task] * per_row).mean(),
    }
    return {
        "margin": min(network.margin for network in (actor, *old_critics, *critics)),
        "metrics": metrics,
        "target_value": y,
        "clipped_gradient": clipped_gradient,
        "priority": np.abs(delta).mean(0),
        "actor": new_actor,
        "critic": critic,
        "target": target,
        "log_temperature": adam(
            log_temperature, temperature_gradient, (0, 0), 1, settings.temperature_lr, settings.adam_eps
        ),
    }


def _tensors(arrays):
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}
