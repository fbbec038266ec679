"""CUDA's streams, current device and graphs on the host, for tests of what stands above them in Python.

The run is on GPU 1 here, and GPU 0 is the current one, as in `run.device=cuda:1`: what is captured without a stream of
GPU 1 is not captured at all, as torch has it.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from mtrl.cuda.replay import _Staging

OWN = 1  # the GPU that the CPU's tensors stand for
WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh")
RECORDED = ("add", "sample", "update_priorities", "rebuild", "set_alpha")  # of a replay
STARTS_NOTHING = (
    "launches",
    "workspace",
    "cublaslt_choose",
    "cublaslt_mask_bytes",
    "replay_bytes",
    "CublasLt",
)


def index_of(device: Any) -> int:
    return int(device) if isinstance(device, int) else OWN


class Stream:
    _handles = itertools.count(16)

    def __init__(self, device: Any = None) -> None:
        self.index = CudaOnHost.current if device is None else index_of(device)
        self.cuda_stream = next(self._handles)

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


class CudaOnHost:
    """What `torch.cuda` remembers. `fault` is what goes wrong at the end of a capture."""

    current = 0

    def __init__(self) -> None:
        CudaOnHost.current = 0
        self.streams = {0: Stream(0), OWN: Stream(OWN)}
        self.first = self.streams[0]
        self.graphs: list[Recorder] = []
        self.capturing: Recorder | None = None
        self.in_capture = False  # of whatever device
        self.fault = ""
        self.kernels: Any = None
        self.products = 0  # of cuBLASLt, started
        self.replayed = 0  # kernels and products that graphs started

    def started(self) -> int:
        """How many of our kernels and of cuBLASLt's products were started."""
        return int(self.kernels.launches()) + self.products

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before, CudaOnHost.current = CudaOnHost.current, index_of(device)
        try:
            yield
        finally:
            CudaOnHost.current = before

    def current_stream(self, device: Any = None) -> Stream:
        return self.streams[CudaOnHost.current if device is None else index_of(device)]

    def set_stream(self, stream: Stream) -> None:
        CudaOnHost.current = stream.index
        self.streams[stream.index] = stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, device = self.streams[stream.index], CudaOnHost.current
        self.set_stream(stream)
        try:
            yield
        finally:
            self.streams[stream.index], CudaOnHost.current = before, device

    def make_graph(self) -> Recorder:
        self.graphs.append(Recorder(self))
        return self.graphs[-1]

    @contextmanager
    def graph(self, graph: Recorder, stream: Stream | None = None) -> Iterator[None]:
        """As torch.cuda.graph: where ending the capture fails, the capture's stream stays the current one."""
        on = Stream() if stream is None else stream
        before, device = self.streams[on.index], CudaOnHost.current
        self.set_stream(on)
        if on.index != OWN:  # other work is captured than is done
            self.in_capture = True
            try:
                yield
            finally:
                self.in_capture = False
            warnings.warn("The CUDA Graph is empty", UserWarning, stacklevel=2)
        else:
            self.capturing = graph
            try:
                with graph:
                    yield
                if self.fault:
                    raise RuntimeError(self.fault)
            except RuntimeError:
                graph.undo()
                self.capturing = None
                raise RuntimeError("operation failed due to a previous error during capture") from None
            self.capturing = None
            graph.undo()  # capturing does nothing
        self.streams[on.index], CudaOnHost.current = before, device


class Recorder(TorchDispatchMode):
    """A CUDA graph for the host: remembers every operation on tensors and every kernel that was started, with the very
    tensors, undoes what they did, and can do them again. Python in between is not done again, as in a real graph."""

    def __init__(self, cuda: CudaOnHost) -> None:
        super().__init__()
        self._cuda = cuda
        self.work: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self._before: dict[int, tuple[Any, Any]] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.remember((*args, *kwargs.values()))
        result = func(*args, **kwargs)
        if any(part in func.name() for part in ASKING):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func.name()}")
        outputs = result if isinstance(result, list | tuple) else (result,)
        given = (*args, *kwargs.values())
        fresh = [x if isinstance(x, Tensor) and not any(x is y for y in given) else None for x in outputs]
        if not func.is_view:
            self.work.append((func, args, kwargs, fresh))
            self._made.update(x.untyped_storage().data_ptr() for x in fresh if x is not None)
        return result

    def remember(self, values: Any) -> None:
        """Keeps what tensors from before the capture hold."""
        for value in values:
            if isinstance(value, list | tuple):
                self.remember(value)
            elif isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage.data_ptr() not in self._made:
                    self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def undo(self) -> None:
        for storage, before in self._before.values():
            if storage.data_ptr() not in self._made:
                storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        before = self._cuda.started()
        with _disable_current_modes():
            for func, args, kwargs, fresh in self.work:
                again = func(*args, **kwargs)
                outputs = again if isinstance(again, list | tuple) else (again,)
                for held, output in zip(fresh, outputs, strict=False):
                    if held is not None and "empty" not in func.name():
                        held.copy_(output)
        self._cuda.replayed += self._cuda.started() - before


