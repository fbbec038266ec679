"""submitit's executor for Slurm as this project uses it: one array at a time, with one small pickle for all its tasks.

    <sweep>/slurm/<token>.pkl    the call that every task makes, written before sbatch is called
                 /<token>.sh     the script, to read or to submit by hand
                 /<token>.out    the job's output outside its cells

Each task itself links the pickle to the name that submitit looks for. So a launcher may die at any moment, and every
task still finds its call.
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
# Environment variables of sbatch that would override an option and are not named after it.
VARIABLES = {
    "time": ["TIMELIMIT"],
    "array": ["ARRAY_INX"],
    "mem": ["MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"],
    "requeue": ["NO_REQUEUE"],
    "output": ["ERROR", "OPEN_MODE"],
}


def submit_array(sweep: Path, record: Record) -> str:
    """Submits the array of that record and returns its job number. Raises SlurmError if sbatch refuses."""
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
    """submitit's executor, for one submission, with two differences.

    The pickle is written once, under a name that the tasks know beforehand. sbatch is called with a time limit, and in
    an environment that overrides no option.
    """

    def __init__(self, sweep: Path, token: str, profile: Profile) -> None:
        python = [*profile.container, profile.python or sys.executable]
        super().__init__(sweep.resolve() / "slurm", python="exec " + shlex.join(python))
        self.token = token

    @classmethod
    def affinity(cls) -> int:
        """Tells submitit that this executor can be used. submitit would look for srun, which is not used here."""
        return 2

    def ask(self, name: str, profile: Profile, memory_mb: int, options: Mapping[str, Any]) -> None:
        """Sets the options of sbatch: from the profile's fields, then `options`, then the profile's [options]."""
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
        # In a script's options Slurm reads a backslash as the start of an escape, even within quotes.
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
        """The script's lines before Python. USR2 may come a minute early: it is ignored until Python handles it."""
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
        """The output of sbatch for a script that ends with `command`. Raises SlurmError if sbatch refuses."""
        script = self.folder / f"{self.token}.sh"
        script.write_text(self._make_submission_file_text(command, self.token))
        return call(
            ["sbatch", *words, str(script)], seconds=SBATCH_SECONDS, tries=1, environment=self._environment()
        )

    def _environment(self) -> dict[str, str]:
        """This process's environment, without the variables that would override an option of sbatch."""
        asked = self.parameters["additional_parameters"]
        names = {f"SBATCH_{name}" for key in asked for name in [key.upper(), *VARIABLES.get(key, [])]}
        return {name: value for name, value in os.environ.items() if name not in names}
