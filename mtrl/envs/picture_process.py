"""The process that draws envs for its parent (picture.py): `python -m mtrl.envs.picture_process SOCKET`.

It draws with EGL (on a GPU, or by Mesa), or with OSMesa if MUJOCO_GL=osmesa.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from typing import Any

import mujoco
import numpy as np

from mtrl.envs.child import call, serve
from mtrl.envs.picture import SIZE, Numbers, Picture

_CAMERA = "corner2"  # all of Meta-World's models have it; it shows hand, table and goal


def main(socket: int) -> None:
    """Serves the parent until it closes the socket or ends."""
    serve(socket, lambda connection: partial(call, Studio()))


class Studio:
    """The parent's cameras by number."""

    def __init__(self) -> None:
        self._cameras: dict[int, View] = {}
        self._opened = 0

    def open(self, model: Any) -> tuple[int, str]:
        """The new camera's number, and an error with its cure; the error is empty if the camera can draw."""
        self._opened += 1
        try:
            self._cameras[self._opened] = View(model)
        except Undrawable as error:
            return self._opened, str(error)
        return self._opened, ""

    def picture(self, number: int, *state: Numbers) -> Picture:
        """The picture of a camera; see `mtrl.envs.picture.Camera.picture`."""
        return self._cameras[number].picture(*state)

    def close(self, number: int) -> None:
        """Frees a camera."""
        self._cameras.pop(number).close()


class View:
    """Draws one model."""

    def __init__(self, model: Any) -> None:
        """Raises Undrawable if neither EGL nor OSMesa can draw."""
        self._model, self._data = model, mujoco.MjData(model)
        self._gl = _gl_context()
        self._gl.make_current()
        model.vis.global_.offwidth, model.vis.global_.offheight = SIZE, SIZE
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene, self._option = mujoco.MjvScene(model, maxgeom=1000), mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, _CAMERA)

    def picture(self, body_pos: Numbers, site_pos: Numbers, physics: Numbers) -> Picture:
        """See `mtrl.envs.picture.Camera.picture`."""
        model, data = self._model, self._data
        model.body_pos[:], model.site_pos[:] = body_pos, site_pos
        mujoco.mj_setState(model, data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, self._scene)
        frame, picture = mujoco.MjrRect(0, 0, SIZE, SIZE), np.empty((SIZE, SIZE, 3), np.uint8)
        mujoco.mjr_render(frame, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, frame, self._context)
        return np.ascontiguousarray(picture[:, ::-1])  # the camera hangs upside down; lines come from below

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._context.free()
        self._gl.free()


class Undrawable(RuntimeError):
    """This machine cannot draw without a screen; the message names the cure."""


def _gl_context() -> Any:
    backend = os.environ.get("MUJOCO_GL", "egl")
    cure = "install libegl1, libegl-mesa0 and libgl1, or libosmesa6 and set MUJOCO_GL=osmesa"
    if backend not in ("egl", "osmesa"):
        raise Undrawable(f"MUJOCO_GL={backend} needs a screen; unset it, or set it to egl or osmesa")
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext(SIZE, SIZE)
    except Exception as error:  # a missing library shows as one of many kinds
        raise Undrawable(f"nothing here can draw without a screen ({backend}: {error}); {cure}") from error


if __name__ == "__main__":
    main(int(sys.argv[1]))
