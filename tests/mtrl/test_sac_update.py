"""The fused update against the plain twin that torch differentiates in float64: errors, gradients, 50 steps, sizes."""

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from mtrl import ops
from mtrl.agent import Agent
from mtrl.overrides import build_config
from tests.mtrl.agents import Rows, make_batch, noises
from tests.mtrl.reference_critic import first_update

pytestmark = pytest.mark.usefixtures("one_thread")

# Single precision rounds by 6e-8 of what it adds up. Over a gradient's sums of thousands of products such errors
# grow like a square root, so a hundred of them is generous; a wrong term is worth thousands.
ROUNDING = 6e-6


def in_double(agent):
    """The plain twin in float64: the state of `agent`, and the same draws to come."""
    torch.set_default_dtype(torch.float64)
    try:
        config = agent.config.model_copy(
            update={"agent": agent.config.agent.model_copy(update={"backend": "torch"})}
        )
        twin = Agent(config)
    finally:
        torch.set_default_dtype(torch.float32)
    twin.load_state_dict(agent.state_dict())
    draw = twin.update_noise.draw
    twin.update_noise.draw = lambda *shape: draw(*shape).double()
    assert twin.critic_adam.value.dtype == torch.float64
    return twin


def build(critics, depths, width, tasks, seed=0):
    """An agent of `tasks` tasks, which may be more than Meta-World's 50."""
    overrides = {
        "env.tasks": "reach-v3",
        "agent.critics": critics,
        "train.seed": seed,
        "network.actor.width": width,
        "network.critic.width": width,
        "network.actor.depth": depths[0],
        "network.critic.depth": depths[1],
    }
    config = build_config("paper", overrides)
    env = config.env.model_copy(update={"tasks": tuple(f"task {i}" for i in range(tasks))})
    return Agent(config.model_copy(update={"env": env}))


def double(batch):
    return Rows(*(c.double() if c.is_floating_point() else c for c in batch))


def relative(ours, theirs):
    """The largest difference, as a share of the largest number."""
    return float((ours.double() - theirs).abs().max() / theirs.abs().max())


def check_one_update(agent, batch, tolerance):
    """Errors, losses and every gradient of one update."""
    agent.target_value.mul_(0.9)  # away from the critic, so that taking one for the other shows
    twin = in_double(agent)
    ours, theirs = agent.update(batch), twin.update(double(batch))
    assert relative(ours.priority, theirs.priority) < tolerance
    for adam in ("critic_adam", "actor_adam", "temperature_adam"):
        assert relative(getattr(agent, adam).gradient, getattr(twin, adam).gradient) < tolerance, adam
    for name, value in ours.metrics.items():
        assert value == pytest.approx(theirs.metrics[name], rel=tolerance, abs=tolerance), name


SHAPES = {
    "critics": st.integers(1, 16),
    "depths": st.tuples(st.integers(1, 6), st.integers(1, 6)),
    "width": st.integers(8, 70),
    "tasks": st.integers(1, 64),
    "per_task": st.integers(1, 9),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=25, deadline=None)
@given(**SHAPES, ended=st.sampled_from((0.0, 0.5)))
def test_errors_and_gradients_equal_autograd_in_float64(critics, depths, width, tasks, per_task, seed, ended):
    agent = build(critics, depths, width, tasks, seed)
    batch = make_batch(tasks, per_task, seed, terminated=ended)
    expected = first_update(agent.state_dict(), batch, *noises(agent, len(batch.reward)), agent.config.agent)
    assume(expected["margin"] > 2e-6)  # beside a ReLU's kink the two precisions rightly differ
    check_one_update(agent, batch, ROUNDING)


@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(**SHAPES)
def test_parameters_stay_with_autograd_in_float64_for_fifty_updates(
    critics, depths, width, tasks, per_task, seed
):
    agent = build(critics, depths, width, tasks, seed)
    twin, start = in_double(agent), in_double(agent)
    for step in range(50):
        batch = make_batch(tasks, per_task, seed + step, terminated=0.2)
        agent.update(batch)
        twin.update(double(batch))
    for name in ("critic_adam", "actor_adam", "temperature_adam"):
        ours, theirs, first = (getattr(one, name).value.double() for one in (agent, twin, start))
        # A share of the way gone. Training magnifies rounding: rows cross kinks, and Adam takes steps of lr for
        # gradients near its eps as well. A wrong gradient goes another way altogether.
        assert (ours - theirs).norm() < 0.02 * (theirs - first).norm(), name
    away = (agent.target_value.double() - twin.target_value).norm()
    assert away < 0.02 * (twin.target_value - start.target_value).norm()


