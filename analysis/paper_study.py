"""The paper's own numbers -> the page about them: what they support by themselves, before any run of ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis import paper
from analysis.figures import success_against_parameters
from analysis.models import MODELS
from analysis.report import Drawing, Page, Section, Table, Text
from analysis.scaling_laws import Fit, Points, fit

RUNS = 10  # seeds behind each of the paper's points
EPISODES = 50  # per task and evaluation


def study(*, seed: int = 0) -> Page:
    """The page about analysis/paper/*.csv."""
    generator = np.random.default_rng(seed)
    groups = paper.by_benchmark("success_by_width")
    fits = {benchmark: _fit(rows, generator) for benchmark, rows in groups.items()}
    shows, does_not_show = _findings(fits)
    series = []
    for line in paper.series_by_width():
        grid = np.geomspace(line.sizes.min(), line.sizes.max(), 80)
        law = fits[line.label]
        series.append(
            replace(line, curve=(grid, 1 - law.failure(parameters=grid)) if law.identified else None)
        )
    caption = (
        "IQM over 10 runs of the mean over tasks, multi-head MLP of width 256 to 4096, at the end of training. Curves "
        "are fitted power laws, where the exponent is identified."
    )
    drawing = Drawing(
        "success_against_parameters",
        "Success against parameters",
        caption,
        success_against_parameters([], series),
    )
    return Page(
        title="Scaling laws of the paper's own numbers",
        lead="McLean et al. 2025, arXiv 2503.05126: Meta-World MT10, MT25 and MT50, multi-head MLP, by width.",
        facts=[("benchmarks", str(len(fits))), ("sizes", str(max(law.points for law in fits.values())))],
        shows=shows,
        does_not_show=does_not_show,
        sections=[
            Section("Success and size", [drawing, _table(fits)]),
            Section("Methods", [Text(METHODS)]),
        ],
        footer="mtrl, from analysis/paper/*.csv.",
        fits={benchmark: law.summary() for benchmark, law in fits.items()},
    )


def _fit(rows: list[dict[str, str]], generator: np.random.Generator) -> Fit:
    sizes = np.array([paper.parameters(row) for row in rows])
    success = np.array([float(row["success_iqm"]) for row in rows])
    trials = np.array([RUNS * EPISODES * int(row["tasks"]) for row in rows])
    return fit(MODELS["power"], Points({"parameters": sizes}, success, trials), generator)


def _findings(fits: dict[str, Fit]) -> tuple[list[str], list[str]]:
    shows = []
    not_shown = []
    for benchmark, law in fits.items():
        if law.identified:
            (exponent,) = law.exponents
            shows.append(
                f"{benchmark}: failure falls with parameters as N^-{exponent.estimate:.2f} "
                f"(95 % interval {exponent.low:.2f} to {exponent.high:.2f}) towards a floor of {law.floor:.0%}."
            )
        else:
            not_shown.append(f"{benchmark}: the exponent is not identified: {law.reason}.")
    not_shown.append("Actor against critic: these points widen both together.")
    return shows, not_shown


def _table(fits: dict[str, Fit]) -> Table:
    rows = [
        [
            benchmark,
            str(law.points),
            f"{exponent.estimate:.2f}",
            f"{exponent.low:.2f} – {exponent.high:.2f}",
            f"{law.floor:.3f}",
            "identified" if law.identified else f"not identified: {law.reason}",
        ]
        for benchmark, law in fits.items()
        for exponent in law.exponents
    ]
    header = ["benchmark", "sizes", "exponent", "95 % interval", "floor", "verdict"]
    return Table("Power laws y = E + A N^-a of the failure rate.", header, rows, texts=(0, 5))


METHODS = (
    "Least squares on logits of the failure rate; profile-likelihood intervals with the F quantile, so that few points "
    "give wide intervals. An interval wider than 1, or a constant that fits as well: not identified."
)
