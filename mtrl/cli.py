"""The command `mtrl`: one run at a time. Sweeps have their own command, `mtrl-sweep`."""

from __future__ import annotations

import json
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mtrl.agent import Agent
    from mtrl.config import Config
    from mtrl.sizing import By, Parameters
    from mtrl.train import Progress


class CleanErrors(click.Group):
    """Shows errors that a user can mend as one line, without a traceback."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except BrokenPipeError:  # the reader closed the pipe, as `head` does; click exits silently
            raise
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=CleanErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mtrl-scaling")
def main() -> None:
    """Train and evaluate one multi-task agent on Meta-World."""


@main.command()
@click.argument("settings", nargs=-1, metavar="[preset=NAME] [KEY=VALUE]...")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/single/<run id>]"
)
@click.option(
    "--extend",
    "shorter",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a shorter run to continue: its settings hold, except those given. The folder does not change.",
)
def train(settings: tuple[str, ...], out: Path | None, shorter: Path | None) -> None:
    """Train one run, or resume it if it was stopped.

    \b
    mtrl train preset=debug
    mtrl train preset=paper env.tasks=MT10 network.critic.width=1024 run.device=cuda
    mtrl train --extend runs/single/RUN_ID train.vector_steps=4_000_000
    """
    from mtrl.run_folder import as_begun, find_run

    config = _read_longer_run(shorter, settings) if shorter else _read_settings(settings)
    directory = out or find_run(Path("runs/single"), config)
    if (begun := as_begun(directory, config)) != config:
        click.echo(
            f"{directory} was begun by an earlier version and keeps its settings: {_what_differs(config, begun)}."
        )
        click.echo("Give another folder with --out to start a new run.")
        config = begun
    if outcome := _ended(directory, config):
        click.echo(f"{directory} holds this run, {_describe(directory, outcome)}. Delete it to train again.")
        sys.exit(outcome == "diverged")
    directory.mkdir(parents=True, exist_ok=True)
    if shorter:
        from mtrl.longer_run import start_longer_run

        start_longer_run(shorter, directory, config)
    outcome = _train_with_progress(config, directory)
    if outcome == "stopped":
        click.echo(f"Stopped; the checkpoint is in {directory}. The same command resumes from it.")
        sys.exit(130)
    click.echo(f"{_describe(directory, outcome)}: {directory / 'run.h5'}")
    if outcome == "diverged":
        sys.exit(1)


A_POLICY = click.argument(
    "place", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=Path)
)


@main.command()
@A_POLICY
@click.option("--episodes", type=click.IntRange(min=1), help="Episodes per task.  [default: the run's own]")
def evaluate(place: Path, episodes: int | None) -> None:
    """Evaluate a run's deterministic policy.

    RUN is the folder of a finished run, or one checkpoint of a run: FOLDER/checkpoint/STEP.
    """
    from mtrl.monitor.evaluate import Evaluator

    agent = _load_agent(place)
    config = agent.config
    if episodes:
        config = config.model_copy(
            update={"evaluate": config.evaluate.model_copy(update={"episodes": episodes})}
        )
    evaluator = Evaluator(config)
    try:
        metrics = evaluator.evaluate(_policy(agent))
    finally:
        evaluator.close()
    for index, task in enumerate(config.env.tasks):
        click.echo(
            f"{task:28} success {metrics['success'][index]:.2f}  return {metrics['return'][index]:.1f}"
        )


@main.command()
@A_POLICY
@click.option("--task", help="One task.  [default: each task of the run]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the pictures.  [default: the run's]")
def video(place: Path, task: str | None, out: Path | None) -> None:
    """Film one episode per task of a run's deterministic policy, each as a .gif.

    RUN is the folder of a finished run, or one checkpoint of a run: FOLDER/checkpoint/STEP.
    """
    from mtrl.envs import VectorEnv, record_video
    from mtrl.names import nearest

    agent = _load_agent(place)
    config = agent.config
    tasks = config.env.tasks
    if task and task not in tasks:
        raise click.ClickException(
            f"the run has no task '{task}'{nearest(task, tasks)}; it has: {', '.join(tasks)}"
        )
    folder = out or _run_folder(place)
    folder.mkdir(parents=True, exist_ok=True)
    envs = VectorEnv(config.env, seed=config.train.seed, workers=0)
    try:
        for row, name in enumerate(tasks):
            if task in (None, name):
                record_video(envs, _policy(agent), folder / f"{name}.gif", row=row)
                click.echo(folder / f"{name}.gif")
    except RuntimeError as error:  # neither EGL nor OSMesa is here; the message has the cure
        raise click.ClickException(str(error)) from error
    finally:
        envs.close()


@main.command()
@A_POLICY
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file.  [default: policy.pt2 in the run's folder]",
)
def export(place: Path, output: Path | None) -> None:
    """Write a run's deterministic policy as one file that needs only torch (torch.export).

    RUN is the folder of a finished run, or one checkpoint of a run: FOLDER/checkpoint/STEP. The policy takes any number
    of rows: observations as Meta-World gives them, and the index of each row's task. The file lists the tasks in order.
    """
    from mtrl.export import USAGE, export_policy

    path = output or _run_folder(place) / "policy.pt2"
    if path.suffix != ".pt2":
        raise click.UsageError(f"--output {path}: torch.export loads files that end in .pt2")
    export_policy(_load_agent(place), path)
    click.echo(USAGE.format(path=path), nl=False)


@main.command()
@click.argument("settings", nargs=-1, metavar="[preset=NAME] [system=NAME] [KEY=VALUE]...")
@click.option(
    "--match",
    type=click.Choice(["actor", "critic", "total"]),
    help="Give the width of the multi-head MLP whose number of parameters is nearest: actor, critics, or both.",
)
def params(settings: tuple[str, ...], match: By | None) -> None:
    """Count the parameters of a run's networks, or find the MLP of equal size, without building a network.

    \b
    mtrl params system=moore env.tasks=MT50
    mtrl params system=moore env.tasks=MT10 --match actor
    mtrl params network.actor.kind=paco network.actor.experts=7 --match actor
    """
    from mtrl.sizing import count_parameters

    config = _read_settings(settings)
    counted = count_parameters(config)
    if match:
        config = _matched(config, counted, match)
        counted = count_parameters(config)
    for name in ("actor", "critic", "target", "total"):
        click.echo(f"{name:7}{getattr(counted, name):>14,}")


def _matched(config: Config, wanted: Parameters, by: By) -> Config:
    """`config` with the MLP of the count nearest `wanted` for its actor and critics, after saying its width."""
    from mtrl.config import ActorCriticSettings, NetworkSettings
    from mtrl.sizing import matched_width

    outputs = config.agent.critic_outputs
    width = matched_width(wanted, by, len(config.env.tasks), config.agent.critics, outputs)
    click.echo(f"width {width}: the MLP nearest to {getattr(wanted, by):,} parameters ({by})")
    mlp = NetworkSettings(width=width)
    return config.model_copy(update={"network": ActorCriticSettings(actor=mlp, critic=mlp)})


@main.command()
def doctor() -> None:
    """Show what this machine offers, and how to install what is missing."""
    from mtrl.doctor import examine

    findings = examine()
    marks = {"good": "ok     ", "missing": "absent ", "broken": "BROKEN "}
    for finding in findings:
        click.echo(f"{marks[finding.state]}{finding.subject:11} {finding.found}")
        if finding.cure:
            click.echo(f"{'':18} -> {finding.cure}")
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)


def _what_differs(config: Config, begun: Config) -> str:
    """The settings, as key=value, that turn `config` into `begun`."""
    from mtrl.run_ids import flatten

    before, after = (flatten(one.model_dump(mode="json")) for one in (config, begun))
    differing = {key: value for key, value in after.items() if before[key] != value}
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in differing.items()
    )


def _ended(directory: Path, config: Config) -> str | None:
    """How the run of `config` in the folder ended; None if it can be trained. Raises for another run's folder."""
    from mtrl.run_folder import ended

    if (directory / "agent.pt").exists() and not (directory / "run.h5").exists():
        raise click.ClickException(
            f"{directory} has weights (agent.pt) but no run.h5 that says which run they are from; move them away"
        )
    return ended(directory, config)


