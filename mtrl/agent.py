"""Multi-task soft actor-critic as the paper trains it (PAPER §2), with one temperature per task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mtrl import devices, ops
from mtrl.adam import Adam, flatten
from mtrl.config import Config, Products
from mtrl.extensions import is_own
from mtrl.fused_update import build_fused
from mtrl.networks import tanh_gaussian
from mtrl.networks.build import build_actor, build_critic
from mtrl.noise import Noise
from mtrl.objective import losses
from mtrl.objective.gradient_surgery import Counts, GradientRule, RowLoss, build_gradient_rule
from mtrl.objective.return_scale import ReturnScale
from mtrl.objective.value_heads import build_value_head
from mtrl.replay import Batch, Replay
from mtrl.tasks import ACTION_SIZE
from mtrl.transitions import Columns, Transitions, check_finite

UPDATE_METRICS = ops.METRICS
if TYPE_CHECKING:
    from mtrl.cuda.agent_graphs import AgentGraphs, LateMetrics
    from mtrl.cuda.replay import ReplayCuda

log = logging.getLogger(__name__)


class Update(NamedTuple):
    """The result of one update."""

    names: tuple[str, ...]  # UPDATE_METRICS and those of the value head
    # of these metrics; a tensor [M] if torch computed them
    values: list[float] | Tensor | LateMetrics
    priority: Tensor  # [B], mean over critics of |Q - y|

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics as numbers. On a GPU this waits for the update, unless later actions brought them."""
        values = self.values if isinstance(self.values, list) else self.values.tolist()
        return dict(zip(self.names, values, strict=True))


class _CriticLoss(NamedTuple):
    of_rows: RowLoss  # also fills q and error
    target: Tensor  # [B], the TD target
    q: Tensor  # [E, B]
    error: Tensor  # [B], mean over critics of |Q - y|


class _ActorLoss(NamedTuple):
    of_rows: RowLoss  # also fills log_prob
    log_prob: Tensor  # [B]


class _Shared(TypedDict):
    eps: float
    backend: str


