"""The cells of a sweep that have no result yet, by its manifest. So several clusters can be asked what they lack."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from analysis.errors import SweepError
from analysis.run_reader import open_file, read_header
from analysis.sources import kept_dataset
from mtrl.results import RunFileError

NAMED = 5  # cells of a sweep that are named, at most


def tell_missing(roots: Iterable[Path]) -> list[str]:
    """A line for each sweep: how many of its cells are over, and which are not. None for datasets that were kept."""
    return [_tell(root) for root in roots if not kept_dataset(root)]


def begun(roots: Sequence[Path]) -> list[Path]:
    """`roots` without the sweeps that have a manifest but no run file yet; all of them if none has a run file."""
    some = [r for r in roots if not (r / "manifest.jsonl").exists() or any(r.glob("cells/*/run.h5"))]
    return some or list(roots)


def unfinished(root: Path) -> tuple[int, list[str]]:
    """The number of cells in the manifest of `root`, and the labels of those that are not over.

    Raises SweepError if there is no manifest.
    """
    labels: dict[str, str] = {}
    try:
        lines = (root / "manifest.jsonl").read_bytes().splitlines()
    except OSError:
        raise SweepError(f"{root} has no manifest.jsonl, which lists its cells; copy it too") from None
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            labels[entry["run_id"]] = f"{entry['label']} ({entry['run_id']})"
    left = [label for run_id, label in labels.items() if not _is_over(root / "cells" / run_id)]
    return len(labels), left


def _tell(root: Path) -> str:
    try:
        count, left = unfinished(root)
    except SweepError as error:
        return str(error)
    if not left:
        return f"{root}: all {count} cells are over"
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return f"{root}: {count - len(left)} of {count} cells are over; not {', '.join(left[:NAMED])}{more}"


def _is_over(cell: Path) -> bool:
    """Whether a cell is over: by its marker, or, if only run files were copied, by its run file."""
    if (cell / "DONE.json").exists():
        return True
    path = cell / "run.h5"
    try:
        with open_file(path) as file:
            return read_header(file, path, 0).outcome in ("done", "diverged")
    except (OSError, KeyError, ValueError, RuntimeError, RunFileError):
        return False
