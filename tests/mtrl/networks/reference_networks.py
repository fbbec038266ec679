"""The networks of PAPER §1 row by row, layer by layer, in numpy float64: slow and obvious, to check the modules.

Each function gives the output of one network (the actor, or one critic) for one row `x` of one task, from that
network's parameters by name. Dense one-hots enter as the paper writes them; nothing is shared with the library.
"""

from __future__ import annotations

import numpy as np


def relu(x):
    return np.where(x > 0, x, 0.0)


def linear(x, kernel, bias):
    out = np.array(bias, dtype=float)
    for i in range(len(x)):
        out = out + x[i] * kernel[i]
    return out


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def layer_norm(x, scale, shift):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * scale + shift


def mlp(p, name, x, critic=None):
    """Linear layers `name.linear.i`, ReLU between them; `critic` picks one of several that are stacked."""
    layers = sorted(
        int(key.split(".")[-2]) for key in p if key.startswith(f"{name}.linear.") and "kernel" in key
    )
    for i in layers:
        kernel, bias = p[f"{name}.linear.{i}.kernel"], p[f"{name}.linear.{i}.bias"]
        x = linear(x, *((kernel, bias) if critic is None else (kernel[critic], bias[critic])))
        if i != layers[-1]:
            x = relu(x)
    return x


def trunk(p, shape, x, task):
    """Hidden layers over [x, one-hot] or [x, embedding]; the kernel's last rows are those of the task's part."""
    if "embedding" in p:
        rows, inputs = p["embedding_kernel"], np.concatenate([x, p["embedding"][task]])
    else:
        rows, inputs = p["task_row"], np.concatenate([x, np.eye(len(p["task_row"]))[task]])
    h = linear(inputs, np.concatenate([p["kernel.0"], rows]), p["bias.0"])
    lin = lambda i, y: linear(y, p[f"kernel.{i}"], p[f"bias.{i}"])  # noqa: E731
    norm = lambda i, y: layer_norm(y, p[f"scale.{i}"], p[f"shift.{i}"])  # noqa: E731
    if shape.block == "plain":
        h = relu(h)
        for i in range(1, shape.depth):
            h = relu(lin(i, h))
    elif shape.block == "layer_norm":
        h = relu(norm(0, h))
        for i in range(1, shape.depth):
            h = relu(norm(i, lin(i, h)))
    elif shape.block == "brc":
        h = relu(norm(0, h))
        for b in range(shape.depth):
            inner = relu(norm(2 * b + 1, lin(2 * b + 1, h)))
            h = h + norm(2 * b + 2, lin(2 * b + 2, inner))
    else:
        for b in range(shape.depth):
            h = h + lin(2 * b + 2, relu(lin(2 * b + 1, norm(b, h))))
        h = norm(shape.depth, h)
    return h


def mtmhsac(p, shape, x, task):
    return linear(trunk(p, shape, x, task), p["head_kernel"][task], p["head_bias"][task])


def mtsac(p, shape, x, task):
    return linear(trunk(p, shape, x, task), p["head.kernel"], p["head.bias"])


def soft_modularization(p, shape, x, task):
    modules, layers = shape.experts, shape.depth
    f = mlp(p, "observation", x)
    z = linear(np.eye(len(p["task.kernel"]))[task], p["task.kernel"], p["task.bias"])
    e = mlp(p, "embedding", relu(z * f))
    h = [relu(f) for _ in range(modules)]
    flat = np.zeros(0)
    for layer in range(layers):
        last = layer == layers - 1
        conditioned = e
        if layer:
            name = f"condition.{layer - 1}"
            conditioned = e * linear(flat, p[f"{name}.kernel"], p[f"{name}.bias"])
        logits = linear(relu(conditioned), p[f"route_kernel.{layer}"], p[f"route_bias.{layer}"])
        rows = 1 if last else modules
        weights = [softmax(logits[i * modules : (i + 1) * modules]) for i in range(rows)]
        y = [
            linear(h[j], p[f"module.{layer}.kernel"][j], p[f"module.{layer}.bias"][j]) for j in range(modules)
        ]
        h = [relu(sum(weights[i][j] * y[j] for j in range(modules))) for i in range(rows)]
        flat = np.concatenate([flat, *weights])
    return linear(h[0], p["head.kernel"], p["head.bias"])


def paco(p, shape, x, task):
    w = linear(np.eye(len(p["mixture.kernel"]))[task], p["mixture.kernel"], p["mixture.bias"])
    for i in range(shape.depth + 1):
        x = sum(w[k] * linear(x, p[f"kernel.{i}"][k], p[f"bias.{i}"][k]) for k in range(shape.experts))
        if i < shape.depth:
            x = relu(x)
    return x


def moore(p, shape, x, task):
    experts = [mlp(p, "expert", x, k) for k in range(shape.experts)]
    basis = []
    for v in experts:
        u = v - sum((v @ b) * b for b in basis)
        basis.append(u / (np.sqrt((u**2).sum()) + 1e-8))
    mixed = np.tanh(sum(p["mixture"][task][n] * basis[n] for n in range(shape.experts)))
    return linear(mixed, p["head_kernel"][task], p["head_bias"][task])


def care(p, shape, x, task):
    context = mlp(p, "context", relu(p["embedding"][task]))
    attention = softmax(mlp(p, "attention", context))
    encoding = sum(attention[k] * mlp(p, "expert", x, k) for k in range(shape.experts))
    return mlp(p, "torso", np.concatenate([encoding, context]))


def film(p, shape, x, task):
    context = relu(p["embedding"][task])
    numbers = mlp(p, "modulation", context)
    for i in range(3):
        x = linear(x, p[f"encoder.linear.{i}.kernel"], p[f"encoder.linear.{i}.bias"])
        if i < 2:
            x = relu(x)
        gamma, beta = numbers[2 * i], numbers[2 * i + 1]
        x = gamma * x + beta
    return mlp(p, "torso", np.concatenate([x, context]))


FORWARD = {
    "mtmhsac": mtmhsac,
    "mtsac": mtsac,
    "sac": mtsac,
    "soft_modularization": soft_modularization,
    "paco": paco,
    "moore": moore,
    "care": care,
    "film": film,
}
STACKED = ("module.", "expert.")  # parameters whose first axis is critics times experts


def parameters(network, critic, shape):
    """The parameters of one critic, float64, by name."""
    taken = {}
    for name, value in network.state_dict().items():
        array = value.double().numpy()
        if name.startswith(STACKED):
            array = array.reshape(-1, shape.experts, *array.shape[1:])
        taken[name] = array[critic]
    return taken


def forward(network, critics, shape, x, task):
    """Outputs [E, B, O] of a network for rows x [B, D] of tasks [B]."""
    taken = [parameters(network, critic, shape) for critic in range(critics)]
    rows = [[FORWARD[shape.kind](p, shape, x[b], task[b]) for b in range(len(x))] for p in taken]
    return np.array(rows)
