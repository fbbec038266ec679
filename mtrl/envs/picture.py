"""Pictures of envs, drawn without a screen in a separate process (picture_process.py).

OpenGL's software renderer (Mesa) brings an LLVM; loading the one of Triton, and so torch.export, beside it ends in a
segmentation fault. Therefore this process draws nothing itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from mtrl.envs.child import Child

Picture = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.float64]]

SIZE = 320  # pixels, both ways


class Camera:
    """Draws one simulator, from a copy of it in the process that draws."""

    def __init__(self, model: Any) -> None:
        """Raises RuntimeError, with the cure, if neither EGL nor OSMesa can draw."""
        self._studio = _studios.get(os.getpid()) or _Studio()  # after a fork, the child needs one of its own
        _studios[os.getpid()] = self._studio
        self._number, refusal = self._studio.call("open", model)
        if refusal:
            raise RuntimeError(refusal)

    def picture(self, body_pos: Numbers, site_pos: Numbers, physics: Numbers) -> Picture:
        """The picture, uint8 [SIZE, SIZE, 3], upper row first.

        body_pos [bodies, 3] and site_pos [sites, 3] are those of the model, `physics` is MuJoCo's mjSTATE_INTEGRATION.
        """
        picture: Picture = self._studio.call("picture", self._number, body_pos, site_pos, physics)
        return picture

    def close(self) -> None:
        """Frees the camera. The process that draws ends with its last camera."""
        with suppress(RuntimeError):  # it died
            self._studio.call("close", self._number)


class _Studio(Child):
    """The process that draws for all cameras of this one."""

    def __init__(self) -> None:
        super().__init__("mtrl.envs.picture_process")

    def call(self, method: str, *arguments: Any) -> Any:
        self.begin(method, *arguments)
        try:
            return self.result()
        except EOFError:
            _studios.pop(os.getpid(), None)
            cure = "try MUJOCO_GL=osmesa (libosmesa6), or MUJOCO_GL=egl"
            raise RuntimeError(f"the process that draws {self.ending()}; {cure}") from None

    def __del__(self) -> None:
        self.close()


_studios: WeakValueDictionary[int, _Studio] = WeakValueDictionary()  # by the process that asks
