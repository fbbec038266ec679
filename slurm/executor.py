"""submitit's executor for Slurm as this project uses it: one array a time, one small pickle for all its tasks.

    <sweep>/slurm/<token>.pkl    the call that every task makes, written before Slurm hears of the array
                 /<token>.sh     the script, to read or to submit by hand
                 /<token>.out    what the job printed outside its cells

Each task links the pickle to the name that submitit looks for, so a launcher that dies at any moment strands no task.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError
from submitit.helpers import DelayedSubmission

from slurm.commands import SlurmError, call
from slurm.job import run_commands, run_task
from slurm.profiles import Profile
from slurm.records import Record

SBATCH_SECONDS = 20
# Variables of sbatch whose names differ from those of the options that they would override.
VARIABLES = {
    "time": ["TIMELIMIT"],
    "array": ["ARRAY_INX"],
    "mem": ["MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"],
    "requeue": ["NO_REQUEUE"],
    "output": ["ERROR", "OPEN_MODE"],
}


def submit_array(sweep: Path, record: Record) -> str:
    """Submits the array of that record; returns its job number. Raises SlurmError."""
    profile = Profile.model_validate(record.profile)
    running = f"%{profile.max_running}" if profile.max_running else ""
    options = {
        "array": f"0-{record.size - 1}{running}",
        "signal": f"B:USR2@{profile.signal_seconds}",
        "requeue": True,
    }
    executor = ArrayExecutor(sweep, record.token, profile)
    executor.ask(record.name, profile, record.memory_mb, options)
    return str(executor.submit(run_task, str(sweep.resolve()), record.token).job_id)


def submit_commands(
    sweep: Path, token: str, profile: Profile, commands: Sequence[Sequence[str]], after: Sequence[str]
) -> str:
    """Submits one job that runs `commands` once the jobs `after` have ended, however they ended. Returns its number."""
    executor = ArrayExecutor(sweep, token, profile)
    options = {"dependency": "afterany:" + ":".join(after)} if after else {}
    executor.ask(f"mtrl-{token}", profile, profile.memory_mb, options)
    return str(executor.submit(run_commands, commands).job_id)


def try_out(folder: Path, profile: Profile) -> None:
    """Asks sbatch whether the cluster could run a job of the profile; submits nothing. Raises SlurmError if not."""
    (folder / "slurm").mkdir()
    executor = ArrayExecutor(folder, "try", profile)
    executor.ask("mtrl-try", profile, profile.memory_mb, {})
    executor.run_sbatch("true", "--test-only")


class ArrayExecutor(submitit.SlurmExecutor):  # type: ignore[misc]  # submitit declares no types
    """submitit's executor, for one submission. It differs in two things: the pickle is written once, under a name that
    the tasks know beforehand, and sbatch is called with a time limit, in an environment that overrides no option."""

    def __init__(self, sweep: Path, token: str, profile: Profile) -> None:
        python = [*profile.container, profile.python or sys.executable]
        super().__init__(sweep.resolve() / "slurm", python="exec " + shlex.join(python))
        self.token = token

    @classmethod
    def affinity(cls) -> int:
        """submitit looks for srun, which is not used here."""
        return 2

    def ask(self, name: str, profile: Profile, memory_mb: int, options: Mapping[str, Any]) -> None:
        """Sets all that sbatch is asked for: what the profile says, then `options`, then the profile's own options."""
        gpus = f"gpu:{profile.gpu_type}:{profile.gpus}" if profile.gpu_type else f"gpu:{profile.gpus}"
        asked = {
            "job_name": name,
            "partition": profile.partition,
            "account": profile.account,
            "qos": profile.qos,
            "constraint": profile.constraint,
            "exclude": ",".join(profile.exclude),
            "time": profile.minutes,
            "nodes": 1,
            "ntasks": 1,
            "cpus_per_task": profile.cpus,
            "mem": f"{memory_mb}M",
            "gres": gpus if profile.gpus else "",
            "output": str(self.folder / f"{self.token}.out").replace("%", "%%"),
            **options,
            **{option.replace("-", "_"): value for option, value in profile.options.items()},
        }
        # Slurm takes a backslash in a script's options for the start of an escape, within quotes too.
        asked = {
            key: value if value is True else str(value).replace("\\", "\\\\")
            for key, value in asked.items()
            if value
        }
        self.update_parameters(
            wckey=None,
            use_srun=False,
            stderr_to_stdout=True,
            setup=self._setup(profile),
            additional_parameters=asked,
        )

    def _setup(self, profile: Profile) -> list[str]:
        """The lines before Python. Slurm may send USR2 a minute early: it is ignored until Python listens."""
        folder = shlex.quote(str(self.folder))
        job = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}_submitted.pkl"'
        return ["trap '' USR2", "set -e", f"ln -sf {self.token}.pkl {folder}/{job}", *profile.setup]

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[submitit.Job[Any]]:
        [delayed] = delayed_submissions
        delayed.dump(self.folder / f"{self.token}.pkl")
        return [self._submit_command(self._submitit_command_str)]

    def _submit_command(self, command: str) -> submitit.Job[Any]:
        script = self.folder / f"{self.token}.sh"
        script.write_text(self._make_submission_file_text(command, self.token))
        answer = call(
            self._make_submission_command(script),
            seconds=SBATCH_SECONDS,
            tries=1,
            environment=self._environment(),
        )
        try:
            job = self._get_job_id_from_submission_command(answer)
        except FailedSubmissionError:
            raise SlurmError(f"sbatch answered {answer!r}, not a job number", passing=True) from None
        return self.job_class(self.folder, job)

    def run_sbatch(self, command: str, *words: str) -> str:
        """The answer of sbatch to a script that ends in `command`. Raises SlurmError."""
        script = self.folder / f"{self.token}.sh"
        script.write_text(self._make_submission_file_text(command, self.token))
        return call(
            ["sbatch", *words, str(script)], seconds=SBATCH_SECONDS, tries=1, environment=self._environment()
        )

    def _environment(self) -> dict[str, str]:
        """This process's, without the variables that would override what is asked for here."""
        asked = self.parameters["additional_parameters"]
        names = {f"SBATCH_{name}" for key in asked for name in [key.upper(), *VARIABLES.get(key, [])]}
        return {name: value for name, value in os.environ.items() if name not in names}
