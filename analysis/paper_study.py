"""The paper's own numbers -> the page about them: what they support by themselves, before any run of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis import figures, paper
from analysis.figures import OKABE_ITO, Row, Series, success_against_parameters
from analysis.models import MODELS
from analysis.report import Drawing, Page, Section, Table, Text
from analysis.scaling_laws import Fit, Points, compare, fit
from analysis.statistics import Interval, difference, holm, interval, iqm_of_runs

RUNS = 10  # seeds behind each of the paper's points
EPISODES = 50  # per task and evaluation
MATCHED = {
    "soft_modularization": "550",
    "moore": "800",
    "paco": "885",
}  # multi-head width of as many parameters
WIDTHS = ("400", "1024", "2048", "4096")  # of the multi-head MLP, with single seeds known
WORDS = {
    "soft_modularization": "soft modularization",
    "moore": "MOORE",
    "paco": "PaCo",
    "mtmhsac": "multi-head MLP",
}


@dataclass(frozen=True)
class Comparison:
    """One of the paper's claims that its own seeds can be asked about; positive means as claimed."""

    claim: str
    found: Interval
    p: float  # corrected for all comparisons made
    overlap: bool  # of the two intervals

    @property
    def supported(self) -> bool:
        return self.found.estimate > 0 and self.p < 0.05


def study(*, seed: int = 0) -> Page:
    """The page about analysis/paper/*.csv."""
    generator = np.random.default_rng(seed)
    groups = paper.by_benchmark("success_by_width")
    fits = {benchmark: fit(MODELS["power"], _points(rows), generator) for benchmark, rows in groups.items()}
    everything = _points([row for rows in groups.values() for row in rows])
    tasks = fit(MODELS["tasks"], everything, generator)
    scores = {name: interval(runs, iqm_of_runs, generator, bounds=(0, 1)) for name, runs in _seeds().items()}
    compared = comparisons(scores, generator)
    shows, does_not_show = _findings(fits, tasks, compared)
    return Page(
        title="Scaling laws of the paper's own numbers",
        lead="McLean et al. 2025, arXiv 2503.05126: Meta-World MT10, MT25 and MT50, SAC, 10 seeds per point.",
        facts=[
            ("benchmarks", str(len(fits))),
            ("widths", str(max(law.points for law in fits.values()))),
            ("single runs known", str(sum(len(runs) for runs in _seeds().values()))),
            ("comparisons supported", f"{sum(c.supported for c in compared)} of {len(compared)}"),
        ],
        shows=shows,
        does_not_show=does_not_show,
        sections=[
            Section("Success and size", [_size_drawing(fits), _law_table({**fits, "all three": tasks})]),
            Section("What the seeds support", [
                _seed_drawing(scores), _comparison_table(compared), _difference_drawing(compared),
            ]),
            Section("Actor against critic", [_actor_critic_table(), Text(ACTOR_CRITIC)]),
            Section("Plasticity", [_dormant_drawing()]),
            Section("Learning", [_learning_drawing()]),
            Section("Which law", [_choice_table(groups, everything, generator)]),
            Section("Methods", [Text(text) for text in METHODS]),
        ],
        footer="mtrl, from analysis/paper/*.csv.",
        fits={benchmark: law.summary() for benchmark, law in fits.items()}
        | {"tasks": tasks.summary()}
        | {
            "comparisons": [
                {"claim": c.claim, "difference": c.found.estimate, "low": c.found.low, "high": c.found.high,
                 "p_holm": c.p, "supported": c.supported, "intervals_overlap": c.overlap}
                for c in compared
            ]
        },
    )  # fmt: skip


def comparisons(scores: dict[tuple[str, str], Interval], generator: np.random.Generator) -> list[Comparison]:
    """The paper's comparisons at MT10, by its own seeds: untrimmed, every run in; Holm-corrected together."""
    pairs = [
        (f"MLP of width {width} above {WORDS[system]}", ("mtmhsac", width), _only(system))
        for system, width in MATCHED.items()
    ]
    for narrow, wide in (*pairwise(WIDTHS), (WIDTHS[0], WIDTHS[-1])):
        pairs.append((f"MLP of width {wide} above width {narrow}", ("mtmhsac", wide), ("mtmhsac", narrow)))
    seeds = _seeds()
    found = [difference(seeds[a], seeds[b], iqm_of_runs, generator, resamples=10_000) for _, a, b in pairs]
    corrected = holm(np.array([difference.p for difference in found]))
    return [
        Comparison(
            claim, difference, float(p), scores[a].low <= scores[b].high and scores[b].low <= scores[a].high
        )
        for (claim, a, b), difference, p in zip(pairs, found, corrected, strict=True)
    ]


