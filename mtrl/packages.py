"""The packages that are installed beside this one, for what runs and launches write down about themselves."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distributions


@cache
def installed() -> dict[str, str]:
    """The version of each installed package by its name, in the order of names. Of two, Python imports the first."""
    versions: dict[str, str] = {}
    for package in distributions():
        if package.name:  # not so where an installation broke off
            versions.setdefault(package.name, package.version)
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))
