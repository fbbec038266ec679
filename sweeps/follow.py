"""The job that follows a sweep on Slurm: it runs the commands of `--then` once every job of the sweep has ended.

<sweep>/then.json has the words and the number of the waiting job. A later launch or retry replaces this job by one that
waits for its own arrays too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from slurm.commands import call
from slurm.profiles import Profile
from slurm.queue import Queue
from slurm.records import Record, new_token, read_records
from slurm.state import read_json, write_json
from sweeps.after import commands_after


def follow(sweep: Path, then: Sequence[str], profile: Profile, new: Sequence[Record], queue: Queue) -> None:
    """Submits the job for the words `then`, or, if there are none, for those in then.json.

    It waits for the arrays `new` and for the sweep's arrays in the queue; without any it runs at once.
    """
    from slurm.executor import submit_commands

    remembered = read_json(sweep / "then.json") or {}
    words = list(then) or remembered.get("words", [])
    if not words:
        return
    before = [record for record in read_records(sweep) if record.job and _is_alive(record, queue)]
    jobs = list(dict.fromkeys(str(record.job) for record in [*before, *new]))
    (sweep / "slurm").mkdir(exist_ok=True)
    token = new_token()
    alone = profile.model_copy(update={"gpus": 0, "cells_per_job": 1, "pull": False})
    job = submit_commands(sweep, token, alone, commands_after([sweep], words), jobs)
    _end(remembered, queue)
    write_json(sweep / "then.json", {"words": words, "job": job, "name": f"mtrl-{token}"})
    when = "once the arrays have ended" if jobs else "at once: no job of the sweep is left to wait for"
    click.echo(f"job {job}: {', then '.join(words)}, {when}", err=True)


def end_follower(sweep: Path, queue: Queue) -> None:
    """Ends the waiting job. then.json keeps the words, so that a retry of cancelled cells submits a job again."""
    remembered = read_json(sweep / "then.json") or {}
    if remembered.get("job"):
        _end(remembered, queue)
        write_json(sweep / "then.json", {"words": remembered.get("words", [])})


def _end(remembered: dict[str, Any], queue: Queue) -> None:
    task = queue.tasks.get((str(remembered.get("job")), 0))
    if task and task.name == remembered.get("name") and (task.alive or task.held):
        call(["scancel", str(remembered["job"])])


def _is_alive(record: Record, queue: Queue) -> bool:
    tasks = (queue.tasks.get((str(record.job), number)) for number in range(record.size))
    return any(task and task.name == record.name and task.alive for task in tasks)