SIZES = {  # critics, depths of actor and critic, width, tasks, rows per task
    "the most critics, layers and tasks": (16, (6, 6), 8, 64, 2),
    "one of each": (1, (1, 1), 8, 1, 1),
    "a large batch": (2, (2, 1), 8, 16, 4096),
    "a large odd batch": (1, (1, 2), 9, 1, 65_521),
    "a wide layer": (2, (1, 1), 8192, 3, 5),
    "wide odd layers": (2, (2, 2), 1031, 3, 31),
}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_from_end_to_end_of_the_range(size):
    *shape, per_task = SIZES[size]
    batch = make_batch(shape[3], per_task, seed=1)
    # Among a million of units a few stand on their kinks, and each moves a gradient by one row's share.
    check_one_update(build(*shape), batch, ROUNDING if len(batch.reward) < 1000 else 1e-4)


@pytest.mark.slow  # 6 GB
def test_the_widest_layers():
    check_one_update(build(1, (2, 2), 8192, 1), make_batch(1, 7, seed=1), ROUNDING)


def step_of(agent, batch):
    """The tensors of one fused step by name, and the call that takes them."""
    adams = {
        "actor": agent.actor_adam,
        "critic": agent.critic_adam,
        "log_temperature": agent.temperature_adam,
    }
    parts = ("", "'s gradient", "'s mean", "'s square")
    tensors = {
        name + part: x for name, adam in adams.items() for part, x in zip(parts, adam.flat()[:4], strict=True)
    }
    tensors |= {"target": agent.target_value, **batch._asdict()}
    rows = len(batch.reward)
    tensors |= {"next_noise": torch.zeros(rows, 4), "noise": torch.zeros(rows, 4)}

    def step(tensors, steps=1):
        flats = [(*(tensors[name + part] for part in parts), steps) for name in adams]
        columns = tuple(tensors[name] for name in batch._fields)
        noise = (tensors["next_noise"], tensors["noise"])
        return agent.fused(*flats[:2], tensors["target"], flats[2], columns, noise)

    return tensors, step


STEP = tuple(step_of(build(2, (1, 1), 8, 2), make_batch(2, 3))[0])


@pytest.mark.parametrize("name", STEP)
def test_no_tensor_of_another_kind_reaches_the_step(name):
    tensors, step = step_of(build(2, (1, 1), 8, 2), make_batch(2, 3))
    before = {key: x.clone() for key, x in tensors.items()}
    right = tensors[name]
    for wrong, error, message in (
        (right.to("meta"), ValueError, "has no memory"),
        (right.to_sparse(), ValueError, "has the layout torch.sparse_coo"),
        (right.half(), TypeError, "has dtype torch.float16"),
        (right.int(), TypeError, "has dtype int32; expected (float32|int64)"),
        (torch.cat((right, right))[::2], ValueError, "is not contiguous"),
        (right[None], ValueError, r"has shape \[1, .*\]; expected"),
        (right[:-1].clone(), ValueError, "(has shape|has .* numbers; expected)"),
    ):
        with pytest.raises(error, match=f"{name if wrong.shape == right.shape else ''}.* {message}"):
            step({**tensors, name: wrong})
    assert all(torch.equal(tensors[key], x) for key, x in before.items()), "nothing was changed"
    step(tensors)
    assert not torch.equal(tensors["actor"], before["actor"]), "the step is right otherwise"


def test_a_step_counts_from_one():
    tensors, step = step_of(build(1, (1, 1), 8, 1), make_batch(1, 3))
    with pytest.raises(ValueError, match="actor's step is 0; the first step is 1"):
        step(tensors, steps=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0, "start": [0, 16, 32]}, "depth is 0; the least is 1"),
        ({"width": 0}, "width is 0; the least is 1"),
        ({"critics": -2}, "critics is -2; the least is 1"),
        ({"start": [0, 16, 32, 48, -64]}, r"start\[4\] is -64; the least is 0"),
        ({"start": [0, 16]}, "start has 2 entries; expected 5"),
        ({"tasks": 3}, "the shapes of actor and critic do not belong together"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    numbers = dict.fromkeys([*ops.SAC_SETTINGS, "beta1", "beta2"], 0.1)
    shape = {"tasks": 1, "width": 8, "depth": 1, "start": [0, 16, 128, 144, 512]}
    actor, critic = (
        {"critics": 1, "inputs": 39, "outputs": 8, **shape},
        {"critics": 2, "inputs": 43, "outputs": 1, **shape},
    )
    ops.SacUpdate(numbers, actor, critic, 1)
    with pytest.raises(ValueError, match=message):
        ops.SacUpdate(numbers, actor, critic | changes, 1)
    for name in numbers:
        with pytest.raises(ValueError, match=f"no '{name}' is given"):
            ops.SacUpdate({key: x for key, x in numbers.items() if key != name}, actor, critic, 1)
