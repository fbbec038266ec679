"""Twin of `mtrl.ops.SacUpdate` on a GPU: one SAC update as a straight list of launches.

The mathematics is that of csrc/critic/sac_update.h: the one-hot never enters a product, a row uses only its own task's
head, the actor's loss is differentiated only through each row's least critic and only down to the action, and one pass
does clip, Adam and Polyak average. Gradients are written where the optimiser reads them. The host decides nothing
between launches, so that they can be captured. E critics, B batch rows, T tasks, A actions, O observations.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mtrl.cuda import cublaslt, ops
from mtrl.cuda.cublaslt import FusedLayers
from mtrl.ops import METRICS

log = logging.getLogger(__name__)

Flat = tuple[Tensor, Tensor, Tensor, Tensor, int]  # as in mtrl.ops
Tensors = tuple[Tensor, ...]


class Hidden(NamedTuple):
    """The hidden layers of a forward pass: each layer's output y [E, B, W], and its mask from cuBLASLt or None."""

    y: list[Tensor]
    mask: list[Tensor | None]


class MultiHeadViews:
    """The parameters of a `networks.MultiHead` (or their gradients) as views of a flat vector.

    With `fused`, cuBLASLt computes the hidden layers after the first; without, torch's products do.
    """

    def __init__(self, shape: dict[str, Any], flat: Tensor, fused: FusedLayers | None = None) -> None:
        self._fused, self._shape, self._flat = fused, shape, flat
        self.task_row, self.head_kernel, self.head_bias, *layers = self._views_of(flat)
        self.kernel, self.bias = layers[: shape["depth"]], layers[shape["depth"] :]

    def _views_of(self, flat: Tensor) -> list[Tensor]:
        shape = self._shape
        critics, tasks, width = shape["critics"], shape["tasks"], shape["width"]
        inputs, outputs, depth = shape["inputs"], shape["outputs"], shape["depth"]
        sizes = [
            (critics, tasks, width),
            (critics, tasks, width, outputs),
            (critics, tasks, outputs),
            (critics, inputs, width),
            *[(critics, width, width)] * (depth - 1),
            *[(critics, width)] * depth,
        ]
        return [
            flat[start : start + math.prod(size)].view(size)
            for start, size in zip(shape["start"], sizes, strict=True)
        ]

    @functools.cached_property
    def factor(self) -> list[Tensor]:
        """The hidden layers' kernels as products need them: with bfloat16 rounded, all in one launch.

        They are rounded at the first use. After the optimiser's step, make a new MultiHeadViews.
        """
        if ops.products() != "bfloat16":
            return self.kernel
        return self._views_of(self._flat.bfloat16())[3 : 3 + len(self.kernel)]

    def forward(self, x: Tensor, task: Tensor, masked: bool = False) -> tuple[Hidden, Tensor]:
        """The hidden layers for rows x [B, D] of the tasks [B], and the outputs [E, B, O].

        With `masked`, `slopes` can use cuBLASLt for the way back.
        """
        y = ops.ensemble_linear(x, self.factor[0], self.bias[0], self.task_row, task)
        hidden = Hidden([y], [None])
        for layer, (kernel, bias) in enumerate(zip(self.factor[1:], self.bias[1:], strict=True), start=1):
            mask = None
            if self._fused is None:
                y = ops.ensemble_linear(y, kernel, bias, None, None)
            else:  # the last layer needs no mask: its gradient comes from the heads, and y masks it
                below = layer < len(self.kernel) - 1
                y, mask = self._fused.forward(y, kernel, bias, masked and below)
            hidden.y.append(y)
            hidden.mask.append(mask)
        return hidden, ops.head_gather(y, self.head_kernel, self.head_bias, task)

    def slopes(
        self, hidden: Hidden, task: Tensor, dout: Tensor, gradient: MultiHeadViews | None = None
    ) -> list[Tensor]:
        """The gradients before the ReLU of each hidden layer, [E, B, W] each, from dout [E, B, O], that of the outputs.

        cuBLASLt gives their sums over rows too, a layer's bias gradient; they are written to `gradient` if given.
        """
        dy, _, _ = ops.head_gather_backward(hidden.y[-1], self.head_kernel, task, dout, False, True)
        dz = [ops.mask(hidden.y[-1], dy)]
        for layer in reversed(range(len(hidden.y) - 1)):
            kernel, mask = self.factor[layer + 1], hidden.mask[layer]
            if self._fused is None or mask is None:
                below = ops.mask(hidden.y[layer], ops.product(dz[0], kernel.mT))
            else:
                sums = torch.empty_like(self.bias[layer]) if gradient is None else gradient.bias[layer]
                below = self._fused.backward(dz[0], kernel, mask, sums)
            dz.insert(0, below)
        return dz

    def least_gradient(
        self, hidden: Hidden, q: Tensor, task: Tensor, slope: float, columns: int
    ) -> tuple[Tensor, Tensor]:
        """The gradient [B, columns] of slope * sum_b min_e q[e, b] by the first `columns` inputs, and the minima [B].

        `hidden` and q [E, B, 1] are the results of `forward` for rows of the tasks [B].
        """
        critics, rows, _ = q.shape
        kernels, stream = ops.built(), ops.stream_of(q)
        values, least = q.view(critics, rows), q.new_empty(rows)
        if not ops.routes(critics):
            dq = torch.empty_like(q)
            kernels.least_gradient(values, slope, dq.view(critics, rows), least, stream)
            dz = self.slopes(hidden, task, dq)[0]
            return ops.product(dz, self.factor[0][:, :columns].mT).sum(0), least
        routed = ops.route_rows(values, least)
        dz = q.new_empty((rows, hidden.y[-1].shape[2]))
        kernels.routed_head(*routed, task, self.head_kernel, slope, hidden.y[-1], dz, stream)
        for y, kernel in zip(hidden.y[-2::-1], self.kernel[:0:-1], strict=True):
            dx = torch.empty_like(dz)
            kernels.routed_layer(*routed, dz, kernel, y, dx, stream)
            dz = dx
        dx = q.new_empty((rows, columns))
        kernels.routed_layer(*routed, dz, self.kernel[0], None, dx, stream)
        return dx, least

    def write_gradients(
        self, x: Tensor, hidden: Hidden, dz: list[Tensor], dout: Tensor, by_task: tuple[Tensor, Tensor]
    ) -> None:
        """Fills these views with the gradients of the parameters that `slopes` has not written.

        x [B, D] and `hidden` are those of the forward pass, dz is the result of `slopes` for dout [E, B, O], and
        by_task that of `mtrl.cuda.ops.rows_by_task`.
        """
        inputs = [ops.of_each(x, self.kernel[0]), *hidden.y[:-1]]
        for layer, (below, slope) in enumerate(zip(inputs, dz, strict=True)):
            ops.product(below.mT, slope, out=self.kernel[layer])
            if layer == 0:
                ops.bias_gradient(slope, self.bias[0], self.task_row, by_task)
            elif hidden.mask[layer] is None:
                ops.bias_gradient(slope, self.bias[layer])
        head = (self.head_kernel, self.head_bias)
        ops.built().head_gather_weight_gradient(hidden.y[-1], *by_task, dout, *head, ops.stream_of(x))


