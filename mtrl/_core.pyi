"""The compiled kernels: prioritised multi-task replay and batched ensemble critics (csrc/).

Arrays are NumPy arrays or torch tensors on the CPU, dense and row-major, of exactly the dtype and shape that is said;
float32 where nothing is said. What is written to comes last, is the caller's, and shares no memory with other arrays of
the call. Everything is checked before a pointer is used: TypeError or ValueError name the argument. E critics, B batch
rows, T tasks, D inputs, W width, O outputs, A action size, N any length. tests/mtrl/test_core_stub.py compares this
file with the module.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any] | Tensor
# a flat vector's value, gradient, mean, square [N] each, and the number of the coming step, from 1
Adam: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, int]
Replayed: TypeAlias = tuple[int, int, int, float]  # tasks, seed, draws, alpha by now
# of one task's ring: begin, end and open int64 [3]; row [capacity + 1, stride]; the kept next observation of row i in
# final[i] [capacity + 1, observation]; leaves [capacity + 1], None unless prioritized
Image: TypeAlias = tuple[Array, Array, Array, Array | None]

def instruction_set() -> str:
    """The widest instruction set of this machine that the kernels know: avx512, avx2 or portable."""

def cuda_build() -> dict[str, str] | None:
    """What the CUDA kernels were built with, {'version', 'architectures'}; None in a build without them."""

def matmul_kernel() -> str:
    """What matrix products run on: avx512, avx2, portable or blas."""

def choose_matmul_kernel(name: str) -> None:
    """Makes all products run on this kernel from now on. ValueError if this machine lacks it; RuntimeError while
    another thread computes products."""

def offer_blas(sgemm: Any) -> None:
    """Makes this sgemm the kernel `blas`: a capsule of scipy.linalg.cython_blas, with 32-bit integers."""

def ensemble_linear_workspace(critics: int, rows: int, inputs: int, outputs: int) -> int:
    """Floats of workspace that a layer needs, on the present matrix kernel."""

def ensemble_linear_forward(
    x: Array,
    kernel: Array,
    bias: Array,
    task_row: Array | None,
    task: Array | None,
    y: Array,
    workspace: Array,
) -> None:
    """y [E, B, W] = ReLU(x kernel + bias + task_row[task]); x is [B, D] or [E, B, D], kernel [E, D, W], bias [E, W],
    task_row [E, T, W] with task int64 [B], or neither."""

def ensemble_linear_backward(
    x: Array,
    kernel: Array,
    task_row: Array | None,
    task: Array | None,
    y: Array,
    dy: Array,
    dz: Array,
    dx: Array | None,
    dkernel: Array | None,
    dbias: Array | None,
    dtask_row: Array | None,
    workspace: Array,
) -> None:
    """The gradients of ensemble_linear_forward from y and dy [E, B, W]. dz [E, B, W] is scratch and may be dy; dx is
    [E, B, D], also where x is shared. None leaves a gradient out; dkernel needs dbias and, with tasks, dtask_row."""

def head_gather_workspace(critics: int, rows: int, width: int, outputs: int, tasks: int) -> int:
    """Floats of workspace that the heads need, on the present matrix kernel."""

def head_gather_forward(
    x: Array, kernel: Array, bias: Array, task: Array, y: Array, workspace: Array
) -> None:
    """y [E, B, O] = x kernel[task] + bias[task]; x [E, B, W], kernel [E, T, W, O], bias [E, T, O], task int64 [B]."""

def head_gather_backward(
    x: Array,
    kernel: Array,
    task: Array,
    dy: Array,
    dx: Array | None,
    dkernel: Array | None,
    dbias: Array | None,
    workspace: Array,
) -> None:
    """The gradients of head_gather_forward from dy [E, B, O]; None leaves one out; dkernel and dbias go together."""

def td_target(
    reward: Array,
    terminated: Array,
    next_q: Array,
    log_prob: Array,
    temperature: Array,
    discount: Array,
    target: Array,
) -> None:
    """target = reward + discount (1 - terminated) (min_e next_q - temperature log_prob); next_q [E, B], others [B]."""

def adam_polyak(
    value: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    target: Array | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    clip: float,
    polyak: float,
    steps: int,
) -> float:
    """One Adam step of flat vectors [N] in place, then target += polyak (value - target). Returns the gradient's norm
    before the clip. `steps` counts this step."""

def segment_name(first: int, last: int, checksum: int) -> str:
    """The name of the file with the rows of transitions [first, last). Other content, other name."""

class SacUpdate:
    """A whole SAC update of a multi-head actor and critics; csrc/critic/sac_update.h. Safe from several threads: `act`
    and the update wait for each other."""

    def __init__(
        self, settings: dict[str, float], actor: dict[str, Any], critic: dict[str, Any], threads: int
    ) -> None:
        """See `mtrl.ops.SacUpdate`. ValueError for more threads than this process may use CPUs."""

    def __call__(
        self,
        actor: Adam,
        critic: Adam,
        target: Array,
        log_temperature: Adam,
        observation: Array,
        action: Array,
        reward: Array,
        terminated: Array,
        next_observation: Array,
        task: Array,
        weight: Array,
        discount: Array,
        next_noise: Array,
        noise: Array,
        priority: Array,
    ) -> list[float]:
        """Updates the flat vectors in place, writes priority [B], and returns `mtrl.ops.METRICS`."""

    def act(self, actor: Array, observation: Array, task: Array, noise: Array | None, action: Array) -> None:
        """Writes action [B, A]; deterministic without noise [B, A]."""

class ReplayOutputs:
    """A batch's nine tensors in the order of `mtrl.replay.Batch`, checked once. They are views of `memory`, which
    stays alive as long as this."""

    def __init__(
        self,
        memory: NDArray[np.uint8],
        rows: int,
        observation: int,
        action: int,
        next: int,
        tensors: tuple[Tensor, ...],
    ) -> None:
        """`next` is the width of next_observation where only a part of it is given, else 0."""

    def is_intact(self) -> bool:
        """Whether the tensors still are the views that they were: none was resized or given other memory."""

class ReplayBuffer:
    """The replay of several tasks; csrc/replay/replay_buffer.h. Safe from several threads."""

    def __init__(
        self,
        *,
        tasks: int,
        capacity: int,
        observation: int,
        action: int,
        frame: int,
        mode: str,
        alpha: float,
        beta: float,
        normalization: str,
        n_step: int,
        discount: float,
        seed: int,
        instruction_set: str,
        folder: str,
        next: int,
    ) -> None:
        """See `mtrl.replay.Replay`. `frame` is 0 for full rows; `next` as in ReplayOutputs."""

    def add(
        self,
        observation: Array,
        action: Array,
        reward: Array,
        terminated: Array,
        truncated: Array,
        next_observation: Array,
    ) -> None:
        """One transition per task, [T, ...]: float32 or float64, the two flags bool."""

    def sample(self, counts: Sequence[int], batch: ReplayOutputs) -> None:
        """Writes counts[t] transitions of each task to `batch`; gives the prefetched batch where there is one."""

    def prefetch(self, counts: Sequence[int], batch: ReplayOutputs, on_thread: bool) -> None:
        """Draws the batch that the next `sample` gives, from the buffer as it is now, on a thread of its own or at the
        next call. If `sample` is given the same `batch`, nothing is copied."""

    def prefetched(self) -> list[int]:
        """The counts of the prefetched batch; empty where there is none."""

    def update_priorities(self, id: Array, priority: Array) -> int:
        """Sets priorities [N], float32 or float64, of ids int64 [N]. Returns how many were overwritten since."""

    def set_alpha(self, alpha: float) -> None:
        """The exponent of priorities from now on, also of those that are set."""

    def set_beta(self, beta: float) -> None:
        """The exponent of importance weights from now on."""

    def size(self) -> NDArray[np.int64]:
        """Transitions held of each task [T]."""

    def state(self) -> NDArray[np.uint8]:
        """The checkpoint as bytes."""

    def load_state(self, state: Array) -> None:
        """Takes a checkpoint from bytes. ValueError, with nothing changed, for a damaged one."""

    def settled_rows(self) -> tuple[int, int]:
        """First and one past the last of the transitions whose rows change no more while they are held."""

    def save_rows(self, path: str, first: int, last: int) -> int:
        """Writes a file with the rows of transitions [first, last) of each task; returns its CRC-32."""

    def save(self, path: str, segments: Sequence[tuple[int, int, int]]) -> None:
        """Writes the checkpoint, without the rows that the segments' files (first, last, checksum) hold."""

    def load(self, path: str, folder: str) -> list[tuple[int, int, int]]:
        """Takes a checkpoint from a file and those that it names in `folder`, which are returned."""

    def save_rows_elsewhere(
        self, path: str, first: int, last: int, replay: Replayed, image_of: Callable[[int], Image]
    ) -> int:
        """As save_rows, of a replay that lies elsewhere."""

    def save_elsewhere(
        self,
        path: str,
        segments: Sequence[tuple[int, int, int]],
        replay: Replayed,
        image_of: Callable[[int], Image],
        counts: Sequence[int],
        batch: ReplayOutputs | None,
    ) -> None:
        """Writes the checkpoint of a replay that lies elsewhere, one task after the other. `counts` and `batch` are of
        the batch that it prefetched. This buffer must have one task, and serve nothing else."""

    def elsewhere_state(
        self,
        replay: Replayed,
        image_of: Callable[[int], Image],
        counts: Sequence[int],
        batch: ReplayOutputs | None,
    ) -> NDArray[np.uint8]:
        """The same as bytes."""

    def load_elsewhere(
        self,
        state: str | Array,
        folder: str,
        tasks: int,
        image_of: Callable[[int], Image],
        filled: Callable[[int], None],
    ) -> tuple[Replayed, list[tuple[int, int, int]], list[int]]:
        """Reads a checkpoint, a file's path or bytes, for a replay that lies elsewhere. After all of it is checked, it
        fills image_of(task) and calls filled(task). Returns its numbers, the files of rows that it names, and the
        counts of a prefetched batch."""

    def take_prefetched(self, batch: ReplayOutputs) -> None:
        """Writes the batch that load_elsewhere found."""

    def check(self) -> str:
        """Empty, or what is wrong inside. Slow: for tests."""

