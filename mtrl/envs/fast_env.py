"""Meta-World's task classes with a quicker Python layer around the same simulator and the same rewards.

A step of stock Meta-World spends three quarters of its time in Python: looking names up, building views,
walking contacts, general-purpose calls on three numbers. `fast_class` makes a subclass of a task's class:
  - the task's own functions run as they are, but see quicker `np.linalg.norm`, `reward_utils` and `Rotation`;
  - what all tasks inherit (step, observation, grasp reward, contacts) is written here for one float64 row;
  - names are looked up once (`_Data`).
Resets are stock code. The physics is stock bit for bit; observations and rewards agree within rounding.
`parity.py` checks that for every task before the class is used.
"""

from __future__ import annotations

import copy
import math
import sys
import types
import weakref
from functools import cache
from typing import Any, NamedTuple

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from mtrl.tasks import FRAME_SIZE, OBSERVATION_SIZE

Array = np.ndarray[Any, Any]

_POINTING_DOWN = (1.0, 0.0, 1.0, 0.0)  # the quaternion of the mocap body


@cache
def fast_class(stock: type) -> type:
    """The quicker subclass of one of Meta-World's task classes."""
    fast = types.new_class(f"Fast{stock.__name__}", (stock, _FastSawyer))
    quick = {
        **vars(sys.modules[stock.__module__]),
        "np": _quick_numpy,
        "reward_utils": _quick_reward_utils,
        "Rotation": _QuickRotation,
        stock.__name__: fast,  # tasks call their static methods through the class's name
    }
    for name, member in vars(stock).items():
        if name not in ("__init__", "reset_model"):
            rebound = _rebind(member, quick)
            if rebound is not None:
                setattr(fast, name, rebound)
    return fast


def _rebind(member: Any, names: dict[str, Any]) -> Any:
    """The same function, static method or property with other globals; None for anything else."""
    if isinstance(member, staticmethod):
        return staticmethod(_rebind(member.__func__, names))
    if isinstance(member, property):
        return property(_rebind(member.fget, names))
    if not isinstance(member, types.FunctionType):
        return None
    if member.__qualname__.startswith("SawyerXYZEnv._Decorators"):  # asserts that a task is set: it always is
        return _rebind(member.__closure__[0].cell_contents, names)  # type: ignore[index]
    function = types.FunctionType(
        member.__code__, names, member.__name__, member.__defaults__, member.__closure__
    )
    function.__kwdefaults__ = member.__kwdefaults__
    return function


