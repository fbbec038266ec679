"""The kinds of paths on a command line: sweeps of run files, datasets kept of them, tables of points or histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.errors import SweepError

DATASET = "dataset.nc"  # in a sweep's folder, or kept alone with a study

Kind = Literal["sweep", "dataset", "tables"]


@dataclass(frozen=True)
class Source:
    """What the paths are (of tables: every CSV file), the name of their page, and the folder of their report.

    A single dataset is of kind `dataset`; beside others it is one of the paths of a `sweep`.
    """

    kind: Kind
    paths: tuple[Path, ...]
    name: str
    folder: Path


def source_of(paths: Sequence[Path]) -> Source:
    """The source that the paths are. Raises SweepError if there are tables beside others."""
    kinds = [_kind(path) for path in paths]
    if "tables" in kinds and len(set(kinds)) > 1:
        words = ", ".join(f"{path} is {_WORDS[kind]}" for path, kind in zip(paths, kinds, strict=True))
        raise SweepError(f"{words}; analyse them one by one")
    first = paths[0]
    if kinds[0] == "tables":
        files = [
            file
            for path in paths
            for file in ([path] if path.suffix == ".csv" else sorted(path.glob("*.csv")))
        ]
        folder = first.with_name(f"{first.stem}-report") if first.suffix == ".csv" else first / "report"
        return Source("tables", tuple(files), "+".join(path.stem for path in paths), folder)
    kept = kept_dataset(first)
    if kept and len(paths) == 1:
        return Source("dataset", (kept,), kept.resolve().parent.name, kept.parent / "report")
    folders = [path.parent if path.suffix == ".nc" else path for path in paths]
    names = [folder.resolve().name for folder in folders]
    folder = folders[0] if len(paths) == 1 else folders[0].with_name("+".join(names))
    return Source("sweep", tuple(paths), "+".join(dict.fromkeys(names)), folder / "report")


_WORDS: dict[Kind, str] = {"sweep": "a sweep", "dataset": "a dataset", "tables": "a table"}


def kept_dataset(path: Path) -> Path | None:
    """The dataset that `path` is, or that stands in a folder without run files; None for anything else."""
    if path.suffix == ".nc":
        return path
    if (path / DATASET).exists() and not (path / "cells").is_dir() and next(path.rglob("*.h5"), None) is None:
        return path / DATASET
    return None


def _kind(path: Path) -> Kind:
    if path.suffix == ".csv":
        return "tables"
    if kept_dataset(path):
        return "dataset"
    if not path.is_dir() or (path / "cells").is_dir():
        return "sweep"
    return "tables" if next(path.glob("*.csv"), None) and next(path.rglob("*.h5"), None) is None else "sweep"
