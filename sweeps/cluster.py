"""Which cluster a launch goes to, where its words name none."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import replace

import click

from slurm.commands import SlurmError
from slurm.controller import reach_controller
from slurm.discovery import discover, has_cluster
from slurm.feasibility import check_feasible
from slurm.profiles import DEFAULT, Profile, load_profile, own_folder, profile_names, save_profile, to_toml
from sweeps.plan import Plan
from sweeps.request import Request
from sweeps.show import show_plan


def on_cluster(request: Request) -> Request:
    """The request for Slurm, where its words name neither executor nor profile and this machine has a cluster: with
    the user's profile `default`, or with one found on the cluster, which is shown. Any other request as it is."""
    if request.named or not shutil.which("sbatch"):
        return request
    if has_default():
        click.echo(f"profile default ({own_folder() / f'{DEFAULT}.toml'})", err=True)
        return replace(request, executor="slurm", profile=load_profile(DEFAULT))
    try:
        profile = discover() if has_cluster() else None
    except SlurmError as error:
        raise ValueError(f"{error}\nwrite executor=local to run here, or profile=NAME") from None
    if profile is None:
        return request
    click.echo(f"No profile is named. This one was found on the cluster:\n\n{to_toml(profile)}", err=True)
    return replace(request, executor="slurm", profile=profile)


def has_default() -> bool:
    return DEFAULT in profile_names()


def check_cluster(profile: Profile) -> None:
    """Raises InfeasibleError where the cluster can never run the profile's jobs, SlurmError if it does not answer."""
    reach_controller(profile, lambda text: click.echo(text, err=True))
    for warning in check_feasible(profile):
        click.echo(warning, err=True)


def settle_profile(plan: Plan, max_hours: float | None, *, yes: bool) -> bool:
    """Shows what the plan costs with a profile that was found on the cluster, asks, and saves it as `default`.
    Returns whether there was such a profile. Raises ValueError without a terminal and without `yes`."""
    request = plan.request
    if request.named or request.profile is None or has_default():
        return False
    check_cluster(request.profile)
    path = own_folder() / f"{DEFAULT}.toml"
    with contextlib.redirect_stdout(sys.stderr):
        show_plan(plan, False, max_hours)
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError(
                f"say --yes to launch with this profile and save it as {path}, or write profile=NAME"
            )
        click.confirm(f"Launch with this profile, and save it as {path}?", abort=True, err=True)
    save_profile(request.profile)
    return True
