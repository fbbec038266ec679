"""The kernels as torch operators, against their plain twins differentiated in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl import _core, ops
from mtrl.matmul import choose_matmul
from mtrl.networks import plain
from mtrl.objective import losses

# Products of up to 70 terms of size 1: float32 rounding is 6e-8 a term, and sums over rows add up to 300 of them.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
SIZES = st.sampled_from((1, 2, 5, 15, 16, 17, 31, 33, 48, 64, 70))

KERNELS = ["avx512", "avx2", "portable"]


@pytest.fixture(params=[*KERNELS, "blas"])
def matmul_kernel(request):
    best = choose_matmul("own")
    if request.param == "blas":
        choose_matmul("blas")
    elif KERNELS.index(request.param) < KERNELS.index(best):
        pytest.skip(f"this machine has no {request.param}")
    else:
        _core.choose_matmul_kernel(request.param)
    yield request.param
    choose_matmul("own")


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(function, twin, inputs, *fixed):
    """Outputs and input gradients of the operator in float32 and of its twin in float64."""
    results = []
    for run, dtype in ((function, torch.float32), (twin, torch.float64)):
        leaves = [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
        y = run(*leaves, *fixed)
        y.backward(normal(99, *y.shape).to(dtype))
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    return results


def check(results):
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), theirs, **TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(
    critics=st.integers(1, 4), rows=st.sampled_from((1, 3, 14, 100, 300)), inputs=SIZES, width=SIZES,
    tasks=st.integers(0, 5), shared=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_ensemble_linear_equals_its_twin(critics, rows, inputs, width, tasks, shared, seed):
    x = normal(seed, rows, inputs) if shared else normal(seed, critics, rows, inputs)
    kernel, bias = normal(seed + 1, critics, inputs, width), normal(seed + 2, critics, width)
    if tasks == 0:
        check(both(ops.ensemble_linear, plain.ensemble_linear, (x, kernel, bias)))
        return
    task = torch.randint(tasks, (rows,), generator=torch.Generator().manual_seed(seed))
    row = normal(seed + 3, critics, tasks, width)
    check(both(ops.ensemble_linear, plain.ensemble_linear, (x, kernel, bias, row), task))


@settings(max_examples=40, deadline=None)
@given(
    critics=st.integers(1, 4), rows=st.sampled_from((1, 3, 14, 100, 300)), width=SIZES,
    outputs=st.sampled_from((1, 2, 8, 17)), tasks=st.integers(1, 5), ordered=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_head_gather_equals_its_twin(critics, rows, width, outputs, tasks, ordered, seed):
    task = torch.randint(tasks, (rows,), generator=torch.Generator().manual_seed(seed))
    task = task.sort().values if ordered else task
    inputs = (
        normal(seed, critics, rows, width),
        normal(seed + 1, critics, tasks, width, outputs),
        normal(seed + 2, critics, tasks, outputs),
    )
    check(both(ops.head_gather, plain.head_gather, inputs, task))


def test_every_matrix_kernel_gives_the_twins_numbers(matmul_kernel):
    assert _core.matmul_kernel() == matmul_kernel
    for rows, inputs, width in ((3, 5, 7), (33, 300, 17), (300, 43, 520), (29, 513, 16)):
        tensors = (normal(0, 2, rows, inputs), normal(1, 2, inputs, width), normal(2, 2, width))
        ours, theirs = both(ops.ensemble_linear, plain.ensemble_linear, tensors)
        for mine, twin in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.double(), twin, rtol=1e-4, atol=1e-3)


@given(
    critics=st.integers(1, 16),
    rows=st.integers(1, 40),
    seed=st.integers(0, 100),
)
@settings(max_examples=30, deadline=None)
def test_td_target_equals_its_twin(critics, rows, seed):
    columns = [normal(seed + i, rows) for i in range(4)]
    terminated = (columns[1] > 0).float()
    next_q = normal(seed + 9, critics, rows)
    arguments = (columns[0], terminated, next_q, columns[2], columns[3].exp(), columns[0].sigmoid())
    torch.testing.assert_close(ops.td_target(*arguments), losses.td_target(*arguments))


def arguments():
    """Small inputs for each operator, with gradients where it is differentiable."""
    task = torch.tensor([0, 1, 1, 0])
    linear = [
        t.requires_grad_() for t in (normal(0, 4, 3), normal(1, 2, 3, 5), normal(2, 2, 5), normal(3, 2, 2, 5))
    ]
    head = [t.requires_grad_() for t in (normal(0, 2, 4, 5), normal(1, 2, 2, 5, 3), normal(2, 2, 2, 3))]
    column = normal(4, 4)
    return {
        "ensemble_linear": (*linear, task),
        "ensemble_linear_backward": (
            linear[0], linear[1], linear[3], task, normal(5, 2, 4, 5), normal(6, 2, 4, 5), True, True,
        ),
        "head_gather": (*head, task),
        "head_gather_backward": (head[0], head[1], task, normal(5, 2, 4, 3), True, True),
        "td_target": (column, column, normal(5, 2, 4), column, column, column),
    }  # fmt: skip


@pytest.mark.parametrize("name", arguments())
def test_opcheck(name):
    given = arguments()[name]
    if "backward" in name:
        given = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in given)
    torch.library.opcheck(getattr(torch.ops.mtrl, name).default, given)


def test_compile_sees_one_graph():
    *linear, task = arguments()["ensemble_linear"]
    _, kernel, bias, _ = arguments()["head_gather"]

    def network(x):
        return ops.head_gather(ops.ensemble_linear(x, *linear[1:], task), kernel, bias, task).sum()

    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x, twin = (linear[0].detach().clone().requires_grad_() for _ in range(2))
    compiled(x).backward()
    network(twin).backward()
    torch.testing.assert_close(x.grad, twin.grad)


def test_wrong_input_is_named_before_it_is_touched():
    x, kernel, bias, row, task = (t.detach() for t in arguments()["ensemble_linear"])
    with pytest.raises(ValueError, match=r"task\[2\] is 7; there are 2 tasks"):
        ops.ensemble_linear(x, kernel, bias, row, torch.tensor([0, 1, 7, 0]))
    with pytest.raises(ValueError, match="x has shape"):
        ops.ensemble_linear(x[:, :2], kernel, bias, row, task)
    with pytest.raises(ValueError, match="task_row and task go together"):
        ops.ensemble_linear(x, kernel, bias, row, None)
    with pytest.raises(TypeError, match="kernel has dtype float64; expected float32"):
        ops.ensemble_linear(x, kernel.double(), bias, row, task)
    with pytest.raises(TypeError, match="task has dtype int32; expected int64"):
        ops.ensemble_linear(x, kernel, bias, row, task.int())
    with pytest.raises(ValueError, match="no matrix kernel 'avx1024'"):
        _core.choose_matmul_kernel("avx1024")


def sparse(x):
    return x.to_sparse()


def other_dtype(x):
    return x.int() if x.dtype == torch.int64 else x.double()


def one_more(x):
    return torch.cat((x, x[..., :1]), -1)


# What no kernel takes, and what it says of it: torch's own dispatcher answers for sparse tensors.
WRONG = {
    "meta": (
        lambda x: x.to("meta"),
        ValueError,
        "({name} is on meta|{name} on meta).*pass all tensors on one",
    ),
    "sparse": (sparse, NotImplementedError, "Could not run 'mtrl::{operator}'.*Sparse"),
    "dtype": (other_dtype, TypeError, "{name} has dtype (float64|int32); expected (float32|int64)"),
    "shape": (one_more, ValueError, r"has shape \[.*\]; expected \["),
}
TENSORS = [
    (operator, place)
    for operator, values in arguments().items()
    for place, value in enumerate(values)
    if isinstance(value, torch.Tensor)
]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("operator", "place"), TENSORS)
def test_no_tensor_of_another_kind_reaches_a_kernel(operator, place, wrong):
    function = getattr(torch.ops.mtrl, operator).default
    given = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments()[operator]]
    change, error, message = WRONG[wrong]
    given[place] = change(given[place])
    name = function._schema.arguments[place].name
    with pytest.raises(error, match=message.format(name=name, operator=operator)):
        function(*given)


def test_meta_tensors_alone_give_shapes():
    for operator, values in arguments().items():
        meta = [x.detach().to("meta") if isinstance(x, torch.Tensor) else x for x in values]
        function = getattr(torch.ops.mtrl, operator).default
        real = function(*(x.detach() if isinstance(x, torch.Tensor) else x for x in values))
        got = function(*meta)
        for one, other in zip(*((y if isinstance(y, tuple) else (y,)) for y in (got, real)), strict=True):
            assert one.device.type == "meta"
            assert one.shape == other.shape


def one_byte_off(x: torch.Tensor) -> torch.Tensor:
    memory = np.zeros(x.nbytes + 1, np.uint8)
    array = memory[1:].view(np.float32)
    array[:] = x.numpy()
    return torch.from_numpy(array)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.to("meta"), ValueError, r"{name} has no memory \(a meta or fake tensor\)"),
        (sparse, ValueError, r"{name} has the layout torch\.sparse_coo; pass \.to_dense\(\)"),
        (lambda x: x.to_mkldnn(), ValueError, r"{name} has the layout torch\._mkldnn; pass \.to_dense\(\)"),
        (torch.Tensor.double, TypeError, "{name} has dtype float64; expected float32"),
        (torch.Tensor.half, TypeError, "{name} has dtype torch.float16; expected float32"),
        (lambda x: x.view(2, 4), ValueError, r"{name} has shape \[2, 4\]; expected"),
        (lambda x: x.repeat(2)[::2], ValueError, "{name} is not contiguous; pass a contiguous copy"),
        (
            one_byte_off,
            ValueError,
            "{name} does not start at a multiple of its 4 bytes in memory; pass a copy",
        ),
    ],
)
def test_adam_names_the_vector_that_is_of_another_kind(place, change, error, message):
    names = ("value", "gradient", "mean", "square", "target")
    vectors = [normal(i, 8) for i in range(5)]
    before = [vector.clone() for vector in vectors]
    vectors[place] = change(vectors[place])
    value, gradient, mean, square, target = vectors
    with pytest.raises(error, match=message.format(name=names[place])):
        ops.adam_polyak(value, gradient, (mean, square), target, 0.1, (0.9, 0.999), 1e-5, 0.0, 1.0, 0.005, 1)
    for i, vector in enumerate(vectors):
        assert i == place or torch.equal(vector, before[i]), "nothing was changed"


@given(
    n=st.integers(1, 100),
    seed=st.integers(0, 100),
    clip=st.sampled_from((1e-3, 1.0, float("inf"))),
    weight_decay=st.sampled_from((0.0, 0.3)),
)
@settings(max_examples=30, deadline=None)
def test_adam_polyak_equals_torch(n, seed, clip, weight_decay):
    value, target = normal(seed, n), normal(seed + 1, n)
    mean, square = torch.zeros(n), torch.zeros(n)
    leaf = value.double().requires_grad_()
    twin = torch.optim.AdamW([leaf], lr=0.1, eps=1e-5, weight_decay=weight_decay)
    slow = target.double()
    for step in range(1, 6):
        gradient = normal(seed + 10 * step, n)
        norm = ops.adam_polyak(
            value, gradient, (mean, square), target, 0.1, (0.9, 0.999), 1e-5, weight_decay, clip, 0.005, step
        )
        leaf.grad = gradient.double() * min(1.0, clip / norm)
        twin.step()
        slow.lerp_(leaf.detach(), 0.005)
        assert norm == pytest.approx(float(gradient.double().norm()), rel=1e-6)
    # Single precision over five steps of 0.1.
    torch.testing.assert_close(value.double(), leaf.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target.double(), slow, rtol=1e-5, atol=1e-6)
