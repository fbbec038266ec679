"""Collects the run files of sweeps into one dataset: python -m analysis.gather SWEEP [SWEEP]..."""

from __future__ import annotations

from pathlib import Path

import click

from analysis.errors import SweepError
from analysis.frames import open_sweep, save
from analysis.missing import begun, tell_missing
from analysis.sources import DATASET


@click.command()
@click.argument("sweeps", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file.  [default: dataset.nc beside the cells]"
)
def main(sweeps: tuple[Path, ...], out: Path | None) -> None:
    """Collect the results of SWEEPS, taken together, and say which cells are missing where."""
    path = out or dataset_path(sweeps)
    try:
        dataset = open_sweep(*begun(sweeps))
        path.parent.mkdir(parents=True, exist_ok=True)
        save(dataset, path)
    except SweepError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"cannot write {path}: {error.strerror}; name another file with --out"
        ) from None
    for line in tell_missing(sweeps):
        click.echo(line, err=True)
    click.echo(path)


def dataset_path(sweeps: tuple[Path, ...]) -> Path:
    """The path of the dataset: in the sweep; of several sweeps, beside the first in a folder named after all."""
    first, name = sweeps[0], "+".join(sweep.resolve().name for sweep in sweeps)
    return (first if len(sweeps) == 1 else first.with_name(name)) / DATASET


if __name__ == "__main__":
    main()