class _FastSawyer(SawyerXYZEnv):  # type: ignore[misc]
    """What tasks inherit from SawyerXYZEnv, for actions in [-1, 1] and a goal that is seen."""

    _tcp_center: Array | None = None  # of this step; None while it is not known
    _prev_obs: Array
    _placed: _Placed
    _views: _Views

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model = self._copied_model() or super()._initialize_simulation()[0]
        self._placed = _Placed(model.body_pos.copy(), model.site_pos.copy())
        _living.setdefault(self.fullpath, self)
        self._views = _Views()
        return model, _Data(model, self._views)

    def _copied_model(self) -> Any:
        """A copy of the same model in a living env (10 ms; compiling takes 150), or None."""
        living = _living.get(self.fullpath)
        if living is None:
            return None
        model = copy.copy(living.model)
        model.body_pos[:], model.site_pos[:] = living._placed
        return model

    def step(self, action: Array) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        data = self.data
        position = data.mocap_pos[0]
        position += action[:3] * self.action_scale
        np.maximum(position, self.mocap_low, out=position)
        np.minimum(position, self.mocap_high, out=position)
        data.mocap_quat = _POINTING_DOWN
        data.ctrl = (action[3], -action[3])
        self._tcp_center = None
        mujoco.mj_step(self.model, data, nstep=self.frame_skip)
        mujoco.mj_forward(self.model, data)
        self.curr_path_length += 1
        self._tcp_center = SawyerXYZEnv.tcp_center.fget(self)
        observation = self._get_obs()
        space = self.sawyer_observation_space
        np.maximum(observation, space.low, out=observation)
        np.minimum(observation, space.high, out=observation)
        reward, info = self.evaluate_state(observation, action)
        return observation, reward, False, False, info

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, Any]:
        self._tcp_center = None
        result: tuple[Array, Any] = super().reset(seed, options)
        return result

    @property
    def tcp_center(self) -> Array:
        if self._tcp_center is None:
            center: Array = super().tcp_center
            return center
        return self._tcp_center

    def _get_curr_obs_combined_no_goal(self) -> Array:
        body = self.data.body
        fingers = body("rightclaw").xpos - body("leftclaw").xpos
        opening = math.sqrt(fingers.dot(fingers)) / 0.1
        frame = np.zeros(FRAME_SIZE)
        frame[:3] = body("hand").xpos
        frame[3] = min(max(opening, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for index in range(len(positions) // 3):
            start = 4 + 7 * index
            frame[start : start + 3] = positions[3 * index : 3 * index + 3]
            frame[start + 3 : start + 7] = quaternions[4 * index : 4 * index + 4]
        return frame

    def _get_obs(self) -> Array:
        observation = np.empty(OBSERVATION_SIZE)
        frame = self._get_curr_obs_combined_no_goal()
        observation[:FRAME_SIZE] = frame
        observation[FRAME_SIZE : 2 * FRAME_SIZE] = self._prev_obs
        observation[2 * FRAME_SIZE :] = self._target_pos
        self._prev_obs = frame
        return observation

    def touching_object(self, object_geom_id: int) -> bool:
        data = self.data
        if data.ncon == 0:
            return False
        left, right = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        left_force = right_force = 0.0
        contact = data.contact
        for pair, address in zip(contact.geom.tolist(), contact.efc_address.tolist(), strict=True):
            if object_geom_id in pair:
                if left in pair:
                    left_force += data.efc_force[address]
                if right in pair:
                    right_force += data.efc_force[address]
        return left_force > 0 and right_force > 0

    def _gripper_caging_reward(
        self,
        action: Array,
        obj_pos: Array,
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> Any:
        """How well the object is between the pads and gripped; SawyerXYZEnv._gripper_caging_reward."""
        if high_density and medium_density:
            raise ValueError("Can only be either high_density or medium_density")
        start, tcp = self.obj_init_pos, self.tcp_center
        object_y, start_y = float(obj_pos[1]), float(start[1])
        sides = []
        for pad in ("leftpad", "rightpad"):
            pad_y = float(self.data.body(pad).xpos[1])
            margin = abs(abs(pad_y - start_y) - pad_success_thresh)
            bounds = (obj_radius, pad_success_thresh)
            sides.append(_tolerance(abs(pad_y - object_y), bounds, margin, "long_tail"))
        caging_y = reward_utils.hamacher_product(*sides)
        margin = _norm(start[::2] - self.init_tcp[::2]) - xz_thresh
        caging_xz = _tolerance(_norm(tcp[::2] - obj_pos[::2]), (0, xz_thresh), margin, "long_tail")
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        caging = reward_utils.hamacher_product(caging_y, float(caging_xz))
        grasp = reward_utils.hamacher_product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            grasp = (grasp + caging) / 2
        if medium_density:
            margin = abs(_norm(start - self.init_tcp) - object_reach_radius)
            reach = _tolerance(_norm(obj_pos - tcp), (0, object_reach_radius), margin, "long_tail")
            grasp = (grasp + float(reach)) / 2
        return grasp


class _Placed(NamedTuple):
    """The parts of a model that resets change, with their compiled values."""

    body_pos: Array
    site_pos: Array


_living: weakref.WeakValueDictionary[str, _FastSawyer] = weakref.WeakValueDictionary()


class _Views:
    """Views of one simulator by name.

    Held by the env, not by the simulator: a view keeps its simulator alive, so a simulator that held its own views
    would never be freed.
    """

    def __init__(self) -> None:
        self.body: dict[str, _View] = {}
        self.geom: dict[str, _View] = {}
        self.site: dict[str, _View] = {}


class _Data(mujoco.MjData):  # type: ignore[misc]
    """MjData that looks each name up once; what it hands out still looks into the simulator."""

    def __init__(self, model: Any, views: _Views) -> None:
        super().__init__(model)
        self._views = weakref.ref(views)

    def body(self, name: str) -> _View:
        known = self._views().body  # type: ignore[union-attr]
        return known[name] if name in known else known.setdefault(name, _View(super().body(name)))

    def geom(self, name: str) -> _View:
        known = self._views().geom  # type: ignore[union-attr]
        return known[name] if name in known else known.setdefault(name, _View(super().geom(name)))

    def site(self, name: str) -> _View:
        known = self._views().site  # type: ignore[union-attr]
        return known[name] if name in known else known.setdefault(name, _View(super().site(name)))


class _View:
    """One body, geom or site. An array is fetched once and stays valid as long as the simulator."""

    def __init__(self, of: Any) -> None:
        self.__dict__["_of"] = of

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = getattr(self._of, name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._of, name, value)  # writes into the simulator, where the fetched array looks


def _norm(x: Any, ord: Any = None, *rest: Any) -> Any:
    """np.linalg.norm; the sum of squares as numpy takes it, without its generality."""
    if (
        type(x) is np.ndarray
        and x.ndim == 1
        and x.dtype == np.float64
        and (ord is None or ord == 2)
        and not rest
    ):
        return np.float64(math.sqrt(x.dot(x)))
    return np.linalg.norm(x, ord, *rest)


def _tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """reward_utils.tolerance for one number and the two sigmoids that rewards use; the rest goes there."""
    lower, upper = bounds
    known = sigmoid == "long_tail" or sigmoid == "gaussian"
    if not (isinstance(x, float) and known and value_at_margin == 0.1 and lower <= upper and margin > 0):
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    x = float(x)
    if lower <= x <= upper:
        return 1.0
    distance = (lower - x if x < lower else x - upper) / float(margin)
    if sigmoid == "long_tail":
        scaled = distance * 3.0  # sqrt(1 / value_at_margin - 1)
        return 1 / (scaled * scaled + 1)
    scaled = distance * _GAUSSIAN_SCALE
    return float(np.exp(-0.5 * (scaled * scaled)))


class _QuickRotation:
    """All that observations take from scipy's Rotation: the quaternion (x, y, z, w) of a matrix [3, 3]."""

    def __init__(self, matrix: Array) -> None:
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: Array) -> _QuickRotation:
        return cls(matrix)

    def as_quat(self) -> Array | list[float]:
        (a, b, c), (d, e, f), (g, h, i) = self._matrix.tolist()
        trace = a + e + i
        largest = max(a, e, i, trace)
        if a == largest:
            x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
            chosen = x
        elif e == largest:
            x, y, z, w = b + d, 1 - trace + 2 * e, h + f, c - g
            chosen = y
        elif i == largest:
            x, y, z, w = c + g, f + h, 1 - trace + 2 * i, d - b
            chosen = z
        else:
            x, y, z, w = h - f, c - g, d - b, 1 + trace
            chosen = w
        squares = x * x + y * y + z * z + w * w
        # not a rotation: scipy finds the nearest, or says why it cannot
        if not abs(squares - 4 * chosen) < 1e-9:
            quaternion: Array = Rotation.from_matrix(self._matrix).as_quat()
            return quaternion
        norm = math.sqrt(squares)
        return [x / norm, y / norm, z / norm, w / norm]


_GAUSSIAN_SCALE = float(np.sqrt(-2 * np.log(0.1)))
_quick_linalg = types.SimpleNamespace(**{**vars(np.linalg), "norm": _norm})
_quick_numpy = types.SimpleNamespace(**{**vars(np), "linalg": _quick_linalg})
_quick_reward_utils = types.SimpleNamespace(**{**vars(reward_utils), "tolerance": _tolerance})
