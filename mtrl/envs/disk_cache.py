"""Results that are slow to compute, kept in files under $XDG_CACHE_HOME/mtrl (else ~/.cache/mtrl).

An entry is written under a temporary name and renamed, and ends in its checksum. So processes may share the folder, and
an entry that is torn, damaged or missing is made again. If the folder cannot be written, nothing is kept; that is no
error.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_CHECKSUM = 4  # bytes of CRC-32 at the end of an entry


def folder() -> Path:
    """The folder of the entries; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtrl"


def cached(name: str, make: Callable[[], bytes]) -> bytes:
    """The content of the entry `name` (a relative path). If no intact one exists, calls `make` and keeps its result."""
    path = folder() / name
    content = _load(path)
    if content is None:
        content = make()
        with suppress(OSError):
            _save(path, content)
    return content


def _load(path: Path) -> bytes | None:
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    content, checksum = entry[:-_CHECKSUM], entry[-_CHECKSUM:]
    return content if checksum == _checksum(content) and content else None


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + _checksum(content))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM, "little")