def _describe(directory: Path, outcome: str) -> str:
    """The outcome in words; if the run diverged, with the step and the cause."""
    from mtrl.results import read_run

    if outcome != "diverged":
        return "finished" if outcome == "done" else outcome
    run = read_run(directory / "run.h5")
    return f"{run.divergence}{', and training continued' if run.trained_on else ''}"


def _load_agent(place: Path) -> Agent:
    """The agent, on the CPU, of a finished run's folder or of one checkpoint."""
    from mtrl.agent import Agent
    from mtrl.checkpoint import load_tensors, newest_checkpoint, read_agent
    from mtrl.results import read_run

    if (place / "agent.pt").exists():
        config, state = read_run(place / "run.h5").config, load_tensors(place / "agent.pt")
    elif (place / "about.json").exists():
        config, state = read_agent(place)
    elif newest := newest_checkpoint(place / "checkpoint"):
        raise click.ClickException(
            f"the run in {place} is not finished: name its checkpoint, {newest}, or resume it with `mtrl train`"
        )
    elif (place / "run.h5").exists():
        raise click.ClickException(
            f"{place} holds no policy: the run has no checkpoint yet (`mtrl train` continues it), or it diverged"
        )
    else:
        raise click.ClickException(
            f"{place} holds no run: neither agent.pt and run.h5 of a finished one, nor a checkpoint's about.json"
        )
    agent = Agent(config, device="cpu")
    agent.load_state_dict(state)
    return agent


def _run_folder(place: Path) -> Path:
    """The run's folder, of a run or of a checkpoint; a checkpoint's own folder is removed when newer ones come."""
    return place if (place / "run.h5").exists() else place.parent.parent


def _policy(agent: Agent) -> partial[NDArray[np.float32]]:
    """The deterministic policy, as evaluations and videos call it."""
    return partial(agent.act, deterministic=True)


def _read_settings(settings: tuple[str, ...]) -> Config:
    from mtrl.overrides import build_config, parse_overrides

    overrides = parse_overrides(settings)
    return build_config(str(overrides.pop("preset", "paper")), overrides)


def _read_longer_run(shorter: Path, settings: tuple[str, ...]) -> Config:
    from mtrl.overrides import override, parse_overrides
    from mtrl.results import read_run

    return override(read_run(shorter / "run.h5").config.model_dump(mode="json"), parse_overrides(settings))


def _train_with_progress(config: Config, directory: Path) -> str:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from mtrl.logs import shown_log
    from mtrl.train import train

    asked_to_stop = False

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True
        signal.signal(number, _give_up)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns) as bar, shown_log():
        line = bar.add_task(
            f"{config.benchmark} w{config.network.critic.width}", total=config.train.vector_steps
        )

        def show(progress: Progress) -> None:
            description = f"{config.benchmark}  success {progress.success:.2f}"
            bar.update(line, completed=progress.vector_step, description=description)

        return train(config, directory, stop=lambda: asked_to_stop, report=show)


def _give_up(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
