"""A function of tensors as a CUDA graph: recorded once, then started as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Mode = Literal["auto", "on", "off"]
WARM_UPS = 2  # calls before the capture, because libraries set themselves up in the first ones
log = logging.getLogger(__name__)


class GraphedCall:
    """A function that becomes a CUDA graph at its third call, on a stream of its own.

    Every call must increase `counter`, an int64 tensor; `changes` are the other tensors that a call changes in place.
    If CUDA cannot capture the function, or captures nothing, these tensors get their earlier values back, and this and
    all later calls run launch by launch. With mode `on` the call raises RuntimeError instead.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Tensors],
        mode: Mode,
        *,
        counter: Tensor,
        changes: Sequence[Tensor] = (),
    ) -> None:
        self._name, self._function, self._mode = name, function, mode
        self._counter, self._changes = counter, changes
        self._device = counter.device
        self._stream: torch.cuda.Stream | None = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Tensors = ()
        self._outputs: Tensors = ()

    def __call__(self, *inputs: Tensor) -> Tensors:
        """The outputs of the function. If a graph ran, the next call overwrites them."""
        if self._mode == "off":
            return self._function(*inputs)
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._calls += 1
            if self._graph is None and self._calls > WARM_UPS and self._capture(inputs):
                return self._outputs
            if self._graph is None:
                return self._run_aside(inputs)
            _copy(self._inputs, inputs)
            self._graph.replay()
            return self._outputs

    def _run_aside(self, inputs: Tensors) -> Tensors:
        """One call on the stream of the capture, so that autograd's nodes belong to it."""
        assert self._stream is not None
        present = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            outputs = self._function(*inputs)
        present.wait_stream(self._stream)
        return outputs

    def _capture(self, inputs: Tensors) -> bool:
        """Captures the function and runs it once. If CUDA refuses, restores the tensors and returns False."""
        before: list[tuple[Tensor, Tensor]] = []
        try:
            before = [(tensor, tensor.clone()) for tensor in (self._counter, *self._changes)]
            self._inputs = tuple(given.clone() for given in inputs)
            self._graph, self._outputs = self._record()
            if not torch.equal(*before[0]):
                raise RuntimeError("it ran while it was captured")
            self._graph.replay()
            if torch.equal(*before[0]):
                raise RuntimeError("the graph is empty")
            return True
        except RuntimeError as error:
            self._graph, self._inputs, self._outputs = None, (), ()
            for tensor, held in before:
                tensor.copy_(held)
            self._give_up(error)
            return False

    def _record(self) -> tuple[torch.cuda.CUDAGraph, Tensors]:
        present, graph = torch.cuda.current_stream(self._device), torch.cuda.CUDAGraph()
        reason: RuntimeError | None = None
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                try:
                    return graph, self._function(*self._inputs)
                except RuntimeError as error:
                    reason = error
                    raise
        except RuntimeError as error:  # the error at the capture's end says less than its cause
            raise (reason or error) from None
        finally:
            torch.cuda.set_stream(present)  # if the capture's end fails, torch stays on its stream

    def _give_up(self, error: RuntimeError) -> None:
        reason = str(error).splitlines()[0]
        if self._mode == "on":
            raise RuntimeError(
                f"CUDA refused to capture {self._name}: {reason}; use agent.cuda_graph=auto"
            ) from error
        log.warning("%s runs without a CUDA graph, which CUDA refused: %s", self._name, reason)
        self._mode = "off"


class StepCounts:
    """How many steps each of several optimisers has made, on the device, where a graph counts them."""

    def __init__(self, optimisers: int, device: torch.device) -> None:
        self.on_device = torch.zeros(optimisers, dtype=torch.int64, device=device)
        self._known = [0] * optimisers

    def agree(self, made: list[int]) -> None:
        """Copies the host's counts to the device if a reset or a loaded state changed them. A step of each follows."""
        if made != self._known:
            self.on_device.copy_(torch.tensor(made))
        self._known = [steps + 1 for steps in made]


def _copy(held: Tensors, given: Tensors) -> None:
    """Copies `given` into `held`, with one launch for all tensors of a dtype."""
    for dtype in {tensor.dtype for tensor in held}:
        own = [place for place, tensor in enumerate(held) if tensor.dtype == dtype]
        torch._foreach_copy_([held[place] for place in own], [given[place] for place in own])
