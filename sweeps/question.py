"""The question before a large launch."""

from __future__ import annotations

import sys

import click


def confirm(fact: str, *, yes: bool) -> None:
    """Asks whether to launch. Raises ValueError if there is no terminal to answer and `yes` is false."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValueError(f"{fact} Nobody is here to ask: say --yes to launch so much without being asked.")
    click.confirm(f"{fact} Launch?", abort=True, err=True)
