"""The result of a launch, for every executor."""

from __future__ import annotations

from dataclasses import dataclass, field

from slurm.records import Record


@dataclass(frozen=True)
class Launched:
    """How many cells a launch ran or submitted, and which it could not."""

    submitted: int  # cells handed to Slurm, or run here
    over: int  # cells that are done or diverged now
    given_up: dict[str, str]  # run id -> reason: by the rules of `slurm.retry`, or failed here
    arrays: list[Record] = field(default_factory=list)
    refusal: str = ""
    for_good: bool = False  # a later launch is refused too
    busy: list[str] = field(default_factory=list)  # held by another process
    cancelled: int = 0  # cells that are not run until `retry --cancelled`
    interrupted: bool = False
