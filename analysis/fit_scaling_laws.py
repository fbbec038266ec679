"""`python analysis/fit_scaling_laws.py runs/smoke`: from a sweep's run files to scaling laws, figures and a report."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # When this file is run, Python puts its folder first on the path, and statistics.py would hide the standard
    # library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click

if TYPE_CHECKING:
    from analysis.sources import Source
    from analysis.x_axis import Name

# The modules that compute and draw are imported inside the command, so that `--help` answers at once.


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
    "--score",
    type=click.Choice(["last", "last3", "height"]),
    default="last",
    show_default=True,
    help="A run's score: its last evaluation, the mean of its last three, or the mean height of its curve.",
)
@click.option(
    "--x-axis",
    type=click.Choice(["size", "compute"]),
    default="size",
    show_default=True,
    help="What figures have along x: parameters and env steps, or for both the FLOPs of the updates.",
)
@click.option("--png", is_flag=True, help="Also save every figure as PNG, which takes as long again.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also save all runs as one compressed dataset, from which the same report can be written.",
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
    score: str,
    x_axis: Name,
    png: bool,
    keep: Path | None,
    runs_table: Path | None,
    columns: tuple[str, ...],
    seed: int,
) -> None:
    """Fit scaling laws and write a report.

    PATHS are sweeps (as in runs/smoke), finished or not, and datasets saved before, several to be taken together; or
    CSV files, or a folder of them: tables of points with the columns parameters, success and n (episodes), or
    histories with the columns step and success (docs/analysis.md).
    """
    if paper == bool(paths):
        raise click.UsageError("name a sweep, as in runs/smoke, or give --paper; one of the two")
    from analysis.errors import SweepError
    from analysis.sources import source_of

    gc.set_threshold(50_000)  # figures are many small objects: looking for cycles took an eighth of the time
    known = {ours: theirs for ours, _, theirs in (word.partition("=") for word in columns)}
    options = {"model": model, "likelihood": likelihood, "score": score, "x_axis": x_axis, "seed": seed}
    try:
        if paper:
            from analysis import paper_study

            page, folder = paper_study.study(x_axis=x_axis, seed=seed), Path("runs/paper/report")
        else:
            source = source_of(paths)
            page, folder = _page(source, runs_table, known, keep, quiet=as_json, **options), source.folder
        _write(page, out or folder, as_json, png)
    except SweepError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(
            f"cannot write the report: {error}; choose another folder with --out"
        ) from None


def _page(
    source: Source,
    runs_table: Path | None,
    columns: dict[str, str],
    keep: Path | None,
    *,
    quiet: bool,
    **options: Any,
) -> Any:
    """The page about a sweep, a dataset or tables. Runs (all but tables of points) are also saved to `keep`."""
    from analysis import sweep_study, table_study
    from analysis.frames import load, save
    from analysis.history_table import are_histories, open_histories

    if source.kind == "tables" and not are_histories(source.paths, columns):
        if options.pop("score") != "last":
            raise click.UsageError("a table of points has one score each: --score needs learning curves")
        if options.pop("x_axis") != "size":
            raise click.UsageError(
                "a table of points does not say how long runs were: --x-axis compute needs runs"
            )
        return table_study.study(source.paths, **options)
    match source.kind:
        case "tables":
            runs = open_histories(source.paths, runs_table, columns=columns)
        case "dataset":
            runs = load(source.paths[0])
        case "sweep":
            runs = _gather(source.paths, quiet=quiet)
    if keep:
        save(runs, keep, compress=True)
    return sweep_study.study(runs, source.name, **options)


def _write(page: Any, out: Path, as_json: bool, png: bool) -> None:
    import json

    from rich.console import Console

    from analysis import report

    file = report.write(page, out, png=png)
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
    """The dataset of the sweeps. That of a single sweep is also saved in the sweep's folder."""
    from rich.console import Console
    from rich.progress import Progress

    from analysis.frames import open_sweep, save
    from analysis.missing import begun, tell_missing
    from analysis.sources import DATASET

    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("run files")
        dataset = open_sweep(
            *begun(paths), progress=lambda done, all_: bar.update(task, completed=done, total=all_)
        )
    if len(paths) == 1:
        save(dataset, paths[0] / DATASET)
    elif not quiet:
        for line in tell_missing(paths):
            click.echo(line, err=True)
    return dataset


if __name__ == "__main__":
    main()