class SacUpdateCuda:
    """A whole SAC update of a multi-head actor and critic ensemble on a GPU, as `mtrl.ops.SacUpdate`; and acting.

    `settings` are the numbers of the section `agent`. With `lt` = auto, cuBLASLt computes the layers that it can fuse
    if it passes its check, else torch does.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        actor: dict[str, Any],
        critic: dict[str, Any],
        lt: Literal["auto", "off"],
        device: torch.device,
    ) -> None:
        self._settings, self._actor, self._critic = settings, actor, critic
        self._clip = (settings["log_std_min"], settings["log_std_max"])
        self._actions = actor["outputs"] // 2
        self._device = device
        self._lt = self._find_lt(lt)
        self.metrics = torch.zeros(
            len(METRICS), device=device
        )  # of the latest update, in the order of `ops.METRICS`

    def update_of(
        self, rows: int, flats: Sequence[Flat], target: Tensor, steps: Tensor
    ) -> Callable[..., Tensor]:
        """The update for batches of `rows` rows: a function from their columns and the noise to the priorities [B].

        It updates the vectors of actor, critics and temperatures in place, and counts a step of each on `steps`, int64
        [3]; what stands there counts, not what stands in `flats`.
        """
        vectors, fused = [flat[:4] for flat in flats], self._fused_layers(rows)
        return lambda *inputs: self._run(vectors, target, steps, fused, inputs)

    @torch.no_grad()
    def act(self, actor: Tensor, observation: Tensor, task: Tensor, noise: Tensor | None) -> Tensor:
        """Actions [B, A] of the flat actor for observations [B, O] of tasks [B]; deterministic without noise."""
        output = MultiHeadViews(self._actor, actor).forward(observation, task)[1][0]
        action = observation.new_empty((len(observation), self._actions))
        self._sample(output, noise, action)
        return action

    def _find_lt(self, wanted: Literal["auto", "off"]) -> Any:
        """cuBLASLt or None; logs which library computes the products."""
        lt, on = None, "torch"
        if wanted == "auto" and ops.products() != "bfloat16":
            try:
                lt = cublaslt.library(torch.empty(0, device=self._device).get_device())
                on = f"{cublaslt.name_of(lt)} if it passes its check, and torch"
            except RuntimeError as error:
                on = f"torch; cuBLASLt was not found: {error}"
        log.info("updates run as a list of launches, products on %s", on)
        return lt

    def _fused_layers(self, rows: int) -> tuple[FusedLayers | None, FusedLayers | None]:
        """The actor's and the critics' layers for batches of `rows` rows; both None if cuBLASLt cannot compute one."""
        made: list[FusedLayers | None] = []
        for shape in (self._actor, self._critic):
            if self._lt is None or shape["depth"] == 1:
                made.append(None)
                continue
            try:
                made.append(FusedLayers(self._lt, shape["critics"], rows, shape["width"], self._device))
            except (RuntimeError, ValueError) as error:
                log.warning("products run on torch alone, not on cuBLASLt: %s", error)
                self._lt = None
                return None, None
        return made[0], made[1]

    @torch.no_grad()
    def _run(
        self,
        flats: Sequence[Tensors],
        target_value: Tensor,
        steps: Tensor,
        fused: tuple[FusedLayers | None, FusedLayers | None],
        inputs: Tensors,
    ) -> Tensor:
        observation, action, reward, terminated, next_observation, task, weight, discount, *noises = inputs
        next_noise, noise = noises
        kernels, stream, settings = ops.built(), ops.stream_of(reward), self._settings
        actor, actor_gradient = (MultiHeadViews(self._actor, flat, fused[0]) for flat in flats[0][:2])
        critic, critic_gradient = (MultiHeadViews(self._critic, flat, fused[1]) for flat in flats[1][:2])
        target = MultiHeadViews(self._critic, target_value, fused[1])
        log_temperature, temperature_gradient = flats[2][:2]
        rows, critics = len(reward), self._critic["critics"]
        by_task = ops.rows_by_task(task, self._actor["tasks"])
        temperature = log_temperature.exp()[task]
        # cuBLASLt's ReLU may turn NaN into 0 and so hide it: let a NaN in the observations reach the reward.
        if any(fused):
            reward = next_observation.sum(1).mul_(0).add_(reward)

        # The critics learn the TD target of the next actions.
        output = actor.forward(next_observation, task)[1][0]
        x, log_prob = self._joined(output, next_noise, next_observation)
        next_q = target.forward(x, task)[1].view(critics, rows)
        x = torch.cat((action, observation), 1)
        hidden, q = critic.forward(x, task, masked=True)
        y, priority, means = torch.empty_like(reward), torch.empty_like(reward), reward.new_empty(2)
        dq = torch.empty_like(q)
        space = ops.workspace(kernels.td_target_workspace(rows), reward)
        kernels.td_target(
            reward, terminated, next_q, log_prob, temperature, q.view(critics, rows), weight,
            discount, y, dq.view(critics, rows), priority, means, space, stream,
        )  # fmt: skip
        dz = critic.slopes(hidden, task, dq, critic_gradient)
        critic_gradient.write_gradients(x, hidden, dz, dq, by_task)
        critic_norm = self._step(flats[1], target_value, steps[1:2], "critic")
        critic = MultiHeadViews(self._critic, flats[1][0], fused[1])

        # The actor learns through each row's least critic, after the critics' step.
        policy, output = actor.forward(observation, task, masked=True)
        x, log_prob = self._joined(output[0], noise, observation)
        hidden, q = critic.forward(x, task, masked=not ops.routes(critics))
        daction, least = critic.least_gradient(hidden, q, task, -1 / rows, self._actions)
        dout = torch.empty_like(output)
        kernels.tanh_gaussian_backward(
            output[0], noise, *self._clip, x, daction, temperature / rows, dout[0], stream
        )
        dz = actor.slopes(policy, task, dout, actor_gradient)
        actor_gradient.write_gradients(observation, policy, dz, dout, by_task)
        actor_norm = self._step(flats[0], None, steps[0:1], "actor")
        actor_loss = (temperature * log_prob - least).mean()

        # The temperatures: the gradient of each is a sum over its task's rows.
        slope = (log_prob + settings["target_entropy"]).mul_(-1 / rows).view(1, rows, 1)
        every = slope.new_empty((1, 1))
        ops.bias_gradient(slope, every, temperature_gradient.view(1, -1, 1), by_task)
        temperature_loss = (log_temperature * temperature_gradient).sum()
        self._step(flats[2], None, steps[2:3], "temperature")
        metrics = (means[0], actor_loss, temperature_loss, means[1], actor_norm, critic_norm)
        torch.stack(metrics, out=self.metrics)
        return priority

    def _joined(self, output: Tensor, noise: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The critics' input for new actions, [B, A + O], and the actions' log-densities [B]."""
        x = observation.new_empty((len(observation), self._actions + observation.shape[1]))
        x[:, self._actions :] = observation
        return x, self._sample(output, noise, x)

    def _sample(self, output: Tensor, noise: Tensor | None, action: Tensor) -> Tensor:
        log_prob = output.new_empty(len(output))
        density = None if noise is None else log_prob
        ops.built().tanh_gaussian_sample(output, noise, *self._clip, action, density, ops.stream_of(output))
        return log_prob

    def _step(self, flat: Tensors, target: Tensor | None, steps: Tensor, name: str) -> Tensor:
        value, gradient, mean, square = flat
        settings = self._settings
        decay, clip = settings["weight_decay"], settings.get(f"{name}_clip", math.inf)
        if name == "temperature":
            decay = 0.0
        numbers = (
            settings[f"{name}_lr"],
            settings["beta1"],
            settings["beta2"],
            settings["adam_eps"],
            decay,
            clip,
            settings["polyak"],
        )
        return ops.adam_polyak(value, gradient, (mean, square), target, numbers, steps)
