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
    """Runs what is missing of `entries`: `inline` in this process, `local` in processes of this machine, and returns
    when they have ended; `slurm` as the jobs of `profile`, and returns once they are submitted."""
    after = commands_after([sweep], then)
    if executor == "slurm":
        assert profile is not None
        return launch_on_slurm(sweep, entries, profile, by_rule=by_rule, then=then)
    launched = run_here(sweep, entries, executor)
    if launched.over == len(entries):
        run_after(after)
    return launched
