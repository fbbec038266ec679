"""The first contact with a profile's cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from slurm.commands import SlurmError, call
from slurm.profiles import Profile, point_at

FIRST_SECONDS = 4  # until the user hears that the controller does not answer
MORE_SECONDS = 40  # of further tries: a controller that restarts is back by then


def reach_controller(profile: Profile, say: Callable[[str], None]) -> None:
    """Points this process's Slurm commands at the profile's cluster and waits until its controller answers.

    `say` is called within five seconds if it does not answer. Raises SlurmError after 45 seconds without an answer.
    """
    point_at(profile)
    configuration = Path(os.environ.get("SLURM_CONF", "/"))
    whose = f"profile {profile.name}" + (f" ({profile.about})" if profile.about else "")
    if not configuration.exists():
        raise SlurmError(f"no file {configuration}, which {whose} needs as SLURM_CONF: is its cluster up?")
    end = time.monotonic() + MORE_SECONDS
    told = False
    while True:
        try:
            call(["sinfo", "--noheader", "--format=%P"], seconds=FIRST_SECONDS, tries=1)
            return
        except SlurmError as error:
            if not error.passing or time.monotonic() > end:
                raise SlurmError(f"{error}\n{whose}: its cluster does not answer") from None
            if not told:
                say(f"Slurm's controller does not answer; trying for {MORE_SECONDS} s more. {whose}")
                told = True
        time.sleep(1)
