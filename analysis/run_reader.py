"""One run file -> its header and arrays, through the low-level interface of h5py.

The high-level interface takes four times as long per file, and a sweep has thousands.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5p, h5s, h5t
from numpy.typing import NDArray

from mtrl.results import COORDINATES, check_schema, config_today, read_index

FRESH = 2_000_000_000  # ns; a file younger than this may change again without a new mtime

Labels = dict[str, tuple[Any, ...]]  # axis -> its labels

ATTRIBUTES = (
    "run_id",
    "code_version",
    *(f"parameters_{part}" for part in ("actor", "critic", "target", "total")),
)
_STRING = h5py.string_dtype()
_STRING_TYPE = h5t.py_create(_STRING)
# Made once: making them costs more than a read.
_NATIVE = {"<f4": h5t.NATIVE_FLOAT, "<f8": h5t.NATIVE_DOUBLE, "<i8": h5t.NATIVE_INT64}


@dataclass(frozen=True)
class Header:
    """The content of a run file but for its arrays."""

    labels: Labels
    attributes: dict[str, Any]
    config_text: str
    config: dict[str, Any]
    planned: int
    committed: int
    outcome: str
    diverged_at: int  # vector step; -1 if the run did not diverge
    diverged_by: str  # the metric that showed it
    stamp: int  # as `stamp_of`


@cache
def _access() -> h5p.PropFAID:
    """The options with which files are opened; made once, because making them takes a third of a read."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_file_locking(False, True)
    return access


@contextmanager
def open_file(path: Path) -> Iterator[h5f.FileID]:
    """The file at `path`, open for reading without a lock: a writer may have it open."""
    file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, _access())
    try:
        yield file
    finally:
        file.close()


def read_header(file: h5f.FileID, path: Path, stamp: int) -> Header:
    """The header of the file. `stamp` is that of `stamp_of`.

    Raises RunFileError for a file that is no run file or has an unknown schema.
    """
    schema = _integer(file, "schema_version", -1)
    check_schema(path, None if schema < 0 else schema)
    index = json.loads(_text(file, "index")) if h5a.exists(file, b"index") else read_index(h5py.File(file))
    config = _as_computed(json.loads(config_today(_text(file, "config"), schema)), index["attributes"])
    committed = np.empty((), np.int64)
    read_into(file, "committed", committed)  # read before the rows, so that the rows it counts are complete
    planned = h5d.open(file, b"env_steps").get_storage_size() // 8
    labels = {name: tuple(index["coordinates"].get(name, ())) for name in COORDINATES}
    diverged_at = _integer(file, "diverged_at_vector_step", -1)
    complete = int(committed) == planned
    over = diverged_at >= 0 and (complete or not _integer(file, "diverged_trained_on", 0))
    return Header(
        labels=labels | {"eval": tuple(range(planned))},
        attributes={name: index["attributes"][name] for name in ATTRIBUTES},
        config_text=json.dumps(config),
        config=config,
        planned=planned,
        committed=int(committed),
        outcome=outcome_of(path, complete=complete, diverged=over),
        diverged_at=diverged_at,
        diverged_by=_text(file, "diverged_metric")
        if diverged_at >= 0 and h5a.exists(file, b"diverged_metric")
        else "",
        stamp=stamp,
    )


def _as_computed(config: dict[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what `agent.products = auto` meant on the run's device: runs of other products are others,
    and a run that wrote the same products out is the same."""
    agent = config.get("agent", {})
    if agent.get("products") != "auto":
        return config
    return {**config, "agent": {**agent, "products": attributes["products"]}}


def stamp_of(path: Path) -> int:
    """The file's mtime in ns, or 0 if it is younger than FRESH: a later write might not change its mtime."""
    written = path.stat().st_mtime_ns
    return written if time.time_ns() - written > FRESH else 0


def outcome_of(path: Path, *, complete: bool, diverged: bool) -> str:
    """The run's outcome: done, diverged, failed or unfinished.

    `diverged` and `complete` are from the run file; otherwise the cell's marker beside it decides.
    """
    if diverged:
        return "diverged"
    try:
        return str(json.loads((path.parent / "DONE.json").read_bytes())["outcome"])
    except (OSError, ValueError, KeyError):
        if (path.parent / "FAILED.json").exists():
            return "failed"
        return "done" if complete else "unfinished"


def _integer(file: h5f.FileID, name: str, default: int) -> int:
    if not h5a.exists(file, name.encode()):
        return default
    value = np.empty((), np.int64)
    h5a.open(file, name.encode()).read(value, _NATIVE["<i8"])
    return int(value)


def _text(file: h5f.FileID, name: str) -> str:
    value = np.empty((), _STRING)
    h5a.open(file, name.encode()).read(value, _STRING_TYPE)
    text: bytes = value.item()
    return text.decode()


def read_into(file: h5f.FileID, name: str, out: NDArray[Any]) -> None:
    """Fills `out` with the dataset of that name. Raises ValueError if their sizes differ."""
    dataset = h5d.open(file, name.encode())
    if dataset.get_storage_size() != out.nbytes:
        raise ValueError(f"{name} holds {dataset.get_storage_size()} bytes, not {out.nbytes}")
    dataset.read(h5s.ALL, h5s.ALL, out, _NATIVE[out.dtype.str])


def read_array(file: h5f.FileID, name: str, dtype: str) -> NDArray[Any]:
    """The whole dataset of that name."""
    dataset = h5d.open(file, name.encode())
    out = np.empty(dataset.shape, dtype)
    dataset.read(h5s.ALL, h5s.ALL, out, _NATIVE[out.dtype.str])
    return out
