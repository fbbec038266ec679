"""Profiles: the resources that jobs ask a cluster for, one TOML file each (docs/cluster.md explains every line).

They come from this package's profiles/, from ~/.config/mtrl/profiles/, or from a path that ends in .toml.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mtrl.names import nearest

DEFAULT = "default"  # the user's profile of this name is used if the command names none
OF_THE_LAUNCHER = (
    "array",
    "dependency",
    "error",
    "job-name",
    "output",
    "parsable",
    "test-only",
    "wait",
    "wrap",
)
FOLDER = Path(__file__).resolve().parent / "profiles"


class ProfileError(ValueError):
    """A profile that cannot be used; the message names it, the line and the cure."""


class Profile(BaseModel):
    """The resources that jobs ask one cluster for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    about: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: tuple[str, ...] = ()  # nodes never to use
    minutes: int = Field(240, ge=1)  # wall time of a job; a cell that needs more continues in the next
    signal_seconds: int = Field(
        120, ge=1
    )  # how long before the end of the wall time cells get the signal to save
    cpus: int = Field(1, ge=1)  # per job
    memory_mb: int = Field(4_000, ge=1)  # per job, unless the cells of the job need more
    gpus: int = Field(0, ge=0)  # per job
    gpu_type: str = ""
    cells_per_job: int = Field(1, ge=1)  # cells that share one job at the same time
    max_running: int = Field(0, ge=0)  # array tasks at once; 0 leaves it to the cluster
    pull: bool = False  # jobs share all cells and take the next free one, instead of a fixed list each
    heartbeat_seconds: float = Field(30.0, gt=0)
    setup: tuple[str, ...] = ()  # shell lines before Python starts: modules, scratch folders
    container: tuple[str, ...] = ()  # words before Python, as ["apptainer", "exec", "--nv", "mtrl.sif"]
    slurm_conf: str = ""  # SLURM_CONF of the cluster, if it is not this machine's default cluster
    python: str = ""  # the interpreter on the nodes; by default the one that launches
    options: dict[str, str] = {}  # further options of sbatch, as licenses = "scratch:1"

    @field_validator("partition", "account", "qos", "constraint", "gpu_type", "exclude", "options")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        """These values stand in the script that sbatch reads, one in a line."""
        values = [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value
        if any("\n" in text for text in values):
            raise ValueError("a value must not span lines")
        return value

    @model_validator(mode="after")
    def _signal_within_wall_time(self) -> Profile:
        if self.signal_seconds >= 60 * self.minutes:
            raise ValueError(
                f"signal_seconds = {self.signal_seconds} is not less than the wall time of {60 * self.minutes} s "
                f"(minutes = {self.minutes})"
            )
        return self

    @field_validator("options")
    @classmethod
    def _known_shape(cls, options: dict[str, str]) -> dict[str, str]:
        for option in options:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", option):
                raise ValueError(f"'{option}' is no long option of sbatch; write it without dashes in front")
            if option in ("cluster", "clusters"):
                raise ValueError(
                    f"'{option}' sends jobs where the queue is not asked; write a profile for each cluster, with its "
                    "slurm_conf"
                )
            if option in OF_THE_LAUNCHER:
                raise ValueError(f"'{option}' is set by the launcher; leave it out")
        return options


def profile_names() -> list[str]:
    """The names of all profiles: the project's and the user's."""
    return sorted({path.stem for folder in (FOLDER, own_folder()) for path in folder.glob("*.toml")})


def load_profile(name: str) -> Profile:
    """The profile of that name or file. Raises ProfileError, with the nearest names, if it is missing or wrong."""
    paths = (
        [Path(name)] if name.endswith(".toml") else [own_folder() / f"{name}.toml", FOLDER / f"{name}.toml"]
    )
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        known = profile_names()
        raise ProfileError(
            f"no profile '{name}'{nearest(name, known)}; there are: {', '.join(known)}. Your own go into {own_folder()}"
        )
    try:
        return Profile.model_validate({**tomllib.loads(path.read_text()), "name": path.stem})
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        hint = nearest(key, Profile.model_fields) if problem["type"] == "extra_forbidden" else ""
        raise ProfileError(f"{path}, {key}: {problem['msg']}{hint}") from None


def to_toml(profile: Profile) -> str:
    """The profile as TOML: wall time, CPUs and memory, and every other field that differs from its default."""
    content = profile.model_dump(exclude={"name"}, exclude_defaults=True)
    content |= profile.model_dump(include={"minutes", "cpus", "memory_mb"})
    options = content.pop("options", {})
    # JSON's strings, numbers and lists are TOML too.
    lines = [f"{key} = {json.dumps(content[key])}" for key in Profile.model_fields if key in content]
    lines += (
        ["", "[options]", *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
        if options
        else []
    )
    return "\n".join([*lines, ""])


def save_profile(profile: Profile) -> Path:
    """Writes the profile into the user's folder, under its name; returns the file."""
    path = own_folder() / f"{profile.name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_toml(profile))
    return path


def point_at(profile: Profile) -> None:
    """Makes this process's Slurm commands use the cluster of the profile, unless SLURM_CONF is already set."""
    if profile.slurm_conf:
        os.environ.setdefault("SLURM_CONF", profile.slurm_conf.replace("$USER", getpass.getuser()))


def own_folder() -> Path:
    """The folder of the user's profiles."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mtrl" / "profiles"
