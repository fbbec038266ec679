"""Runs the unfinished cells of a sweep, on this machine or on Slurm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slurm.profiles import Profile
from sweeps.after import commands_after, run_after
from sweeps.launched import Launched
from sweeps.manifest import Entry
from sweeps.on_slurm import launch_on_slurm
from sweeps.on_this_machine import run_here


def run(
    sweep: Path,
    entries: Sequence[Entry],
    executor: str,
    profile: Profile | None = None,
    *,
    by_rule: bool = False,
    then: Sequence[str] = (),
) -> Launched:
    """Runs the unfinished cells of `entries`.

    `executor` = inline runs them in this process, local in processes of this machine; both return when the cells have
    ended. slurm submits them as jobs of `profile` and returns. `by_rule` leaves out cells that `slurm.retry` gives up.
    `then` are the words of `--then`. Raises LaunchError if the launch is impossible.
    """
    after = commands_after([sweep], then)
    if executor == "slurm":
        assert profile is not None
        return launch_on_slurm(sweep, entries, profile, by_rule=by_rule, then=then)
    launched = run_here(sweep, entries, executor)
    if launched.over == len(entries):
        run_after(after)
    return launched
