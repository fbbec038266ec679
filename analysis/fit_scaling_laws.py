"""`python analysis/fit_scaling_laws.py runs/smoke`: from a sweep's run files to scaling laws, figures and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on the path, where statistics.py would hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click

# What computes and draws is imported inside the command: `--help` must answer at once.


LAWS = (
    "auto", "constant", "power", "actor_critic", "tasks", "actor_critic_tasks", "interaction", "sigmoid", "broken",
)  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--paper", is_flag=True, help="Fit the paper's own numbers (analysis/paper/*.csv) instead of a sweep."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.  [default: PATH/report]")
@click.option("--json", "as_json", is_flag=True, help="Print the fits as JSON and nothing else.")
@click.option(
    "--model",
    type=click.Choice(LAWS),
    default="auto",
    show_default=True,
    help="The law; auto takes actor_critic where their widths vary apart, and power elsewhere.",
)
@click.option(
    "--likelihood",
    type=click.Choice(["logit", "huber", "beta_binomial"]),
    default="logit",
    show_default=True,
    help="What fits are judged by; the report shows all three.",
)
@click.option(
    "--runs-table", type=click.Path(path_type=Path), help="CSV: what each run of a history table is."
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="OURS=THEIRS",
    help="A column of a table under another name.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap and of the fits' starts.")
def main(
    paths: tuple[Path, ...],
    paper: bool,
    out: Path | None,
    as_json: bool,
    model: str,
    likelihood: str,
    runs_table: Path | None,
    columns: tuple[str, ...],
    seed: int,
) -> None:
    """Fit scaling laws and write a report.

    PATHS are sweeps (as in runs/smoke), finished or not, several to be taken together; or one CSV file: with the
    columns parameters, success and n (episodes), and where there are more: tasks, benchmark, actor, critic; or a
    history with the columns run, step and success (docs/analysis.md).
    """
    if paper == bool(paths):
        raise click.UsageError("name a sweep, as in runs/smoke, or give --paper; one of the two")
    from analysis.frames import SweepError

    known = {ours: theirs for ours, _, theirs in (word.partition("=") for word in columns)}
    try:
        page = _page(paths, runs_table, known, model=model, likelihood=likelihood, seed=seed, quiet=as_json)
        _write(page, out or _folder(paths), as_json)
    except SweepError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"cannot write the report: {error}; choose another folder with --out"
        ) from None


def _folder(paths: tuple[Path, ...]) -> Path:
    """Where the report goes: into the sweep, beside several of them, or beside a table."""
    if not paths:
        return Path("runs/paper/report")
    first = paths[0]
    if first.suffix == ".csv":
        return first.with_name(f"{first.stem}-report")
    return first / "report" if len(paths) == 1 else first.with_name(_name(paths)) / "report"


def _name(paths: tuple[Path, ...]) -> str:
    return "+".join(path.resolve().name for path in paths)


def _page(
    paths: tuple[Path, ...], runs_table: Path | None, columns: dict[str, str], *, quiet: bool, **options: Any
) -> Any:
    """The page about what was asked for."""
    from analysis import paper_study, sweep_study, table_study
    from analysis.frames import SweepError
    from analysis.history_table import is_history, open_history

    if not paths:
        return paper_study.study(seed=options["seed"])
    if paths[0].suffix != ".csv":
        return sweep_study.study(_gather(paths, quiet=quiet), _name(paths), **options)
    if len(paths) > 1:
        raise SweepError(f"{paths[0]} is a table: give it alone")
    if is_history(paths[0], columns):
        return sweep_study.study(
            open_history(paths[0], runs_table, columns=columns), paths[0].stem, **options
        )
    return table_study.study(paths[0], **options)


def _write(page: Any, out: Path, as_json: bool) -> None:
    import json

    from rich.console import Console

    from analysis import report

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


def _gather(paths: tuple[Path, ...], *, quiet: bool) -> Any:
    """The dataset of the sweeps; of one alone also saved beside its cells."""
    from rich.console import Console
    from rich.progress import Progress

    from analysis.frames import DATASET, open_sweep, save

    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("run files")
        dataset = open_sweep(*paths, progress=lambda done, all_: bar.update(task, completed=done, total=all_))
    if len(paths) == 1:
        save(dataset, paths[0] / DATASET)
    return dataset


if __name__ == "__main__":
    main()
