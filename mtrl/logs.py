"""Where the log of `mtrl` goes while one of its commands runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _StandardError(logging.Handler):
    """Prints to what is standard error at that moment: a progress bar or a cell's log file takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # a full disk or a closed pipe must not end a run
            self.handleError(record)


@contextmanager
def shown_log() -> Iterator[None]:
    """Within its `with` block the log goes to standard error, with times: also what went well, not only warnings."""
    log, handler = logging.getLogger("mtrl"), _StandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
