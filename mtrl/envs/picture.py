"""Pictures of an env, drawn without a screen: by EGL (a GPU, or Mesa), or by OSMesa with MUJOCO_GL=osmesa."""

from __future__ import annotations

import importlib
import os
from typing import Any

import mujoco
import numpy as np

Picture = np.ndarray[Any, np.dtype[np.uint8]]

SIZE = 320  # pixels, both ways
_CAMERA = "corner2"  # in all of Meta-World's models; shows hand, table and goal


class Camera:
    """Looks at one simulator. Drawing changes nothing that decides what follows."""

    def __init__(self, model: Any) -> None:
        """Raises RuntimeError, with the cure, where nothing can draw."""
        self._model = model
        self._gl = _gl_context()
        self._gl.make_current()
        model.vis.global_.offwidth, model.vis.global_.offheight = SIZE, SIZE
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene, self._option = mujoco.MjvScene(model, maxgeom=1000), mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, _CAMERA)

    def picture(self, data: Any) -> Picture:
        """uint8 [SIZE, SIZE, 3], the upper row first."""
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        frame, picture = mujoco.MjrRect(0, 0, SIZE, SIZE), np.empty((SIZE, SIZE, 3), np.uint8)
        mujoco.mjr_render(frame, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, frame, self._context)
        return np.ascontiguousarray(picture[:, ::-1])  # the camera hangs upside down; lines come from below

    def close(self) -> None:
        self._context.free()
        self._gl.free()


def _gl_context() -> Any:
    backend = os.environ.get("MUJOCO_GL", "egl")
    cure = "install libegl1 and libegl-mesa0, or libosmesa6 and set MUJOCO_GL=osmesa"
    if backend not in ("egl", "osmesa"):
        raise RuntimeError(f"MUJOCO_GL={backend} needs a screen; unset it, or set it to egl or osmesa")
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext(SIZE, SIZE)
    except Exception as error:  # a missing library shows as one of many kinds
        raise RuntimeError(f"nothing here can draw without a screen ({backend}: {error}); {cure}") from error