class cuda:
    """The submodule of the CUDA kernels, in builds that have them; `cuda_build` says so. Tensors are on one GPU, and
    `stream` is the handle of a CUDA stream. Nothing waits for the GPU; what only it could check is the caller's.
    Workspaces are uint8."""

    @staticmethod
    def td_target_workspace(rows: int) -> int:
        """Bytes that td_target needs where it is given q."""

    @staticmethod
    def td_target(
        reward: Tensor,
        terminated: Tensor,
        next_q: Tensor,
        log_prob: Tensor,
        temperature: Tensor,
        q: Tensor | None,
        weight: Tensor | None,
        discount: Tensor,
        target: Tensor,
        dq: Tensor | None,
        priority: Tensor | None,
        mean: Tensor | None,
        workspace: Tensor | None,
        stream: int,
    ) -> None:
        """The target as on the CPU; with q [E, B] also the loss's gradient dq [E, B], priority [B] and mean [2], the
        critics' loss and mean value."""

    @staticmethod
    def rows_by_task(task: Tensor, start: Tensor, order: Tensor, stream: int) -> None:
        """order [B]: the rows sorted by task, stable; task t's are order[start[t]:start[t + 1]], start [T + 1]."""

    @staticmethod
    def head_gather_forward(
        x: Tensor, kernel: Tensor, bias: Tensor, task: Tensor, y: Tensor, stream: int
    ) -> None:
        """As on the CPU."""

    @staticmethod
    def head_gather_input_gradient(kernel: Tensor, task: Tensor, dy: Tensor, dx: Tensor, stream: int) -> None:
        """dx [E, B, W] from dy [E, B, O]."""

    @staticmethod
    def head_gather_weight_gradient(
        x: Tensor, start: Tensor, order: Tensor, dy: Tensor, dkernel: Tensor, dbias: Tensor, stream: int
    ) -> None:
        """dkernel and dbias; start and order as rows_by_task gives them."""

    @staticmethod
    def ensemble_linear_bias_relu(
        bias: Tensor, task_row: Tensor | None, task: Tensor | None, y: Tensor, stream: int
    ) -> None:
        """y [E, B, W] = ReLU(y + bias + task_row[task]) in place."""

    @staticmethod
    def ensemble_linear_mask(y: Tensor, dy: Tensor, dz: Tensor, stream: int) -> None:
        """dz = dy where y > 0, else 0; [E, B, W] each."""

    @staticmethod
    def ensemble_linear_bias_gradient(
        dz: Tensor,
        start: Tensor | None,
        order: Tensor | None,
        dbias: Tensor,
        dtask_row: Tensor | None,
        workspace: Tensor | None,
        stream: int,
    ) -> None:
        """dbias [E, W] and, with start and order of rows_by_task, dtask_row [E, T, W]; without, it needs workspace."""

    @staticmethod
    def ensemble_linear_workspace(critics: int, rows: int, outputs: int) -> int:
        """Bytes that ensemble_linear_bias_gradient needs without tasks."""

    @staticmethod
    def route_rows(
        q: Tensor, start: Tensor, row: Tensor, least: Tensor, workspace: Tensor, stream: int
    ) -> None:
        """Of q [E, B] the least [B]; critic e's rows are row[start[e]:start[e + 1]], start [E + 1], row [B]."""

    @staticmethod
    def routed_head(
        start: Tensor,
        row: Tensor,
        task: Tensor,
        kernel: Tensor,
        dq: float,
        y: Tensor,
        dz: Tensor,
        stream: int,
    ) -> None:
        """dz [B, W] of the routed rows from the heads kernel [E, T, W, 1], 0 where y [E, B, W] is."""

    @staticmethod
    def routed_layer(
        start: Tensor, row: Tensor, dz: Tensor, kernel: Tensor, y: Tensor | None, dx: Tensor, stream: int
    ) -> None:
        """dx [B, cols] = dz kernel^T, kernel [E, D, W], by each routed row's critic; 0 where y [E, B, cols] is 0."""

    @staticmethod
    def least_gradient(q: Tensor, slope: float, dq: Tensor, least: Tensor, stream: int) -> None:
        """dq [E, B] is `slope` at each row's least q, else 0; least [B]."""

    @staticmethod
    def tanh_gaussian_sample(
        output: Tensor,
        noise: Tensor | None,
        log_std_min: float,
        log_std_max: float,
        action: Tensor,
        log_prob: Tensor | None,
        stream: int,
    ) -> None:
        """Actions into the first columns of action [B, A or more] from output [B, 2 A]; log_prob [B] where there is
        noise [B, A]."""

    @staticmethod
    def tanh_gaussian_backward(
        output: Tensor,
        noise: Tensor,
        log_std_min: float,
        log_std_max: float,
        action: Tensor,
        daction: Tensor,
        dlog_prob: Tensor,
        doutput: Tensor,
        stream: int,
    ) -> None:
        """doutput [B, 2 A] from daction [B, A] and dlog_prob [B]."""

    @staticmethod
    def adam_polyak_workspace(size: int) -> int:
        """Bytes that adam_polyak needs for vectors of `size`."""

    @staticmethod
    def adam_polyak(
        value: Tensor,
        gradient: Tensor,
        mean: Tensor,
        square: Tensor,
        target: Tensor | None,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        clip: float,
        polyak: float,
        steps: Tensor,
        norm: Tensor,
        workspace: Tensor,
        stream: int,
    ) -> None:
        """As on the CPU; steps int64 [1] is how many there were before, norm [1] is written."""

    @staticmethod
    def replay_bytes(tasks: int, capacity: int, observation: int, action: int, prioritized: bool) -> int:
        """Bytes of the memory of a ReplayBuffer."""

    class ReplayBuffer:
        """The replay in a GPU's memory; csrc/replay/replay_buffer.cuh."""

        def __init__(
            self,
            memory: Tensor,
            *,
            tasks: int,
            capacity: int,
            observation: int,
            action: int,
            mode: str,
            alpha: float,
            beta: float,
            normalization: str,
            n_step: int,
            discount: float,
            seed: int,
        ) -> None:
            """A view of `memory`, uint8 [replay_bytes], zeros for an empty replay."""

        def add(
            self,
            observation: Tensor,
            action: Tensor,
            reward: Tensor,
            terminated: Tensor,
            truncated: Tensor,
            next_observation: Tensor,
            stream: int,
        ) -> None:
            """One transition per task, [T, ...]; the flags are bool, each 0 or 1."""

        def sample(self, first: Tensor, batch: tuple[Tensor, ...], workspace: Tensor, stream: int) -> None:
            """Task t gets rows first[t] to first[t + 1] of the batch; first int64 [T + 1]."""

        def sample_workspace(self, rows: int) -> int:
            """Bytes that sample needs."""

        def update_priorities(self, id: Tensor, priority: Tensor, workspace: Tensor, stream: int) -> None:
            """priority [N] of ids int64 [N]; what is wrong goes to the part `report`. Workspace: 4 N bytes."""

        def rebuild(self, stream: int) -> None:
            """The sums of the trees, from leaves that were put into the memory."""

        def set_alpha(self, alpha: float, stream: int) -> None:
            """As on the CPU."""

        def set_beta(self, beta: float) -> None:
            """As on the CPU."""

        def offsets(self) -> dict[str, int]:
            """Where each part of the state begins in the memory, in bytes."""

        @property
        def stride(self) -> int:
            """Floats per row."""

        @property
        def blocks(self) -> int:
            """Blocks of 256 leaves per task."""

    class CublasLt:
        """NVIDIA's cuBLASLt, opened by name."""

        def __init__(self, sonames: Sequence[str]) -> None:
            """The first of these that can be opened; RuntimeError where none can."""

        @property
        def version(self) -> int:
            """As cublasLtGetVersion says."""

    class LtPlan:
        """A product as cuBLASLt chose to compute it."""

        @property
        def workspace(self) -> int:
            """Bytes that cublaslt_run needs."""

    @staticmethod
    def cublaslt_mask_bytes(critics: int, rows: int, width: int) -> int:
        """Bytes of the mask that a forward product leaves for the backward one."""

    @staticmethod
    def cublaslt_choose(
        library: CublasLt,
        backward: bool,
        mask: bool,
        critics: int,
        rows: int,
        width: int,
        tf32: bool,
        device: int,
    ) -> LtPlan:
        """A plan for products of these sizes, forward (with or without a mask) or backward."""

    @staticmethod
    def cublaslt_run(
        library: CublasLt,
        plan: LtPlan,
        left: Tensor,
        kernel: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        out: Tensor,
        workspace: Tensor,
        stream: int,
    ) -> None:
        """Runs the plan; left and out [E, B, W], kernel [E, W, W], bias [E, W]."""