class Agent:
    """Actor, critic ensemble, its Polyak average, and one temperature per task.

    All random numbers come from `config.train.seed`, through separate generators for the initial weights, for actions
    and for updates. The weights are drawn on the CPU, so a seed gives the same networks on any device.
    """

    def __init__(self, config: Config, *, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        settings = config.agent
        self.backend: Literal["core", "torch"] = settings.backend
        self.products: Products = "float32"  # of this run, also where agent.products = auto
        if devices.is_gpu(self.device):
            from mtrl.cuda import preflight

            self._use_products(settings.products)
            if self.backend == "core" and (fault := preflight.fault(self.device)):
                log.error("the agent is plain torch, many times slower than the CUDA kernels: %s", fault)
                self.backend = "torch"
        initial = _generator(config.train.seed, 0, device="cpu")
        self.actor = build_actor(config, initial, self.backend).to(self.device)
        self.critic = build_critic(config, initial, self.backend).to(self.device)
        self.target = build_critic(config, initial, self.backend).to(self.device).requires_grad_(False)
        *actor, actor_starts = flatten(list(self.actor.parameters()))
        *critic, critic_starts = flatten(list(self.critic.parameters()))
        self.target_value, *_ = flatten(list(self.target.parameters()))
        self.target_value.copy_(critic[0])
        temperatures = 1 if settings.shared_temperature else len(config.env.tasks)
        log_temperature = torch.full((temperatures,), settings.initial_temperature).log()
        self.log_temperature = log_temperature.to(self.device)
        shared: _Shared = {"eps": settings.adam_eps, "backend": self.backend}
        decay = settings.weight_decay
        self.actor_adam = Adam(
            *actor, lr=settings.actor_lr, clip=settings.actor_clip, weight_decay=decay, **shared
        )
        self.critic_adam = Adam(
            *critic, lr=settings.critic_lr, clip=settings.critic_clip, weight_decay=decay, **shared
        )
        self.temperature_adam = Adam(
            self.log_temperature,
            torch.zeros_like(self.log_temperature),
            lr=settings.temperature_lr,
            clip=float("inf"),
            **shared,
        )
        self._all_adams = (self.actor_adam, self.critic_adam, self.temperature_adam)
        self.value_head = build_value_head(settings, self.backend, self.device)
        self.actor_rule = self._build_rule(3)
        self.critic_rule = self._build_rule(4)
        fixed = settings.loss_weights
        self.loss_weight = (
            torch.ones(len(config.env.tasks)) if isinstance(fixed, str) else torch.tensor(fixed)
        )
        self.loss_weight = self.loss_weight.to(self.device)
        self.return_scale = ReturnScale(len(config.env.tasks), settings.discount)
        networks = (self.actor, actor_starts), (self.critic, critic_starts)
        self.fused = build_fused(config, self.backend, *networks, self.device)
        self.tasks = torch.arange(len(config.env.tasks), device=self.device)
        self.act_noise = Noise(_generator(config.train.seed, 1, device=self.device))
        self.update_noise = Noise(_generator(config.train.seed, 2, device=self.device))
        self.graphs = self._build_graphs()

    def _use_products(self, wanted: Literal["auto", Products]) -> None:
        """Sets how this process computes matrix products on the GPU."""
        from mtrl.cuda import ops as cuda_ops

        self.products = devices.resolve_products(wanted, self.device)
        cuda_ops.set_products(self.products)

    def act(
        self, observation: ArrayLike, tasks: NDArray[np.int64] | None = None, *, deterministic: bool = False
    ) -> NDArray[np.float32]:
        """Actions [N, 4] for observations [N, 39] of `tasks` [N]; by default row i is task i's.

        Deterministic actions use no random number.
        """
        rows = np.ascontiguousarray(observation, dtype=np.float32)
        noise = None if deterministic else self.act_noise.draw(len(rows), ACTION_SIZE)
        if isinstance(self.fused, ops.SacUpdate):
            return self.fused.act(self.actor_adam.value, rows, self.tasks if tasks is None else tasks, noise)
        task = self.tasks if tasks is None else torch.as_tensor(tasks, device=self.device)
        return self._act_by_torch(torch.as_tensor(rows, device=self.device), task, noise).cpu().numpy()

    @torch.no_grad()
    def _act_by_torch(self, rows: Tensor, task: Tensor, noise: Tensor | None) -> Tensor:
        if self.graphs is not None and noise is not None and task is self.tasks:
            return self.graphs.act(rows, noise)
        if self.fused is not None and not isinstance(self.fused, ops.SacUpdate):
            return self.fused.act(self.actor_adam.value, rows, task, noise)
        output = self.actor(rows, task)[0]
        return tanh_gaussian.mode(output) if noise is None else self._sample(output, noise)[0]

    def observe(
        self, reward: NDArray[Any], terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]
    ) -> None:
        """Updates the return scale, if there is one, with a vector step's rewards and flags, [T] each."""
        if self.config.agent.scaling == "return":
            self.return_scale.observe(reward, terminated, truncated)

    def update(self, batch: Transitions, counts: Counts = None) -> Update:
        """Updates critics, target, actor and temperatures, in this order, all with the old temperature.

        counts [T]: the number of rows of each task, if the rows are ordered by task. Then per-task gradients need not
        wait for a GPU. If a CUDA graph computes the update, the next call overwrites it.
        """
        if self.config.run.check_inputs:
            check_finite(batch)
        rows = batch.reward.shape[0]
        noise = self.update_noise.draw(rows, ACTION_SIZE), self.update_noise.draw(rows, ACTION_SIZE)
        columns = self._columns(batch)
        if isinstance(self.fused, ops.SacUpdate):
            return self._update_fused(self.fused, columns, noise)
        if self.graphs is not None:
            values, priority = self.graphs.update(columns, noise)
        else:
            values, priority = self._update_by_autograd(columns, noise, counts)
        return Update(self.update_metrics, values, priority)

    def _update_by_autograd(
        self, batch: Columns, noise: tuple[Tensor, ...], counts: Counts
    ) -> tuple[Tensor, Tensor]:
        """The values of `update_metrics`, and the priorities."""
        temperature = self._own(self.log_temperature.exp(), batch.task)
        weight = self._loss_weight(batch.task)
        critic, priority = self._update_critic(batch, weight, temperature, noise[0], counts)
        actor, log_prob = self._update_actor(batch, weight, temperature, noise[1], counts)
        metrics = critic | actor | self._update_temperature(batch.task, log_prob)
        return torch.stack([metrics[name] for name in self.update_metrics]), priority

    def learns_in_one_graph(self, replay: Replay | ReplayCuda) -> TypeGuard[ReplayCuda]:
        """Whether `learn` can be used: if the host decides nothing between sampling and the new priorities."""
        settings = self.config.replay
        return (
            not isinstance(replay, Replay)
            and self.graphs is not None
            and settings.balanced
            and not settings.lag
            and settings.alpha_end is None
            and settings.beta_end is None
            and settings.priority == "td_error"
            and self.config.agent.scaling != "return"
            and self.config.agent.cuda_graph != "off"
            and not self.config.run.check_inputs
        )

    def learn(self, replay: ReplayCuda, counts: Sequence[int]) -> tuple[Batch, Update]:
        """`replay.sample`, `update` and `replay.update_priorities` as one CUDA graph. Needs `learns_in_one_graph`.

        Pass the same replay and counts [T] in every call. The next call overwrites the batch and the update.
        """
        assert self.graphs is not None
        rows = sum(counts)
        noise = self.update_noise.draw(rows, ACTION_SIZE), self.update_noise.draw(rows, ACTION_SIZE)
        batch, metrics, priority = self.graphs.learn(replay, counts, noise)
        return batch, Update(self.update_metrics, metrics, priority)

    def reset(self, vector_step: int) -> None:
        """Initialises the networks that `agent.reset` names, and their optimisers (Nikishin et al. 2022)."""
        generator = _generator(self.config.train.seed, 5, vector_step, device="cpu")
        if self.config.agent.reset != "critic":
            self.actor.load_state_dict(build_actor(self.config, generator, self.backend).state_dict())
            self.actor_adam.reset()
            self.actor_rule.reset()
        if self.config.agent.reset != "actor":
            self.critic.load_state_dict(build_critic(self.config, generator, self.backend).state_dict())
            self.target.load_state_dict(self.critic.state_dict())
            self.critic_adam.reset()
            self.critic_rule.reset()
        log.info("vector step %d: reset %s", vector_step, self.config.agent.reset)

    def _update_fused(self, fused: ops.SacUpdate, batch: Columns, noise: tuple[Tensor, Tensor]) -> Update:
        actor, critic, temperature = (adam.flat() for adam in self._all_adams)
        metrics, priority = fused(actor, critic, self.target_value, temperature, batch, noise)
        for adam in self._all_adams:
            adam.steps += 1
        return Update(UPDATE_METRICS, metrics, priority)

    def _build_graphs(self) -> AgentGraphs | None:
        """The CUDA graphs of updates and of acting; None on a CPU, and where updates through autograd are not captured.

        No Python runs again in a graph. So rules that draw or decide something on the host are not captured, and a
        network of a user's own only where the user says so.
        """
        if not devices.is_gpu(self.device) or self.backend != "core":
            return None
        from mtrl.cuda.agent_graphs import AgentGraphs

        mode, network = self.config.agent.cuda_graph, self.config.network
        fused, adams, target = self.fused, self._all_adams, self.target_value
        if fused is not None:
            assert not isinstance(fused, ops.SacUpdate)
            flats = [adam.flat() for adam in adams]
            return AgentGraphs(
                lambda rows, steps: fused.update_of(rows, flats, target, steps),
                lambda observation, noise: fused.act(self.actor_adam.value, observation, self.tasks, noise),
                adams, target, fused.metrics, mode,
            )  # fmt: skip
        own = is_own(network.actor.kind) or is_own(network.critic.kind)
        if mode == "off" or (mode == "auto" and own) or self.config.agent.gradient_surgery != "none":
            return None
        metrics = torch.zeros(len(self.update_metrics), device=self.device)

        def update(*inputs: Tensor) -> Tensor:
            values, priority = self._update_by_autograd(Columns(*inputs[:-2]), inputs[-2:], None)
            metrics.copy_(values)
            return priority

        return AgentGraphs(
            lambda rows, steps: update,
            lambda observation, noise: self._sample(self.actor(observation, self.tasks)[0], noise)[0],
            adams, target, metrics, mode,
        )  # fmt: skip

    def _build_rule(self, stream: int) -> GradientRule:
        generator = _generator(self.config.train.seed, stream, device="cpu")
        return build_gradient_rule(self.config.agent, len(self.config.env.tasks), generator, self.device)

    def _columns(self, batch: Transitions) -> Columns:
        """The transitions, their rewards scaled as `agent.scaling` says."""
        settings, reward = self.config.agent, batch.reward
        if settings.scaling == "return":
            temperature = self._own(self.log_temperature.exp(), self.tasks)
            scale = self.return_scale.scale(temperature, settings.target_entropy, settings.value_max)
            reward = reward / scale[batch.task]
        first, last = (batch.observation, batch.action), (batch.task, batch.weight, batch.discount)
        return Columns(*first, reward, batch.terminated, batch.next_observation, *last)

    def _loss_weight(self, task: Tensor) -> Tensor:
        """The weight [B] of each row's loss in the sums of actor and critics."""
        if self.config.agent.loss_weights == "temperature":
            return losses.temperature_weights(self._own(self.log_temperature, self.tasks))[task]
        return self.loss_weight[task]

    def _update_critic(
        self,
        batch: Columns,
        weight: Tensor,
        temperature: Tensor,
        noise: Tensor,
        counts: Counts,
    ) -> tuple[dict[str, Tensor], Tensor]:
        parts = self._critic_loss(batch, weight, temperature, noise)
        loss = self.critic_rule(self.critic_adam.gradient, parts.of_rows, batch.task, counts)
        norm = self.critic_adam.step(self.target_value, self.config.agent.polyak)
        metrics = {"critic_loss": loss, "q_mean": parts.q.mean(), "critic_gradient_norm": norm}
        return metrics | self.value_head.metrics(parts.target), parts.error

    def _critic_loss(self, batch: Columns, weight: Tensor, temperature: Tensor, noise: Tensor) -> _CriticLoss:
        with torch.no_grad():
            action, log_prob = self._sample(self.actor(batch.next_observation, batch.task)[0], noise)
            next_output = self.target(torch.cat((action, batch.next_observation), 1), batch.task)
        target, y = self.value_head.target(
            next_output, batch.reward, batch.terminated, log_prob, temperature, batch.discount
        )
        x = torch.cat((batch.action, batch.observation), 1)
        weight = weight * batch.weight
        error = torch.empty_like(batch.reward)
        q = error.new_empty((self.config.agent.critics, len(error)))

        def of_rows(rows: Tensor | slice) -> Tensor:
            output = self.critic(x[rows], batch.task[rows])
            with torch.no_grad():
                q[:, rows] = self.value_head.value(output)
                error[rows] = self.value_head.error(output, target[rows]).mean(0)
            return weight[rows] * self.value_head.loss(output, target[rows]).mean(0)

        return _CriticLoss(of_rows, y, q, error)

    def _update_actor(
        self, batch: Columns, weight: Tensor, temperature: Tensor, noise: Tensor, counts: Counts
    ) -> tuple[dict[str, Tensor], Tensor]:
        parts = self._actor_loss(batch, weight, temperature, noise)
        loss = self.actor_rule(self.actor_adam.gradient, parts.of_rows, batch.task, counts)
        norm = self.actor_adam.step()
        return {"actor_loss": loss, "actor_gradient_norm": norm}, parts.log_prob

    def _actor_loss(self, batch: Columns, weight: Tensor, temperature: Tensor, noise: Tensor) -> _ActorLoss:
        log_prob = torch.empty_like(temperature)

        def of_rows(rows: Tensor | slice) -> Tensor:
            observation, task = batch.observation[rows], batch.task[rows]
            action, density = self._sample(self.actor(observation, task)[0], noise[rows])
            log_prob[rows] = density.detach()
            self.critic.requires_grad_(False)  # the actor's loss must not change the critics
            q = self.value_head.value(self.critic(torch.cat((action, observation), 1), task))
            self.critic.requires_grad_(True)
            loss = losses.actor_loss(density, q, temperature[rows], self.config.agent.critic_reduction)
            return weight[rows] * loss

        return _ActorLoss(of_rows, log_prob)

    def _update_temperature(self, task: Tensor, log_prob: Tensor) -> dict[str, Tensor]:
        log_temperature = self.log_temperature.detach().requires_grad_()
        own = self._own(log_temperature, task)
        loss = losses.temperature_loss(own, log_prob, self.config.agent.target_entropy)
        (gradient,) = torch.autograd.grad(loss, log_temperature)
        self.temperature_adam.gradient.copy_(gradient)
        self.temperature_adam.step()
        return {"temperature_loss": loss.detach()}

    @torch.no_grad()
    def q(self, batch: Transitions) -> Tensor:
        """The critics' values [E, B] of the batch's actions."""
        x = torch.cat((batch.action, batch.observation), 1)
        return self.value_head.value(self.critic(x, batch.task))

    @torch.no_grad()
    def features(self, batch: Transitions) -> dict[str, list[Tensor]]:
        """Activations [B, W] of the hidden layers of the actor and of critic 0, on the batch."""
        x = torch.cat((batch.action, batch.observation), 1)
        actor = self.actor.features(batch.observation, batch.task)
        critic = self.critic.features(x, batch.task)
        return {"actor": [layer[0] for layer in actor], "critic": [layer[0] for layer in critic]}

    def row_losses(self, batch: Transitions) -> dict[str, tuple[Adam, RowLoss]]:
        """For each network its optimiser, and a function that returns its loss for rows of the batch.

        Every call uses the same noise, so that losses on one batch differ only because the networks do.
        """
        generator = _generator(self.config.train.seed, 6, device=self.device)
        next_noise, noise = Noise(generator).draw(2, len(batch.reward), ACTION_SIZE)
        columns, weight = self._columns(batch), self._loss_weight(batch.task)
        temperature = self._own(self.log_temperature.exp(), batch.task)
        critic = self._critic_loss(columns, weight, temperature, next_noise)
        actor = self._actor_loss(columns, weight, temperature, noise)
        return {"actor": (self.actor_adam, actor.of_rows), "critic": (self.critic_adam, critic.of_rows)}

    @property
    def adams(self) -> dict[str, Adam]:
        """The optimisers of the actor and of the critics."""
        return {"actor": self.actor_adam, "critic": self.critic_adam}

    @property
    def layers(self) -> int:
        """The number of hidden layers of the deeper network."""
        return max(self.actor.hidden_layers, self.critic.hidden_layers)

    @property
    def update_metrics(self) -> tuple[str, ...]:
        """The names of `update().metrics`."""
        return (*UPDATE_METRICS, *self.value_head.metric_names)

    @property
    def temperature(self) -> NDArray[np.float32]:
        """The entropy temperature of each task, [T]."""
        return self._own(self.log_temperature.exp(), self.tasks).cpu().numpy()

    @property
    def parameters(self) -> dict[str, int]:
        """The numbers of parameters: actor, critic (all critics together), target, total = actor + critic."""
        actor = sum(p.numel() for p in self.actor.parameters())
        critic = sum(p.numel() for p in self.critic.parameters())
        return {"actor": actor, "critic": critic, "target": critic, "total": actor + critic}

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that the next update or action depends on: tensors, ints and dicts of them."""
        modules = {"actor": self.actor, "critic": self.critic, "target": self.target}
        on_gpu = {"products": self.products} if devices.is_gpu(self.device) else {}
        return {
            **on_gpu,
            **{name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in modules.items()},
            "log_temperature": self.log_temperature.clone(),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`, bit for bit on the same kind of device.

        On another kind of device the random numbers are those of a new agent. On a GPU the products stay those of the
        state: raises ConfigError if this GPU lacks TF32.
        """
        if devices.is_gpu(self.device) and "products" in state:
            self._use_products(state["products"])
        for name, module in (("actor", self.actor), ("critic", self.critic), ("target", self.target)):
            module.load_state_dict(state[name])
        self.log_temperature.copy_(state["log_temperature"])
        for name, part in self._parts().items():
            if name in state:  # weights of an earlier version have no state of the noise
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Adam | GradientRule | ReturnScale | Noise]:
        return {
            "actor_adam": self.actor_adam,
            "critic_adam": self.critic_adam,
            "temperature_adam": self.temperature_adam,
            "actor_rule": self.actor_rule,
            "critic_rule": self.critic_rule,
            "return_scale": self.return_scale,
            "act_noise": self.act_noise,
            "update_noise": self.update_noise,
        }

    def _sample(self, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        settings = self.config.agent
        return tanh_gaussian.sample(output, noise, settings.log_std_min, settings.log_std_max)

    def _own(self, temperature: Tensor, task: Tensor) -> Tensor:
        """The temperature [B] of each row's task, from one per task [T] or one for all [1]."""
        shared = self.config.agent.shared_temperature
        return temperature.expand(len(task)).contiguous() if shared else temperature[task]


def _generator(seed: int, *stream: int, device: torch.device | str) -> torch.Generator:
    """The generator of one of a seed's independent streams of random numbers."""
    state = np.random.SeedSequence((seed, *stream)).generate_state(1)
    return torch.Generator(device).manual_seed(int(state[0]))
