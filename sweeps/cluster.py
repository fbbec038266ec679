"""The cluster and the profile of a launch that names neither."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

import click

from mtrl.config import Config
from slurm.commands import SlurmError
from slurm.controller import reach_controller
from slurm.discovery import discover, has_cluster
from slurm.feasibility import check_feasible
from slurm.profiles import DEFAULT, Profile, load_profile, own_folder, profile_names, save_profile, to_toml
from sweeps.grid import Cell
from sweeps.plan import Plan
from sweeps.request import Request
from sweeps.show import print_cost


def on_cluster(request: Request) -> Request:
    """The request, moved to Slurm if its words name neither executor nor profile and this machine has a cluster.

    It gets the user's profile `default`, or one that is found on the cluster and shown. Any other request is returned
    as it is. Raises ValueError if the cluster cannot be asked.
    """
    if request.named or not shutil.which("sbatch"):
        return request
    if has_default():
        click.echo(f"profile default ({own_folder() / f'{DEFAULT}.toml'})", err=True)
        profile, found = load_profile(DEFAULT), None
    else:
        try:
            found = discover() if has_cluster() else None
        except SlurmError as error:
            raise ValueError(f"{error}\nwrite executor=local to run here, or profile=NAME") from None
        if found is None:
            return request
        profile = found
        click.echo(f"No profile is named. This one was found on the cluster:\n\n{to_toml(profile)}", err=True)
    return replace(request, executor="slurm", profile=_as_needed(profile, request.cells), found=found)


def _as_needed(profile: Profile, cells: Sequence[Cell]) -> Profile:
    """The profile. If all cells run on the CPU: without GPUs, and with the CPUs and memory that the cells use."""
    configs = [cell.config for cell in cells]
    if not profile.gpus or any(config.run.device != "cpu" for config in configs):
        return profile
    cpus = min(profile.cpus, profile.cells_per_job * max(map(_cpus, configs)))
    memory = max(1, profile.memory_mb * cpus // profile.cpus)
    keep = f" (profile={DEFAULT} keeps it)" if has_default() else ""
    click.echo(
        f"All cells run on the CPU (run.device=cpu), so their jobs ask for no GPU{keep}: cpus = {cpus}, memory_mb = "
        f"{memory}\n",
        err=True,
    )
    return profile.model_copy(update={"gpus": 0, "gpu_type": "", "cpus": cpus, "memory_mb": memory})


def _cpus(config: Config) -> int:
    """The CPUs that one run uses: its threads and its env workers."""
    workers = config.run.env_workers
    return config.run.threads + (config.train.overlap if workers is None else workers)


def has_default() -> bool:
    """Whether the user has a profile named `default`."""
    return DEFAULT in profile_names()


def check_cluster(profile: Profile) -> None:
    """Raises InfeasibleError if the cluster can never run the profile's jobs, SlurmError if it does not answer.

    Prints the warnings about the profile.
    """
    reach_controller(profile, lambda text: click.echo(text, err=True))
    for warning in check_feasible(profile):
        click.echo(warning, err=True)


def settle_profile(plan: Plan, max_hours: float | None, *, yes: bool) -> bool:
    """If the profile was found on the cluster: shows the plan's cost, asks, and saves the profile as `default`.

    Returns whether it was found there. Raises ValueError if it must ask but has no terminal, unless `yes`.
    """
    request = plan.request
    if request.found is None or request.profile is None:
        return False
    check_cluster(request.profile)
    path = own_folder() / f"{DEFAULT}.toml"
    with contextlib.redirect_stdout(sys.stderr):
        print_cost(plan, max_hours)
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError(
                f"say --yes to launch with this profile and save it as {path}, or write profile=NAME"
            )
        click.confirm(f"Launch with this profile, and save it as {path}?", abort=True, err=True)
    save_profile(request.found)
    return True
