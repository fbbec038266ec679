"""CUDA graphs and kernels that remember what was started, for tests on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from mtrl.cuda import ops as cuda_ops
from tests.mtrl.cuda import cuda_on_host


class Recorder(TorchDispatchMode):
    """A CUDA graph for the host: remembers every operation on tensors and every kernel that was started, with the very
    tensors, undoes what they did, and can do them again. Python in between is not done again, as in a real graph."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self._before: dict[int, tuple[Any, Any]] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.remember((*args, *kwargs.values()))
        result = func(*args, **kwargs)
        if any(part in func.name() for part in ("_local_scalar_dense", "nonzero", "masked_select", "unique")):
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
        for func, args, kwargs, fresh in self.work:
            again = func(*args, **kwargs)
            outputs = again if isinstance(again, list | tuple) else (again,)
            for held, output in zip(fresh, outputs, strict=False):
                if held is not None and "empty" not in func.name():
                    held.copy_(output)


class RecordedKernels:
    """The kernels, told to a recorder where one is active."""

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels
        self.recorder: Recorder | None = None

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._kernels, name)

        def start(*args: Any) -> Any:
            if self.recorder is not None and not name.endswith("workspace"):
                with _disable_current_modes():
                    self.recorder.remember(args)
                self.recorder.work.append((kernel, args, {}, []))
            return kernel(*args)

        return start


class StartedKernels:
    """The kernels, and the names of those that were started."""

    def __init__(self, kernels: Any) -> None:
        self._kernels, self.names = kernels, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self._kernels, name)


def record_graphs(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Puts recorders in the place of CUDA graphs; gives those that were made."""
    cuda_on_host.take("host", monkeypatch)
    kernels = RecordedKernels(cuda_ops.kernels)
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    @contextmanager
    def capture(graph: Recorder) -> Iterator[None]:
        kernels.recorder = graph
        try:
            with graph:
                yield
        finally:
            kernels.recorder = None
            graph.undo()  # capturing does nothing

    monkeypatch.setattr(cuda_ops, "kernels", kernels)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return made
