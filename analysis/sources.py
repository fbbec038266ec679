"""The kinds of paths on a command line: sweeps of run files, a gathered dataset, or tables of points or histories."""

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
    """Paths of one kind (for tables: every CSV file), the name of their page, and the folder of their report."""

    kind: Kind
    paths: tuple[Path, ...]
    name: str
    folder: Path


def source_of(paths: Sequence[Path]) -> Source:
    """The source that the paths are. Raises SweepError if they are of several kinds."""
    kinds = [_kind(path) for path in paths]
    if len(set(kinds)) > 1 or (kinds[0] == "dataset" and len(paths) > 1):
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
    if kinds[0] == "dataset":
        file = first if first.suffix == ".nc" else first / DATASET
        return Source("dataset", (file,), file.resolve().parent.name, file.parent / "report")
    name = "+".join(path.resolve().name for path in paths)
    folder = first / "report" if len(paths) == 1 else first.with_name(name) / "report"
    return Source("sweep", tuple(paths), name, folder)


_WORDS: dict[Kind, str] = {"sweep": "a sweep", "dataset": "a dataset", "tables": "a table"}


def _kind(path: Path) -> Kind:
    if path.suffix == ".csv":
        return "tables"
    if path.suffix == ".nc":
        return "dataset"
    if not path.is_dir() or (path / "cells").is_dir():
        return "sweep"
    if (path / DATASET).exists() and next(path.rglob("*.h5"), None) is None:
        return "dataset"
    return "tables" if next(path.glob("*.csv"), None) and next(path.rglob("*.h5"), None) is None else "sweep"
