"""Collects the run files of sweeps into the first one's dataset.nc: python -m analysis.gather SWEEP [SWEEP]..."""

from __future__ import annotations

from pathlib import Path

import click

from analysis.errors import SweepError
from analysis.frames import open_sweep, save
from analysis.sources import DATASET


@click.command()
@click.argument("sweeps", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(sweeps: tuple[Path, ...]) -> None:
    """Collect the results of SWEEPS, taken together, into dataset.nc in the first of them."""
    try:
        save(open_sweep(*sweeps), sweeps[0] / DATASET)
    except SweepError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {sweeps[0] / DATASET}: {error.strerror}") from None


if __name__ == "__main__":
    main()
