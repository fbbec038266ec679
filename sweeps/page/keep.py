"""Writes the page once, or repeatedly while its sweeps run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sweeps.manifest import read_manifest
from sweeps.page.write import write_page
from sweeps.watch import look, pause_after


def write_now(sweeps: Sequence[Path], path: Path, *, live: bool) -> bool:
    """Looks at the sweeps and writes their page. Returns whether every cell is over."""
    entries = [read_manifest(sweep) for sweep in sweeps]
    looks = [(sweep, some, look(sweep, some)) for sweep, some in zip(sweeps, entries, strict=True)]
    return write_page(looks, path, live=live)


def keep_page(sweeps: Sequence[Path], path: Path) -> None:
    """Writes the page repeatedly, until every cell is over."""
    while True:
        began = time.monotonic()
        if write_now(sweeps, path, live=True):
            return
        time.sleep(pause_after(time.monotonic() - began))