class RecordedKernels:
    """The kernels; a capture learns of those that are started on its stream."""

    def __init__(self, kernels: Any, cuda: CudaOnHost) -> None:
        self._kernels, self._cuda = kernels, cuda
        cuda.kernels = kernels

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._kernels, name)
        if name == "cublaslt_run":
            self._cuda.products += 1
        if name == "ReplayBuffer":
            return lambda memory, **shape: RecordedReplay(kernel(memory, **shape), memory, self._cuda)
        return kernel if name.endswith(STARTS_NOTHING) else recorded(kernel, self._cuda, ())


class RecordedReplay:
    """A replay in the memory of a GPU; a capture learns of its kernels."""

    def __init__(self, replay: Any, memory: Tensor, cuda: CudaOnHost) -> None:
        self._replay, self._memory, self._cuda = replay, memory, cuda

    def __getattr__(self, name: str) -> Any:
        part = getattr(self._replay, name)
        return recorded(part, self._cuda, (self._memory,)) if name in RECORDED else part


def recorded(kernel: Any, cuda: CudaOnHost, more: tuple[Tensor, ...]) -> Any:
    def start(*args: Any) -> Any:
        graph = cuda.capturing
        if graph is not None:
            assert args[-1] == cuda.streams[OWN].cuda_stream, "a kernel was started on another stream"
            with _disable_current_modes():
                graph.remember((*args, *more))
            graph.work.append((kernel, args, {}, []))
        return kernel(*args)

    return start


class StartedKernels:
    """The kernels, and the names of those that were started."""

    def __init__(self, kernels: Any) -> None:
        self._kernels, self.names = kernels, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self._kernels, name)


class LaunchCounter(TorchDispatchMode):
    """Counts torch's operations that start a kernel or a copy on a GPU: one for each that is no view and no room."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and not any(
            word in func.name() for word in ("empty", "detach", "_unsafe_view", "set_")
        ):
            self.launches += 1
        return func(*args, **(kwargs or {}))


def count_launches(cuda: CudaOnHost, work: Any) -> int:
    """How many kernels and copies `work` would start on a GPU outside of graphs: ours exactly, torch's one for each
    operation."""
    before = cuda.started() - cuda.replayed
    with LaunchCounter() as counter:
        work()
    return counter.launches + cuda.started() - cuda.replayed - before


def count_crossings(patch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts copies between host and GPU until `patch` is undone, though all tensors are the CPU's. A copy back waits
    for the GPU; any other wait is an error."""
    crossings = {"to the GPU": 0, "back": 0}
    ship, as_tensor = _Staging.ship, torch.as_tensor
    came_back: dict[int, Tensor] = {}  # by storage
    shipping = False

    def counted_ship(self: _Staging, **columns: Any) -> dict[str, Tensor]:
        nonlocal shipping
        crossings["to the GPU"] += 1
        shipping = True
        with _disable_current_modes():  # fills pinned memory on the host
            on_device = ship(self, **columns)
        shipping = False
        return on_device

    def counted_as_tensor(data: Any, *, device: Any = None, **more: Any) -> Tensor:
        crossings["to the GPU"] += device is not None
        return as_tensor(data, device=device, **more)

    def counted(name: str) -> Any:
        waits = getattr(Tensor, name)

        def ask(self: Tensor, *args: Any, **more: Any) -> Any:
            if shipping or self.untyped_storage().data_ptr() in came_back:
                return waits(self, *args, **more)
            assert name == "cpu", f"{name} waits for the GPU"
            crossings["back"] += 1
            with _disable_current_modes():
                here = self.clone()
            came_back[here.untyped_storage().data_ptr()] = here
            return here

        return ask

    patch.setattr(_Staging, "ship", counted_ship)
    patch.setattr(torch, "as_tensor", counted_as_tensor)
    for name in WAITS:
        patch.setattr(Tensor, name, counted(name))
    return crossings


def forbid_waiting(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone, what would wait for a GPU is an error, though the tensors are the CPU's."""

    def waits(*_: Any, **__: Any) -> None:
        raise AssertionError("this waits for the GPU")

    for name in WAITS:
        patch.setattr(Tensor, name, waits)


def take(monkeypatch: pytest.MonkeyPatch) -> CudaOnHost:
    """Puts these in the place of torch's until the test ends."""
    cuda = CudaOnHost()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", cuda.make_graph)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))  # with TF32
    for name in ("device", "current_stream", "set_stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    return cuda