def _seeds() -> dict[tuple[str, str], NDArray[np.float64]]:
    """Scores [runs, 1] by (system, width), in the order of the table."""
    groups: dict[tuple[str, str], list[list[float]]] = {}
    for row in paper.table("seeds_mt10"):
        groups.setdefault((row["system"], row["width"]), []).append([float(row["success"])])
    return {name: np.array(values) for name, values in groups.items()}


def _only(system: str) -> tuple[str, str]:
    """The key of a system that stands in the table with one width."""
    return next(key for key in _seeds() if key[0] == system)


def _points(rows: list[dict[str, str]]) -> Points:
    tasks = np.array([int(row["tasks"]) for row in rows])
    return Points(
        {"parameters": np.array([paper.parameters(row) for row in rows]), "tasks": tasks},
        np.array([float(row["success_iqm"]) for row in rows]),
        RUNS * EPISODES * tasks,
    )


def _findings(fits: dict[str, Fit], tasks: Fit, compared: list[Comparison]) -> tuple[list[str], list[str]]:
    shows: list[str] = []
    not_shown: list[str] = []
    for benchmark, law in fits.items():
        if law.identified:
            (exponent,) = law.exponents
            shows.append(
                f"{benchmark}: failure falls with parameters as N^-{exponent.estimate:.2f} "
                f"(95 % interval {exponent.low:.2f} to {exponent.high:.2f}) towards a floor of {law.floor:.0%}."
            )
        else:
            not_shown.append(f"{benchmark}: the exponent is not identified: {law.reason}.")
    growth = next(e for e in tasks.exponents if e.name == "tasks")
    if growth.identified:
        shows.append(
            f"More tasks fail more: with sizes held, failure grows as T^{-growth.estimate:.2f} "
            f"(95 % interval {-growth.high:.2f} to {-growth.low:.2f}) above what size explains."
        )
    else:
        not_shown.append(f"The exponent of the number of tasks is not identified: {growth.refusal}.")
    for c in compared:
        low, high = c.found.low, c.found.high
        line = f"MT10, {c.claim}: {c.found.estimate:+.3f} ({low:+.3f} to {high:+.3f}, p = {_p(c.p)})"
        if c.supported:
            shows.append(
                line + (", though the two intervals overlap." if c.overlap else "; the intervals are apart.")
            )
        else:
            not_shown.append(line + "; the intervals overlap." if c.overlap else line + ".")
    not_shown.append(
        "Actor against critic: five cells without single seeds, and no exponent of either; the full grid is needed."
    )
    return shows, not_shown


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}"[1:] if p < 1 else "1"


def _name(key: tuple[str, str]) -> str:
    system, width = key
    return f"multi-head MLP, width {width}" if system == "mtmhsac" else WORDS[system]


def _seed_drawing(scores: dict[tuple[str, str], Interval]) -> Drawing:
    seeds = _seeds()
    rows = [
        Row(f"{_name(key)}  (n = {found.runs})", found.estimate, found.low, found.high, seeds[key][:, 0],
            OKABE_ITO[0] if key[0] == "mtmhsac" else OKABE_ITO[1])
        for key, found in sorted(scores.items(), key=lambda item: item[1].estimate)
    ]  # fmt: skip
    caption = (
        "IQM over the paper's seeds at MT10 with 95 % intervals of all runs, none trimmed; dots are single runs. Blue: "
        "multi-head MLP by width; orange: multi-task architectures."
    )
    return Drawing("seeds_mt10", "Single seeds at MT10", caption, figures.forest(rows, label="success"))


def _difference_drawing(compared: list[Comparison]) -> Drawing:
    rows = [
        Row(
            c.claim,
            c.found.estimate,
            c.found.low,
            c.found.high,
            colour=OKABE_ITO[2] if c.supported else OKABE_ITO[1],
        )
        for c in compared
    ]
    caption = (
        "Differences of IQMs with 95 % intervals (each by itself). Green: supported after correction for all "
        f"{len(compared)} comparisons; orange: not. The dashed line is no difference."
    )
    drawing = figures.forest(rows, label="difference in success", line=0)
    return Drawing("comparisons_mt10", "The paper's comparisons by its own seeds", caption, drawing)


def _comparison_table(compared: list[Comparison]) -> Table:
    rows = [
        [
            c.claim,
            f"{c.found.estimate:+.3f}",
            f"{c.found.low:+.3f} – {c.found.high:+.3f}",
            _p(c.found.p),
            _p(c.p),
            "overlap" if c.overlap else "apart",
            "supported" if c.supported else "not supported",
        ]
        for c in compared
    ]
    header = ["claim at MT10", "difference", "95 % interval", "p", "p (Holm)", "intervals", "verdict"]
    return Table("The paper's comparisons, asked of its own seeds.", header, rows, texts=(0, 5, 6))


def _size_drawing(fits: dict[str, Fit]) -> Drawing:
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
    drawing = success_against_parameters([], series)
    return Drawing("success_against_parameters", "Success against parameters", caption, drawing)


