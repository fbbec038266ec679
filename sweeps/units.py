"""Times and sizes as readable text."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3.5 min`, `12.3 h` or `4.2 d`."""
    for size, unit in ((86_400 * 2, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / {'d': 86_400, 'h': 3_600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes as `12 MB`, `3.4 GB` or `1.2 TB`."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e6:.0f} MB"
