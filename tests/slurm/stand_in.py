"""What a stand-in for the trainer leaves behind."""

import types
from pathlib import Path
from typing import Any

from mtrl.overrides import build_config
from mtrl.run_writer import RunFileWriter

CONFIG = build_config("debug")


PARAMETERS = dict.fromkeys(("actor", "critic", "target", "total"), 1)


def write_run_file(directory: Path) -> None:
    RunFileWriter.create(
        directory / "run.h5",
        CONFIG,
        run_metrics=("critic_loss",),
        parameters=PARAMETERS,
        code_version="0",
        products="float32",
    ).close()


def progress(step: int) -> Any:
    return types.SimpleNamespace(vector_step=step, vector_steps=9, env_steps=step, success=float("nan"))
