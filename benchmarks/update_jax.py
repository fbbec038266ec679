"""The SAC update in JAX, for bench_update.py: `python update_jax.py CRITICS WIDTH BATCH TASKS THREADS cpu|cuda`.

An empty line on standard input starts an update. `wait` waits for those that were started, and answers with the CPU
seconds that they took. Critics are mapped with vmap, and the whole update is one jitted function, as in the paper's own
code.
"""

import os
import sys
import time
from itertools import pairwise

critics, width, batch, tasks, threads = map(int, sys.argv[1:6])
os.environ["JAX_PLATFORMS"] = platform = sys.argv[6]
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the other peers are on the same GPU
os.environ["XLA_FLAGS"] = (
    "" if threads > 1 else "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
if platform == "cpu" and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

draw = np.random.default_rng(0)


def network(inputs, outputs, critics=None):
    sizes = [inputs + tasks, width, width, width, tasks * outputs]
    lead = () if critics is None else (critics,)
    return [
        (draw.uniform(-1, 1, (*lead, a, b)).astype("f4") * (6 / a) ** 0.5, np.zeros((*lead, b), "f4"))
        for a, b in pairwise(sizes)
    ]


def forward(layers, x, task, outputs):
    h = jnp.concatenate((x, jax.nn.one_hot(task, tasks)), 1)
    for i, (kernel, bias) in enumerate(layers):
        h = h @ kernel + bias
        h = jax.nn.relu(h) if i < len(layers) - 1 else h
    every = h.reshape(len(x), tasks, outputs)
    return jnp.take_along_axis(every, task[:, None, None], 1)[:, 0]


def values(critics, x, task):
    return jax.vmap(lambda layers: forward(layers, x, task, 1)[:, 0])(critics)


def sample(actor, observation, task, noise):
    mean, log_std = jnp.split(forward(actor, observation, task, 8), 2, axis=1)
    log_std = jnp.clip(log_std, -20, 2)
    u = mean + jnp.exp(log_std) * noise
    density = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    return jnp.tanh(u), (density - 2 * (jnp.log(2) - u - jax.nn.softplus(-2 * u))).sum(1)


clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-4, eps=1e-5))
free = optax.adam(3e-4, eps=1e-5)


@jax.jit
def update(state, rows, key):
    actor, critic, target, log_temperature, states = state
    observation, action, reward, next_observation, task = rows
    noises = jax.random.normal(key, (2, batch, 4))
    temperature = jnp.exp(log_temperature)[task]
    next_action, next_log_prob = sample(actor, next_observation, task, noises[0])
    next_q = values(target, jnp.concatenate((next_action, next_observation), 1), task)
    y = reward + 0.99 * (next_q.min(0) - temperature * next_log_prob)

    def critic_loss(critic):
        return ((values(critic, jnp.concatenate((action, observation), 1), task) - y) ** 2).mean()

    change, critic_state = clipped.update(jax.grad(critic_loss)(critic), states[0])
    critic = optax.apply_updates(critic, change)
    target = optax.incremental_update(critic, target, 0.005)

    def actor_loss(actor):
        new, log_prob = sample(actor, observation, task, noises[1])
        q = values(critic, jnp.concatenate((new, observation), 1), task).min(0)
        return (temperature * log_prob - q).mean(), log_prob

    slope, log_prob = jax.grad(actor_loss, has_aux=True)(actor)
    change, actor_state = clipped.update(slope, states[1])
    actor = optax.apply_updates(actor, change)
    slope = jax.grad(lambda x: -(x[task] * (log_prob - 4.0)).mean())(log_temperature)
    change, temperature_state = free.update(slope, states[2])
    log_temperature = optax.apply_updates(log_temperature, change)
    return actor, critic, target, log_temperature, (critic_state, actor_state, temperature_state)


actor, critic = network(39, 8), network(43, 1, critics)
heat = np.zeros(tasks, "f4")
state = (actor, critic, critic, heat, (clipped.init(critic), clipped.init(actor), free.init(heat)))
normal = lambda *shape: draw.normal(size=shape).astype("f4")  # noqa: E731
task = np.repeat(np.arange(tasks), batch // tasks)
rows = jax.device_put(
    (normal(batch, 39), np.tanh(normal(batch, 4)), abs(normal(batch)), normal(batch, 39), task)
)
key = jax.random.key(0)
start = None
for line in sys.stdin:
    if line == "wait\n":
        jax.block_until_ready(state)
        print(time.process_time() - start, flush=True)
        start = None
        continue
    key, now = jax.random.split(key)
    start = start or time.process_time()
    state = update(state, rows, now)
