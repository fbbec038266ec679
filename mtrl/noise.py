"""Standard normal noise for actions and updates, drawn in blocks of many steps."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

_NUMBERS = 65_536  # in a block, about: its 256 KiB stay in a core's cache
_STEPS = 256  # in a block, at most

log = logging.getLogger(__name__)


class Noise:
    """Draws tensors of one shape from a generator. One call of torch makes a block of them.

    The draws depend on the generator and on the shapes asked for; another shape starts a new block.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._start = generator.get_state()  # before the block was drawn
        self._shape: tuple[int, ...] = ()
        self._block: tuple[Tensor, ...] = ()
        self._drawn = 0  # of the block

    def draw(self, *shape: int) -> Tensor:
        """The next draw, of this shape. It is not used again: the caller may change it."""
        if shape != self._shape or self._drawn == len(self._block):
            self._begin(shape)
        self._drawn += 1
        return self._block[self._drawn - 1]

    def _begin(self, shape: tuple[int, ...]) -> None:
        self._start = self._generator.get_state()
        steps = min(_STEPS, max(1, _NUMBERS // math.prod(shape)))
        block = torch.randn((steps, *shape), generator=self._generator, device=self._generator.device)
        self._shape, self._block, self._drawn = shape, block.unbind(), 0

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start.clone(), "shape": list(self._shape), "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues with the draws that would have followed there.

        A state from another kind of device is ignored with a warning: the draws are then those of a new agent.
        """
        start = state["start"].cpu()
        if start.shape != self._generator.get_state().shape:
            log.warning("the checkpoint comes from another kind of device; random numbers start anew")
            return
        self._generator.set_state(start)
        self._start, self._shape, self._block, self._drawn = start, (), (), 0
        if state["drawn"]:
            self._begin(tuple(state["shape"]))
            self._drawn = state["drawn"]