def _law_table(fits: dict[str, Fit]) -> Table:
    rows = [
        [
            benchmark,
            law.model,
            exponent.name,
            str(law.points),
            f"{abs(exponent.estimate):.2f}",
            _span(exponent.low, exponent.high),
            f"{law.floor:.3f}",
            f"{law.rmse:.2f}",
            "identified" if exponent.identified else f"not identified: {exponent.refusal}",
        ]
        for benchmark, law in fits.items()
        for exponent in law.exponents
    ]
    header = [
        "benchmark",
        "law",
        "exponent of",
        "points",
        "size",
        "95 % interval",
        "floor",
        "RMSE (logit)",
        "verdict",
    ]
    caption = (
        "Power laws y = E + A N^-a of the failure rate, and with C T^g added over all three; RMSE in logits."
    )
    return Table(caption, header, rows, texts=(0, 1, 2, 8))


def _span(low: float, high: float) -> str:
    """The interval of an exponent's size, whichever its sign."""
    low, high = sorted((abs(low), abs(high)))
    return f"{low:.2f} – {high:.2f}" if np.isfinite(high) else f"> {low:.2f}"


def _choice_table(
    groups: dict[str, list[dict[str, str]]], everything: Points, generator: np.random.Generator
) -> Table:
    rows = []
    single = [MODELS[name] for name in ("constant", "power", "sigmoid", "broken")]
    joint = [MODELS[name] for name in ("constant", "power", "tasks", "interaction")]
    for benchmark, points, models in (
        *((name, _points(group), single) for name, group in groups.items()),
        ("all three", everything, joint),
    ):
        for choice in compare(models, points, generator):
            numbers = [
                f"{value:.2f}" if np.isfinite(value) else "–"
                for value in (choice.left_out, choice.aicc, choice.bic)
            ]
            rows.append([benchmark, choice.model, str(choice.numbers), *numbers, choice.refusal or ""])
    header = ["benchmark", "law", "numbers", "left-out error", "AICc", "BIC", "refused"]
    caption = (
        "Laws by their error at the left-out largest size (logit RMSE), best first; AICc and BIC are of all points and "
        "need more of them than numbers."
    )
    return Table(caption, header, rows, texts=(0, 1, 6))


def _actor_critic_table() -> Table:
    rows = [
        [row["actor_width"], row["critic_width"], row["success_iqm"], row["success_at_4m_env_steps"]]
        for row in paper.table("actor_critic_mt10")
    ]
    header = ["actor width", "critic width", "success (IQM)", "success at 4M env steps"]
    return Table("Widths of actor and critic apart, MT10, as published.", header, rows, texts=())


def _dormant_drawing() -> Drawing:
    series = [
        Series(
            benchmark,
            np.array([int(row["width"]) for row in rows]),
            np.array([float(row["dormant_percent"]) / 100 for row in rows]),
        )
        for benchmark, rows in paper.by_benchmark("success_by_width").items()
    ]
    caption = (
        "Share of the critic's hidden neurons that are dormant, by width. The batch grew with the number of tasks, so "
        "that more tasks and larger batches cannot be told apart here."
    )
    return Drawing(
        "dormant_by_width",
        "Dormant neurons",
        caption,
        figures.lines({"dormant neurons of the critic": series}, x="width", y="dormant"),
    )


def _learning_drawing() -> Drawing:
    panels = {}
    for benchmark, rows in paper.by_benchmark("learning_curves").items():
        widths = list(dict.fromkeys(row["width"] for row in rows))
        panels[benchmark] = [
            Series(
                f"width {width}",
                np.array([float(row["env_steps"]) for row in rows if row["width"] == width]),
                np.array([float(row["success_iqm"]) for row in rows if row["width"] == width]),
            )
            for width in widths
        ]
    caption = "Success against env steps, summed over tasks, by width; read off the published curves."
    drawing = figures.lines(panels, x="env steps", y="success")
    return Drawing("learning_curves", "Learning by width", caption, drawing)


ACTOR_CRITIC = (
    "Taking the critic from 1024 to 200 costs far more than taking the actor there, in one measurement of each. "
    "Without the seeds behind these cells there is no interval, and with fewer than four sizes of either no exponent."
)
METHODS = (
    "Scores: IQM over runs of the mean over tasks. Intervals use all runs, none trimmed: bootstrap standard error with "
    "Student's quantile; the published ones were taken after trimming, which makes them too narrow. A comparison is "
    "supported when the difference is positive and its p, by Welch's degrees of freedom and corrected for all "
    "comparisons on this page after Holm, is below .05.",
    "Laws: least squares on logits of the failure rate; profile-likelihood intervals with the F quantile, so that few "
    "points give wide intervals. Fewer than 4 sizes, an interval wider than 1, or a constant that fits as well: not "
    "identified.",
)
