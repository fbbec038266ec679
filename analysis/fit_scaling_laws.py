"""`python analysis/fit_scaling_laws.py runs/smoke`: from a sweep's run files to scaling laws, figures and a report."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on the path, where statistics.py would hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click

# What computes and draws is imported inside the command: `--help` must answer at once.


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--paper", is_flag=True, help="Fit the paper's own numbers (analysis/paper/*.csv) instead of a sweep."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.  [default: PATH/report]")
@click.option("--json", "as_json", is_flag=True, help="Print the fits as JSON and nothing else.")
@click.option(
    "--model",
    type=click.Choice(["auto", "constant", "power", "actor_critic", "sigmoid", "broken"]),
    default="auto",
    show_default=True,
    help="The law; auto takes actor_critic where their widths vary apart, and power elsewhere.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap and of the fits' starts.")
def main(path: Path | None, paper: bool, out: Path | None, as_json: bool, model: str, seed: int) -> None:
    """Fit scaling laws and write a report.

    PATH is a sweep (as in runs/smoke), finished or not, or a CSV file with the columns parameters, success and n
    (episodes), and where there are more: tasks, benchmark, actor, critic.
    """
    if paper == (path is not None):
        raise click.UsageError("name a sweep, as in runs/smoke, or give --paper; one of the two")
    from analysis.frames import SweepError

    try:
        _run(path, out or _folder(path), as_json, model, seed)
    except SweepError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"cannot write the report: {error}; choose another folder with --out"
        ) from None


def _folder(path: Path | None) -> Path:
    """Where the report goes: into the sweep, or beside a table."""
    if path is None:
        return Path("runs/paper/report")
    return path.with_name(f"{path.stem}-report") if path.suffix == ".csv" else path / "report"


def _run(path: Path | None, out: Path, as_json: bool, model: str, seed: int) -> None:
    import json

    from rich.console import Console

    from analysis import paper_study, report, sweep_study, table_study

    if path is None:
        page = paper_study.study(seed=seed)
    elif path.suffix == ".csv":
        page = table_study.study(path, model=model, seed=seed)
    else:
        page = sweep_study.study(_gather(path, quiet=as_json), path.resolve().name, model=model, seed=seed)
    file = report.write(page, out)
    text = json.dumps(page.fits, indent=1)
    (out / "fits.json").write_text(text + "\n")
    if as_json:
        click.echo(text)
        return
    console = Console(highlight=False)
    for title, lines, mark in (("shows", page.shows, "+"), ("does not show", page.does_not_show, "-")):
        console.print(f"[bold]{title}[/bold]")
        for line in lines:
            console.print(f"  {mark} {line}", markup=False)
    console.print("[bold]report[/bold]  ", end="")
    console.print(str(file), soft_wrap=True, markup=False)


def _gather(path: Path, *, quiet: bool):  # type: ignore[no-untyped-def]
    """The sweep's dataset, also saved beside its cells."""
    from rich.console import Console
    from rich.progress import Progress

    from analysis.frames import DATASET, open_sweep, save

    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("run files")
        dataset = open_sweep(path, progress=lambda done, all_: bar.update(task, completed=done, total=all_))
    save(dataset, path / DATASET)
    return dataset


if __name__ == "__main__":
    main()
