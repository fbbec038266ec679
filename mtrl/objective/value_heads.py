"""The meaning of a critic's outputs: one value, or a distribution over values. E critics, B rows, K atoms.

Both kinds have the same methods, so that `agent.py` need not tell them apart.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from mtrl import ops
from mtrl.config import AgentSettings
from mtrl.objective import categorical, losses


class ValueHead(Protocol):
    """Turns a critic's outputs into values, targets and losses."""

    def value(self, output: Tensor) -> Tensor:
        """Q [E, B] from a critic's output [E, B, O]."""

    def target(
        self,
        output: Tensor,
        reward: Tensor,
        terminated: Tensor,
        log_prob: Tensor,
        temperature: Tensor,
        discount: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The critics' target, [B] or [B, K], and y [B], the TD target before it is put onto the atoms. No gradient.

        output [E, B, O] is that of the target critics for the next actions, log_prob [B] the density of these actions;
        the others are [B] as in `mtrl.objective.losses.td_target`.
        """

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each row and critic, [E, B]."""

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """|Q - y| [E, B]; a categorical head takes the mean of its target distribution as y."""

    metric_names: tuple[str, ...]

    def metrics(self, y: Tensor) -> dict[str, Tensor]:
        """The metrics of `metric_names`, each 0-d, from the TD targets y [B]."""


def build_value_head(
    settings: AgentSettings, backend: Literal["core", "torch"], device: torch.device
) -> ValueHead:
    """The head that `agent.value` names."""
    return (
        ScalarValue(settings, backend) if settings.value == "scalar" else CategoricalValue(settings, device)
    )


class ScalarValue:
    """One value, with the squared error. With `agent.q_clip`, every Q and y is clipped."""

    metric_names: tuple[str, ...] = ()

    def __init__(self, settings: AgentSettings, backend: Literal["core", "torch"]) -> None:
        self._reduction, self._limit = settings.critic_reduction, settings.q_clip
        self._td_target = ops.td_target if backend == "core" else losses.td_target

    def value(self, output: Tensor) -> Tensor:
        return self._clipped(output.squeeze(2))

    def target(
        self,
        output: Tensor,
        reward: Tensor,
        terminated: Tensor,
        log_prob: Tensor,
        temperature: Tensor,
        discount: Tensor,
    ) -> tuple[Tensor, Tensor]:
        q = self.value(output)
        if self._reduction == "mean":
            q = q.mean(0, keepdim=True)
        y = self._clipped(self._td_target(reward, terminated, q, log_prob, temperature, discount))
        return y, y

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (self.value(output) - target).square()

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        return (self.value(output) - target).abs()

    def metrics(self, y: Tensor) -> dict[str, Tensor]:
        return {}

    def _clipped(self, q: Tensor) -> Tensor:
        return q.clamp(-self._limit, self._limit) if self._limit else q


class CategoricalValue:
    """Logits of a distribution over atoms from value_min to value_max, with the cross-entropy. Its mean is Q.

    c51 shifts and scales the whole distribution of the next value (Bellemare et al. 2017); two_hot and hl_gauss put the
    scalar TD target onto the atoms. The next value is that of the critic with the least mean, or of the mean
    distribution.
    """

    metric_names: tuple[str, ...] = ("targets_outside_support",)

    def __init__(self, settings: AgentSettings, device: torch.device) -> None:
        self._kind, self._reduction = settings.value, settings.critic_reduction
        self._sigma = settings.hl_gauss_sigma
        self._atoms = torch.linspace(settings.value_min, settings.value_max, settings.bins, device=device)

    def value(self, output: Tensor) -> Tensor:
        return categorical.expectation(output.softmax(2), self._atoms)

    @torch.no_grad()
    def target(
        self,
        output: Tensor,
        reward: Tensor,
        terminated: Tensor,
        log_prob: Tensor,
        temperature: Tensor,
        discount: Tensor,
    ) -> tuple[Tensor, Tensor]:
        probability = self._reduced(output.softmax(2))
        bonus = temperature * log_prob
        follows = discount * (1 - terminated)
        y = reward + follows * (categorical.expectation(probability, self._atoms) - bonus)
        if self._kind == "c51":
            moved = reward.unsqueeze(1) + follows.unsqueeze(1) * (self._atoms - bonus.unsqueeze(1))
            return categorical.project(probability, moved, self._atoms), y
        if self._kind == "two_hot":
            return categorical.two_hot(y, self._atoms), y
        return categorical.hl_gauss(y, self._atoms, self._sigma), y

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return -(target * output.log_softmax(2)).sum(2)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        return (self.value(output) - categorical.expectation(target, self._atoms)).abs()

    def metrics(self, y: Tensor) -> dict[str, Tensor]:
        outside = (y < self._atoms[0]) | (y > self._atoms[-1])
        return {"targets_outside_support": outside.float().mean()}

    def _reduced(self, probability: Tensor) -> Tensor:
        """One distribution [B, K] from those of the critics [E, B, K]."""
        if self._reduction == "mean":
            return probability.mean(0)
        least = categorical.expectation(probability, self._atoms).argmin(0)
        return probability[least, torch.arange(len(least), device=least.device)]
