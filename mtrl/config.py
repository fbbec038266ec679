"""Every number of a run. A `Config` is frozen and validated; `run_id` names the run it describes.

All sections but `run` say *what* is computed. `run` says where and how (device, threads, workers) and is not part of
`run_id`: a run can move to another machine and is still the same run.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mtrl.extensions import is_own
from mtrl.names import nearest
from mtrl.networks.kinds import KINDS, kind_of
from mtrl.run_ids import as_meant, flatten, run_id_of
from mtrl.tasks import ACTION_SIZE, BENCHMARKS, NO_SUCCESS_WITH_V1, benchmark_name, resolve_tasks

Products = Literal["float32", "tf32", "bfloat16"]  # how a device computes matrix products


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the field and the cure."""


class Section(BaseModel):
    """One part of a configuration: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _split(value: Any) -> Any:
    """One name, or several joined by `+`, as a list of them."""
    return [name for name in value.split("+") if name] if isinstance(value, str) else value


def _own(name: str) -> str:
    if not is_own(name):
        raise ValueError("write module:name, as in my_module:my_function")
    return name


def _logger(name: str) -> str:
    known = ("tensorboard", "wandb")
    if name not in known and not is_own(name):
        raise ValueError(
            f"no logger '{name}'{nearest(name, known)}; there are: {', '.join(known)}, or module:Class"
        )
    return name


class EnvSettings(Section):
    """The Meta-World tasks and their episodes."""

    tasks: Annotated[tuple[str, ...], BeforeValidator(resolve_tasks)] = BENCHMARKS["MT10"]
    horizon: int = Field(500, ge=1, le=500)  # steps per episode; Meta-World raises after 500
    goals_per_task: int = Field(50, ge=1)  # goals that resets draw from
    first_goal: int = Field(0, ge=0)  # number of goals that are skipped at the start of the task's stream
    reward_version: Literal["v1", "v2"] = (
        "v2"  # v1: some tasks never report success (tasks.NO_SUCCESS_WITH_V1)
    )
    terminate_on_success: bool = False
    fast: bool = True  # the faster Python layer, for tasks that pass the check against stock Meta-World

    def held_out(self) -> Self:
        """The same envs with the same number of other goals, on which the policy was not trained."""
        return self.model_copy(update={"first_goal": self.first_goal + self.goals_per_task})


class ReplaySettings(Section):
    """The replay buffer, and how it samples."""

    capacity: int = Field(100_000, ge=2)  # transitions per task
    mode: Literal["uniform", "uniform_shared", "prioritized", "prioritized_independent"] = "uniform_shared"
    # td_error, or module:function for a rule of your own: docs/extend/sampling.md
    priority: str = "td_error"
    alpha: float = Field(0.6, ge=0)  # priority exponent
    beta: float = Field(0.4, ge=0, le=1)  # importance-weight exponent
    # Values at the end of the run; alpha and beta change linearly. None: constant. Schaul et al. 2016: beta to 1.
    alpha_end: float | None = Field(None, gt=0)
    beta_end: float | None = Field(None, ge=0, le=1)
    n_step: int = Field(1, ge=1)  # rewards summed into one return, fewer at an episode's end
    weights: Literal["batch", "task", "buffer", "none"] = "batch"  # whose largest importance weight is 1
    balanced: bool = True  # as many transitions of every task; false: from all tasks' transitions alike
    # frame_stack: half the memory, for [frame, previous, goal] only
    rows: Literal["full", "frame_stack"] = "full"
    # 1: each batch is drawn one call earlier. It changes which transitions are drawn, so it is not named after
    # run.prefetch, which says only whether a thread does this.
    lag: Literal[0, 1] = 0

    @property
    def prioritized(self) -> bool:
        """Whether transitions have priorities."""
        return self.mode.startswith("prioritized")

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        if self.mode == "uniform_shared" and not self.balanced:
            raise ValueError(
                "uniform_shared draws the same times of every task; with balanced=false write mode=uniform"
            )
        if self.lag and not self.balanced:
            raise ValueError("lag = 1 needs the same counts in every batch; with balanced=false write lag=0")
        if self.priority != "td_error":
            _own(self.priority)
            if not self.prioritized:
                raise ValueError(
                    f"priority = {self.priority} needs mode=prioritized or prioritized_independent"
                )
        if self.alpha_end is not None and self.alpha == 0:
            raise ValueError("alpha_end needs alpha above 0: with 0 priorities are not kept")
        return self


class AgentSettings(Section):
    """SAC: batch, critics, losses, optimisers, temperatures."""

    batch_per_task: int = Field(128, ge=0)  # transitions of each task in an update; 0: as `batch` says
    batch: int = Field(0, ge=0)  # transitions of all tasks together, split evenly; 0: as batch_per_task says
    critics: int = Field(2, ge=1, le=16)  # how many
    critic_reduction: Literal["min", "mean"] = "min"  # over critics, in the target and in the actor's loss
    # Q and targets are clipped to +- this, with gradient 0 outside; 0: no clip
    q_clip: float = Field(0.0, ge=0)
    value: Literal["scalar", "two_hot", "c51", "hl_gauss"] = "scalar"  # what a critic's output is
    bins: int = Field(101, ge=2)  # atoms of a categorical value
    value_min: float = -10.0  # least atom
    value_max: float = 10.0  # greatest atom, and the limit of returns under scaling = return
    hl_gauss_sigma: float = Field(0.75, gt=0)  # bins
    scaling: Literal["none", "reward", "return"] = "none"  # of each task's rewards, so that tasks weigh alike
    loss_weights: Literal["equal", "temperature"] | tuple[Annotated[float, Field(gt=0)], ...] = "equal"
    # combines the per-task gradients of actor and critics
    gradient_surgery: Literal["none", "pcgrad", "gradnorm"] = "none"
    gradnorm_asymmetry: float = Field(0.12, ge=0)
    gradnorm_lr: float = Field(3e-4, gt=0)  # of GradNorm's task weights
    reset: Literal["both", "actor", "critic"] = "both"  # what a reset initialises, with the optimisers
    reset_every: int = Field(0, ge=0)  # vector steps between resets; 0: none
    discount: float = Field(0.99, ge=0, lt=1)
    polyak: float = Field(0.005, gt=0, le=1)
    actor_lr: float = Field(3e-4, gt=0)
    critic_lr: float = Field(3e-4, gt=0)
    temperature_lr: float = Field(3e-4, gt=0)
    adam_eps: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)  # decoupled (AdamW), of actor and critics; temperatures have none
    actor_clip: float = Field(1.0, gt=0)  # gradient norm
    critic_clip: float = Field(1.0, gt=0)  # gradient norm, joint over the critics
    initial_temperature: float = Field(1.0, gt=0)
    shared_temperature: bool = False  # one temperature for all tasks instead of one each
    target_entropy: float = -float(ACTION_SIZE)
    log_std_min: float = -20.0
    log_std_max: float = 2.0
    backend: Literal["core", "torch"] = "core"  # kernels of the extension, or their plain twin
    # matrix products on a GPU; auto: tf32 if the GPU has it, else float32 (docs/gpu.md)
    products: Literal["auto", Products] = "auto"
    cuda_graph: Literal["auto", "on", "off"] = "auto"  # on a GPU; auto: if CUDA can capture the update

    @model_validator(mode="before")
    @classmethod
    def _one_batch_size(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("batch"):
            return {"batch_per_task": 0, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.log_std_min >= self.log_std_max:
            raise ValueError("log_std_min must be below log_std_max")
        if self.value_min >= self.value_max:
            raise ValueError("value_min must be below value_max")
        if self.q_clip and self.value != "scalar":
            raise ValueError(f"value={self.value} holds Q within its support already; leave q_clip out")
        if bool(self.batch) == bool(self.batch_per_task):
            raise ValueError("one of batch and batch_per_task must be 0, the other above 0")
        if self.gradient_surgery == "gradnorm" and self.loss_weights != "equal":
            raise ValueError("gradnorm learns the weights of tasks; use loss_weights=equal with it")
        if self.loss_weights == "temperature" and self.shared_temperature:
            raise ValueError(
                "a shared temperature gives tasks no weights of their own; use loss_weights=equal with it"
            )
        reach = 10 / (1 - self.discount)
        if self.value != "scalar" and self.scaling == "none" and self.value_max < reach:
            raise ValueError(
                f"value={self.value} needs a support that holds Meta-World's returns: "
                f"use scaling=return, or value_max={reach:g} (10 a step)"
            )
        return self

    @property
    def critic_outputs(self) -> int:
        """How many numbers a critic gives for an observation and an action."""
        return 1 if self.value == "scalar" else self.bins

    def resets_at(self, vector_step: int) -> bool:
        """Whether networks are initialised again after that vector step."""
        return self.reset_every > 0 and vector_step % self.reset_every == 0


class NetworkSettings(Section):
    """Kind and size of a network (mtrl/networks). `mtrl.systems` has the paper's."""

    kind: str = "mtmhsac"  # one of mtrl/networks/kinds.py
    width: int = Field(400, ge=1, le=65_536)  # of the hidden layers, or of soft modularization's modules
    depth: int = Field(3, ge=1, le=16)  # hidden layers, layers of modules, or residual blocks
    # what a hidden layer is: networks/trunk.py
    block: Literal["plain", "layer_norm", "brc", "simba"] = "plain"
    task_embedding: int = Field(0, ge=0, le=4096)  # learned numbers of a task; 0 for its one-hot

    # or paco's parameter sets, or soft modularization's modules per layer
    experts: int = Field(4, ge=1, le=64)
    encoder_width: int = Field(50, ge=1, le=65_536)  # of care's, film's and soft modularization's encoders

    @model_validator(mode="after")
    def _used(self) -> Self:
        if is_own(self.kind):  # not loaded here: reading a configuration runs no one's code
            return self
        known = kind_of(self.kind).options
        for name in {option for kind in KINDS.values() for option in kind.options}.difference(known):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{self.kind} has no {name}; leave it out")
        return self


