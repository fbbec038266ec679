"""The paper's own numbers -> the page about them: what they support by themselves, before any run of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis import comparisons, compute_study, figures, law_items, law_study, paper, paper_curves
from analysis.comparisons import Comparison, Pair
from analysis.figures import OKABE_ITO, Row, Series, success_against_parameters
from analysis.law_study import EVERYTHING, Law, law_of_points
from analysis.paper_claims import EPISODES, RUNS, WORDS, actor_critic_line, claims
from analysis.report import Drawing, Page, Section, Table, Text
from analysis.scaling_laws import Points
from analysis.statistics import Interval, interval, iqm_of_runs, minimum_difference
from analysis.x_axis import SIZE, Name, XAxis, compute_axis

MATCHED = {
    "soft_modularization": "550",
    "moore": "800",
    "paco": "885",
}  # multi-head width of as many parameters
WIDTHS = ("400", "1024", "2048", "4096")  # of the multi-head MLP, with single seeds known


def study(*, x_axis: Name = "size", seed: int = 0) -> Page:
    """The page about analysis/paper/*.csv."""
    generator = np.random.default_rng(seed)
    x = _axis() if x_axis == "compute" else SIZE
    groups = paper.by_benchmark("success_by_width")
    single = {name: law_of_points(name, _points(rows), "power", generator) for name, rows in groups.items()}
    laws = [
        *single.values(),
        *_over_tasks(_points([row for rows in groups.values() for row in rows]), generator),
    ]
    scores = {name: interval(runs, iqm_of_runs, generator, bounds=(0, 1)) for name, runs in _seeds().items()}
    compared = comparisons.comparisons(_pairs(), generator)
    steps = _width_steps()
    curve_studies = paper_curves.studies(generator)
    shows, does_not_show = _findings(laws, compared, steps)
    for each in curve_studies:
        yes, no = compute_study.sentences(each)
        shows, does_not_show = shows + yes, does_not_show + no
    return Page(
        title="Scaling laws of the paper's own numbers",
        lead="McLean et al. 2025, arXiv 2503.05126: Meta-World MT10, MT25 and MT50, SAC, 10 seeds per point. "
        "Score: success at the last evaluation.",
        facts=[
            ("benchmarks", str(len(single))),
            ("widths", str(max(len(law.points) for law in single.values()))),
            ("single runs known", str(sum(len(runs) for runs in _seeds().values()))),
            ("comparisons supported", f"{sum(c.supported for c in compared)} of {len(compared)}"),
        ],
        claims=claims(compared, steps[0].resolvable),
        shows=shows,
        does_not_show=does_not_show,
        sections=[
            Section("Scaling laws", law_items.items(laws, x)),
            Section(
                "Data and compute", [Text(paper_curves.NOTE), *compute_study.items(curve_studies)]
            ),
            Section("Success and size", [_size_drawing(single, x), _maps()]),
            Section("What the seeds support", [
                _seed_drawing(scores), comparisons.table(compared, COMPARED),
                comparisons.drawing(compared, "comparisons_mt10", "The paper's comparisons by its own seeds"),
            ]),
            Section("What cannot be asked of seeds", [_step_table(steps)]),
            Section("Architectures at matched parameters", [_architecture_drawing()]),
            Section("Actor against critic", [_actor_critic_table(), _elasticity_table(), Text(ACTOR_CRITIC)]),
            Section("Plasticity", [_dormant_drawing()]),
            Section("Learning", [_learning_drawing()]),
            Section("How far to trust the laws", law_items.diagnostics(laws, x)),
            Section("Methods", [Text(text) for text in METHODS]),
        ],
        footer="mtrl, from analysis/paper/*.csv.",
        fits={law.group: law.summary() for law in laws}
        | {"curves": {each.group: each.summary() for each in curve_studies}}
        | {"comparisons": [comparison.summary() for comparison in compared]},
    )  # fmt: skip


def _over_tasks(everything: Points, generator: np.random.Generator) -> list[Law]:
    """Tasks multiply; and whether the exponent of size depends on them."""
    return [
        law_of_points(EVERYTHING, everything, "tasks", generator),
        law_of_points(f"{EVERYTHING}, interaction", everything, "interaction", generator),
    ]


def _pairs() -> list[Pair]:
    """The paper's comparisons at MT10 of which single seeds are known."""
    seeds = _seeds()
    pairs = [
        Pair("MT10", f"MLP of width {width}", WORDS[system], seeds["mtmhsac", width], seeds[_only(system)])
        for system, width in MATCHED.items()
    ]
    for narrow, wide in (*pairwise(WIDTHS), (WIDTHS[0], WIDTHS[-1])):
        names = f"MLP of width {wide}", f"width {narrow}"
        pairs.append(Pair("MT10", *names, seeds["mtmhsac", wide], seeds["mtmhsac", narrow]))
    return pairs


@dataclass(frozen=True)
class Step:
    """From one published width to the next, without seeds: the difference, and what 10 seeds could resolve."""

    benchmark: str
    narrow: int
    wide: int
    difference: float
    resolvable: float

    @property
    def clear(self) -> bool:
        return abs(self.difference) > self.resolvable


def _width_steps() -> list[Step]:
    """The steps of width in success_by_width.csv, against the seed-to-seed spread known from MT10."""
    known = [runs[:, 0] for (system, _), runs in _seeds().items() if system == "mtmhsac"]
    spread = float(np.sqrt(np.mean([runs.var(ddof=1) for runs in known])))
    resolvable = minimum_difference(spread, RUNS)
    return [
        Step(
            benchmark,
            int(a["width"]),
            int(b["width"]),
            float(b["success_iqm"]) - float(a["success_iqm"]),
            resolvable,
        )
        for benchmark, rows in paper.by_benchmark("success_by_width").items()
        for a, b in pairwise(rows)
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


def _findings(laws: list[Law], compared: list[Comparison], steps: list[Step]) -> tuple[list[str], list[str]]:
    shows: list[str] = []
    not_shown: list[str] = []
    for law in laws:
        yes, no = law_study.sentences(law)
        if law.group.endswith(
            "interaction"
        ):  # what it says of size and tasks apart, the law without it says better
            yes, no = (
                [line for line in lines if "depends" in line or "where there are" in line]
                for lines in (yes, no)
            )
        shows += yes
        not_shown += no
    for c in compared:
        (shows if c.supported else not_shown).append(c.sentence)
    close = [f"{s.benchmark} {s.narrow} to {s.wide} ({s.difference:+.3f})" for s in steps if not s.clear]
    not_shown.append(
        f"Steps of width smaller than the {steps[0].resolvable:.3f} that {RUNS} seeds resolve at the spread of MT10's "
        f"seeds: {', '.join(close)}."
    )
    return shows, not_shown


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
        "IQM over the paper's seeds at MT10 with 95% intervals of all runs, none trimmed; dots are single runs. Blue: "
        "multi-head MLP by width; orange: multi-task architectures."
    )
    return Drawing("seeds_mt10", "Single seeds at MT10", caption, figures.forest(rows, label="success"))


def _axis() -> XAxis:
    """The axis of compute of the paper's benchmarks."""
    known = paper_curves.compute()
    return compute_axis({name.removeprefix(f"{figures.PAPER}, "): pairs for name, pairs in known.items()})


def _size_drawing(laws: dict[str, Law], x: XAxis) -> Drawing:
    series = []
    for line in paper.series_by_width().values():
        grid = np.geomspace(line.sizes.min(), line.sizes.max(), 80)
        law = laws[line.label].line
        at, sizes = (x.size(line.label, values) for values in (grid, line.sizes))
        curve = None if law.refusal else (at, 1 - law.failure(parameters=grid))
        series.append(replace(line, sizes=sizes, curve=curve))
    caption = (
        "IQM over n = 10 runs of the mean over tasks, multi-head MLP of width 256 to 4096, at the end of training. "
        "Curves are power laws over the measured sizes."
    )
    drawing = success_against_parameters({"multi-head MLP": series}, x=x.size_label)
    return Drawing("success_against_parameters", f"Success against {x.size_word}", caption, drawing)


def _maps() -> Drawing:
    """Success and dormancy over tasks and width."""
    groups = paper.by_benchmark("success_by_width")
    tasks = [int(rows[0]["tasks"]) for rows in groups.values()]
    widths = [int(row["width"]) for row in next(iter(groups.values()))]
    success, dormant = (
        np.array([[float(row[name]) * scale for row in rows] for rows in groups.values()])
        for name, scale in (("success_iqm", 1), ("dormant_percent", 0.01))
    )
    drawing = figures.maps({"success": success, "dormant neurons of the critic": dormant}, tasks, widths)
    return Drawing("tasks_by_width", "Tasks and width", "As published, n = 10 runs per field.", drawing)


def _step_table(steps: list[Step]) -> Table:
    rows = [
        [s.benchmark, f"{s.narrow} to {s.wide}", f"{s.difference:+.3f}", f"{s.resolvable:.3f}",
         "beyond" if s.clear else "within"]
        for s in steps
    ]  # fmt: skip
    caption = (
        "success_by_width.csv has no single seeds, so these steps have no interval of their own. Beside each stands "
        "the difference that 10 seeds a side would just show (two-sided 5%), if seeds vary as MT10's do where they "
        "are known; other benchmarks may vary more or less."
    )
    return Table(caption, ["benchmark", "width", "difference", "resolvable", "luck"], rows, texts=(0, 1, 4))


def _architecture_drawing() -> Drawing:
    rows = []
    for row in paper.table("architectures"):
        name = f"{row['benchmark']}  {WORDS[row['system']]}"
        value, low, high = (float(row[key]) for key in ("success_iqm", "ci_low", "ci_high"))
        rows.append(Row(name, value, low, high, colour=OKABE_ITO[1]))
        match = float(row["matched_mlp_success_iqm"])
        width = f", width {row['matched_mlp_width']}" if row["matched_mlp_width"] else ""
        rows.append(Row(f"{row['benchmark']}  MLP of as many parameters{width}", match, match, match))
    caption = (
        "Orange: multi-task architectures with their published intervals, which were taken after trimming; blue: the "
        "multi-head MLP of as many actor parameters, published without one. n = 10 runs each."
    )
    return Drawing("architectures", "Architectures", caption, figures.forest(rows, label="success"))


def _actor_critic_table() -> Table:
    rows = [
        [row["actor_width"], row["critic_width"], row["success_iqm"], row["success_at_4m_env_steps"]]
        for row in paper.table("actor_critic_mt10")
    ]
    header = ["actor width", "critic width", "success (IQM)", "success at 4M env steps"]
    return Table("Widths of actor and critic apart, MT10, as published.", header, rows, texts=())


def _elasticity_table() -> Table:
    line = actor_critic_line()
    rows = [
        [part, f"{found.value:.3f}", law_study.span(found.low, found.high, 3)]
        for part, found in line.exponents.items()
    ]
    caption = (
        "By what power of a network's parameters failure falls, the other held: least squares on five points."
    )
    return Table(caption, ["network", "elasticity", "95% interval"], rows)


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


COMPARED = (
    "The paper's comparisons, asked of its own seeds (n = 10 a side): untrimmed, p corrected for all of them (Holm). "
    "P(better): that a run of the first beats one of the second."
)
ACTOR_CRITIC = (
    "Taking the critic from 1024 to 200 costs far more than taking the actor there, in one measurement of each. "
    "Without the seeds behind these pairs there is no interval, and with fewer than four sizes of either no exponent."
)
METHODS = (
    "Scores: IQM over runs of the mean over tasks. Intervals use all runs, none trimmed: bootstrap standard error with "
    "Student's quantile; the published ones were taken after trimming, which makes them too narrow. A comparison is "
    "supported when the difference is positive and its p, by Welch's test (the exact rank test where every run of one "
    "is above every run of the other) and corrected for all comparisons on this page after Holm, is below .05.",
    "Laws over the measured sizes: least squares on log failure, Student's intervals. With a free floor: least squares "
    "on logits, profile-likelihood intervals with the F quantile, so that few points give wide intervals. Fewer than 4 "
    "sizes, an interval wider than 1, or a constant that fits as well: not identified.",
)
