"""The installed packages and their versions, which runs and launches record."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distributions


@cache
def installed() -> dict[str, str]:
    """{name: version} of all installed packages, sorted by name. Of two versions of one, that which Python imports."""
    versions: dict[str, str] = {}
    for package in distributions():
        if package.name:  # an installation that broke off has no name
            versions.setdefault(package.name, package.version)
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))