class ActorCriticSettings(Section):
    """The networks of the actor and of each critic."""

    actor: NetworkSettings = NetworkSettings()
    critic: NetworkSettings = NetworkSettings()


class TrainSettings(Section):
    """The seed and the length of a run."""

    seed: int = Field(0, ge=0, lt=2**31)
    vector_steps: int = Field(2_000_000, ge=1)  # one step of every task's env
    random_steps: int = Field(4_000, ge=0)  # vector steps of uniform random actions before the first update
    updates_per_step: int = Field(1, ge=1)  # gradient updates per vector step
    # update while env workers step; the batch lacks the transitions of that step
    overlap: bool = False


class EvaluateSettings(Section):
    """When a run is evaluated, and on which episodes."""

    every: int = Field(20_000, ge=1)  # vector steps between evaluations; the last step is always evaluated
    episodes: int = Field(50, ge=1)  # deterministic episodes per task
    goals: Literal["training", "held_out"] = "training"  # held_out: as many others of each task's stream
    # play on to the horizon after success, so that returns are of whole episodes
    whole_episodes: bool = False
    # envs that share a task's episodes; more than one keep several env workers busy to the end
    envs_per_task: int = Field(1, ge=1)

    def steps(self, vector_steps: int) -> tuple[int, ...]:
        """The vector steps after which an evaluation takes place, the last one included."""
        return (*range(self.every, vector_steps, self.every), vector_steps)

    def number(self, vector_step: int) -> int:
        """Which evaluation, counted from 0, takes place after that vector step."""
        return -(-vector_step // self.every) - 1


class PlasticitySettings(Section):
    """How plasticity is measured at every evaluation, on the latest batch and on a fixed one."""

    dormant_threshold: float = Field(0.1, ge=0)  # tau, relative to the mean activation of the layer
    batch_per_task: int = Field(128, ge=1)  # transitions of each task in the fixed batch
    gradient_rows: int = Field(16, ge=1)  # transitions of each task that give its gradient


class DivergenceSettings(Section):
    """When a run counts as diverged; docs/guide.md has the reasons. NaN and infinity always end it."""

    action: Literal["stop", "continue"] = "stop"  # at a limit; both record the first time
    # |Q|: the batch mean after every update, each row at evaluations. None: 100 / (1 - agent.discount), ten times the
    # largest return that Meta-World's rewards (at most 10 per step) can give.
    q_limit: float | None = Field(None, gt=0)
    # |loss| of critics, actor and temperature; None: q_limit squared
    loss_limit: float | None = Field(None, gt=0)


class RunSettings(Section):
    """Where and how a run is computed. None of these changes its run id."""

    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto: cuda if torch sees a GPU
    # memory of the replay's rows in a run on a GPU; auto: the device's, if they fit in half of its free memory
    replay: Literal["auto", "host", "device"] = "auto"
    threads: int = Field(1, ge=1)  # of torch and the kernels; at most OMP_NUM_THREADS and the usable CPUs
    matmul: Literal["auto", "own", "blas"] = "auto"  # the library of the kernels' products (docs/kernels.md)
    cublaslt: Literal["auto", "off"] = "auto"  # on a GPU: cuBLASLt, if it passes its check (docs/gpu.md)
    # Processes that step envs; 0 steps them in this process. None: usable CPUs minus one, for a run on a GPU or with
    # train.overlap; else 0.
    env_workers: int | None = Field(None, ge=0)
    env_restarts: int = Field(0, ge=0)  # how many dead env workers are replaced; one more ends the run
    prefetch: bool | None = None  # replay.lag = 1 draws on a thread; None: if it may use more than one CPU
    check_inputs: bool = False  # raise at a batch with NaN or infinity instead of training on it
    checkpoint_seconds: float = Field(300.0, gt=0)  # between checkpoints
    # "tensorboard", "wandb", or module:Class; docs/extend/logger.md
    loggers: Annotated[tuple[Annotated[str, AfterValidator(_logger)], ...], BeforeValidator(_split)] = ()
    # module:function, each a metric of every evaluation; docs/extend/metric.md
    metrics: Annotated[tuple[Annotated[str, AfterValidator(_own)], ...], BeforeValidator(_split)] = ()
    # folder of a file with the replay's rows, for a replay larger than memory; empty: rows in memory
    replay_folder: str = ""


class Config(Section):
    """The whole configuration of one run."""

    env: EnvSettings = EnvSettings()
    replay: ReplaySettings = ReplaySettings()
    agent: AgentSettings = AgentSettings()
    network: ActorCriticSettings = ActorCriticSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    plasticity: PlasticitySettings = PlasticitySettings()
    divergence: DivergenceSettings = DivergenceSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        agent, tasks = self.agent, len(self.env.tasks)
        if repeated := [task for task in set(self.env.tasks) if self.env.tasks.count(task) > 1]:
            raise ValueError(
                f"env.tasks: '{min(repeated)}' is named twice; in a run each task has one env and one head"
            )
        if 0 < agent.batch < tasks:
            raise ValueError(f"agent.batch = {agent.batch} gives some of the {tasks} tasks no transition")
        if agent.gradient_surgery != "none" and tasks < 2:
            raise ValueError(f"agent.gradient_surgery = {agent.gradient_surgery} needs at least two tasks")
        if isinstance(agent.loss_weights, tuple) and len(agent.loss_weights) != tasks:
            given = len(agent.loss_weights)
            raise ValueError(f"agent.loss_weights has {given} numbers for {tasks} tasks; give one for each")
        if agent.scaling == "return" and self.train.random_steps < self.env.horizon:
            raise ValueError(
                "agent.scaling = return needs an episode of each task before the first update: "
                f"use train.random_steps of at least env.horizon = {self.env.horizon}"
            )
        if self.train.overlap and self.train.random_steps < self.replay.n_step:
            raise ValueError(
                "train.overlap = true updates before the first step has given its transitions: "
                f"use train.random_steps of at least replay.n_step = {self.replay.n_step}"
            )
        if agent.reset_every >= self.train.vector_steps:
            raise ValueError(
                f"agent.reset_every = {agent.reset_every} never comes within {self.train.vector_steps} vector steps"
            )
        return self

    @model_validator(mode="after")
    def _warn_of_rewards(self) -> Self:
        silent = [task for task in self.env.tasks if task in NO_SUCCESS_WITH_V1]
        if self.env.reward_version == "v1" and silent:
            warnings.warn(
                f"env.reward_version=v1: Meta-World never reports success for {', '.join(silent)}; use v2",
                stacklevel=2,
            )
        return self

    @property
    def batch_rows(self) -> tuple[int, ...]:
        """Transitions of each task in an update. If agent.batch does not divide, the first tasks have one more."""
        tasks = len(self.env.tasks)
        if self.agent.batch_per_task:
            return (self.agent.batch_per_task,) * tasks
        each, left = divmod(self.agent.batch, tasks)
        return tuple(each + (task < left) for task in range(tasks))

    @property
    def divergence_limits(self) -> dict[str, float]:
        """{"q": limit of |Q|, "loss": limit of |loss|}, as the section `divergence` has them."""
        given = self.divergence
        q = given.q_limit or 100 / (1 - self.agent.discount)
        return {"q": q, "loss": given.loss_limit or q**2}

    @property
    def run_id(self) -> str:
        """12 hexadecimal digits: a hash of the fields that differ from the defaults, `run` apart (mtrl/run_ids.py)."""
        return run_id_of(self.model_dump(mode="json", exclude={"run"}, exclude_defaults=True))

    @property
    def benchmark(self) -> str:
        """MT10, MT25, MT50, or the task names joined by `+`."""
        return benchmark_name(self.env.tasks)


def changed_fields(before: Mapping[str, Any], config: Config) -> list[str]:
    """Each field, `run` apart, in which a stored configuration differs from `config`: "train.seed is 1, was 0".

    If an earlier version wrote `before`, it may lack a field. The field then counts as what that version did
    (`mtrl.run_ids.EARLIER`), or else as its default.
    """
    defaults, after = flatten(Config().model_dump(mode="json")), flatten(config.model_dump(mode="json"))
    old = defaults | flatten(as_meant(before))
    return [
        f"{key} is {_short(after.get(key, 'absent'))}, was {_short(old[key])}"
        for key in sorted(old)
        if not key.startswith("run.") and old[key] != after.get(key, "absent")
    ]


def _short(value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
