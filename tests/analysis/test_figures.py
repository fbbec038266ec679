"""Figures: what is drawn is what was handed in, and the SVG can stand in a page with others."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.contour import ContourSet

from analysis import figures
from analysis.figures import (
    INK,
    Predicted,
    Series,
    extrapolation,
    first_panels,
    heat_map,
    learning_curves,
    maps,
    measures,
    profiles_of_fit,
    residuals,
    style,
    success_against_parameters,
    svg,
    write,
)
from analysis.frames import open_sweep
from analysis.variants import Variant, variants
from mtrl.run_writer import RunFileWriter
from mtrl.tasks import resolve_tasks
from tests.analysis.reference_analysis import DIVERGED, config_of, write_sweep


def some_variants(tmp_path: Path, seeds: int = 2) -> list[Variant]:
    sets = ("drawer-close-v3", "drawer-close-v3+reach-v3")
    write_sweep(tmp_path, [config_of(t, w, s) for t in sets for w in (16, 32) for s in range(seeds)])
    return variants(open_sweep(tmp_path))


def test_learning_curves_draw_every_cell_and_the_random_policy(tmp_path: Path) -> None:
    figure = learning_curves(some_variants(tmp_path))
    assert len(figure.axes) == 3  # one task alone, then two tasks
    for axis in figure.axes:
        drawn = [line.get_ydata() for line in axis.get_lines()]
        assert sum(len(y) == 4 for y in drawn) == 2
        assert [0.2, 0.2] in [list(np.round(y, 6)) for y in drawn]
    np.testing.assert_allclose(figure.axes[2].get_lines()[0].get_xdata(), [500, 1000, 1500, 2000])
    np.testing.assert_allclose(
        figure.axes[2].get_lines()[0].get_ydata(), [0.101, 0.401, 0.701, 0.901], rtol=1e-6
    )


def test_a_width_has_one_colour_in_every_panel_and_the_legend(tmp_path: Path) -> None:
    sized = [
        replace(variant, parameters={"total": variant.parameters["total"] + len(variant.tasks)})
        for variant in some_variants(tmp_path)
    ]
    figure = learning_curves(sized)
    curves = [
        [line.get_color() for line in axis.get_lines() if len(line.get_ydata()) == 4] for axis in figure.axes
    ]
    *legend, dashed = [line.get_color() for line in figure.legends[0].get_lines()]
    assert len({*legend, dashed}) == 3
    assert curves == [legend] * 3


def test_a_benchmark_of_many_tasks_is_one_panel(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of("MT10", 16)])
    figure = learning_curves(variants(open_sweep(tmp_path)))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["MT10"]
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata()[0], 0.1 + 0.0045, rtol=1e-5)


def a_figure() -> tuple[Series, str]:
    series = Series(
        "MT10", np.array([1e5, 1e6]), np.array([0.5, 0.7]), np.array([0.4, 0.6]), np.array([0.6, 0.8])
    )
    return series, svg(success_against_parameters({"a": [series], "b": [series]}, random={"a": 0.1}), "one")


def test_svg_is_well_formed_and_carries_text(tmp_path: Path) -> None:
    _, text = a_figure()
    ElementTree.fromstring(text)
    assert ">success<" in text
    assert "currentColor" in text
    assert INK not in text
    assert "<image" not in text


def test_ids_of_two_figures_do_not_meet() -> None:
    series, first = a_figure()
    second = svg(success_against_parameters({"a": [series]}), "two")
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for own, text in zip(ids, (first, second), strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= own


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert a_figure()[1] == a_figure()[1]


def drawn(axis: Axes) -> list[list[float]]:
    return [np.round(np.asarray(line.get_ydata(), float), 6).tolist() for line in axis.get_lines()]


def test_single_runs_and_diverged_ones_are_marked() -> None:
    sizes, scores = np.array([1e5, 1e6]), np.array([0.5, 0.7])
    series = Series("MT10", sizes, scores, dots=(sizes, scores - 0.1), crosses=(sizes[1:], scores[1:] - 0.1))
    (axis,) = success_against_parameters({"this": [series]}).axes
    assert [0.4, 0.6] in drawn(axis)
    (cross,) = [line for line in axis.get_lines() if line.get_label() == "diverged run"]
    assert (cross.get_marker(), cross.get_ydata().tolist()) == ("x", [0.6])


def test_a_diverged_run_ends_in_a_cross(tmp_path: Path) -> None:
    files = write_sweep(tmp_path, [config_of(seed=seed) for seed in range(2)], success=[0.2, 0.4])
    RunFileWriter.open(files[0]).mark_diverged(DIVERGED)
    figure = learning_curves(variants(open_sweep(tmp_path)))
    crosses = [line for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    ends = [np.round([*line.get_xdata(), *line.get_ydata()], 6).tolist() for line in crosses]
    assert ends == [[1000, 0.4]]


def test_a_map_shows_its_numbers_and_leaves_out_what_is_not_known() -> None:
    figure = maps({"success": np.array([[0.25, np.nan], [0.5, 1]])}, [10, 50], [256, 512])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.25", "0.50", "1.00"]


def test_names_of_sizes_do_not_meet() -> None:
    """Over little more than a decade matplotlib would name every digit."""
    series = Series("a", np.array([3e3, 9e3, 8e4]), np.array([0.1, 0.2, 0.3]))
    figure = success_against_parameters({"one": [series], "two": [series], "three": [series]})
    FigureCanvasAgg(figure).draw()
    for axis in figure.axes:
        boxes = [
            label.get_window_extent() for label in axis.get_xticklabels(which="both") if label.get_text()
        ]
        left, right = axis.bbox.x0, axis.bbox.x1
        shown = sorted((box.x0, box.x1) for box in boxes if left <= (box.x0 + box.x1) / 2 <= right)
        assert len(shown) >= 2
        assert all(end < start for (_, end), (start, _) in pairwise(shown))


def test_numbers_on_a_map_keep_their_colour_on_a_dark_page() -> None:
    text = svg(maps({"x": np.array([[0.1], [0.9]])}, [10, 50], [256]), "x")
    for number in ("0.10", "0.90"):
        (tag,) = re.findall(rf"<text [^>]*>{re.escape(number)}</text>", text)
        assert re.search(r"fill: #(fefefe|111111)", tag), tag


def test_the_heat_map_joins_equal_parameters() -> None:
    parameters = np.array([[100.0, 200], [200, 400]])
    figure = heat_map([1, 2], [1, 2], np.full((2, 2), 0.5), parameters)
    (lines,) = [c for c in figure.axes[0].collections if isinstance(c, ContourSet)]
    middle = [path.vertices for path, level in zip(lines.get_paths(), lines.levels, strict=True)
              if 180 < np.exp(level) < 220]  # fmt: skip
    for vertices in middle:  # along a line of about 200 the two widths trade against each other
        assert np.corrcoef(vertices.T)[0, 1] < -0.9


def test_an_axis_of_success_ends_where_all_of_it_is_seen(tmp_path: Path) -> None:
    """Success of a tenth is not a line at the foot of the figure; a random policy is named in the legend."""
    tops = []
    for final in (0.26, 0.9):
        place = tmp_path / str(final)
        write_sweep(place, [config_of("MT10", 16)], success=[0.1, 0.1, 0.1, final])
        figure = learning_curves(variants(open_sweep(place)))
        tops.append(figure.axes[0].get_ylim()[1])
        assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "random policy"
        assert not figure.axes[0].texts
    assert 0.27 < tops[0] < 0.35
    assert 1 < tops[1] < 1.1
    scores, parameters = np.array([[0.1, 0.2], [0.2, 0.25]]), np.array([[100.0, 200], [200, 400]])
    (image,) = heat_map([1, 2], [1, 2], scores, parameters).axes[0].get_images()
    assert image.norm(0.3) == 1


def test_what_was_left_out_is_hollow() -> None:
    seen, left_out = np.array([0.5, 0.6, 0.8]), np.array([False, False, True])
    (axis,) = extrapolation({"MT10": Predicted(seen, seen + 0.01, left_out)}).axes
    hollow = [line for line in axis.get_lines() if line.get_markerfacecolor() == "none"]
    assert [np.round(line.get_ydata(), 6).tolist() for line in hollow] == [[0.81]]


def test_measures_have_scales_of_their_own() -> None:
    steps = np.array([1e3, 2e3])
    panels = {
        "dormant": [Series("w", steps, np.array([0.1, 0.2]))],
        "rank": [Series("w", steps, np.array([50.0, 60]))],
    }
    first, second = measures(panels).axes
    assert first.get_ylim()[1] < 1 < 60 < second.get_ylim()[1]


def test_files(tmp_path: Path) -> None:
    series, _ = a_figure()
    figure = success_against_parameters({"a": [series]})
    write(figure, tmp_path, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]
    write(figure, tmp_path, "x", png=True)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    ElementTree.parse(tmp_path / "x.svg")


def test_two_groups_of_a_panel_never_share_a_colour() -> None:
    labels = ["other system  (n = 5)", "MT10  (n = 5)", "MT50  (n = 5)", "a third", figures.PAPER]
    colours = style.colours(labels)
    assert len(set(colours)) == len(labels)
    assert colours[1] == figures.BENCHMARK_COLOURS["MT10"]


def test_a_group_has_one_colour_with_and_without_benchmarks_beside_it() -> None:
    groups = ["drawer-close (n = 4)", "drawer-close + reach (n = 4)"]
    assert style.colours([*groups, "MT10", "MT25", "MT50"])[:2] == style.colours(groups)


def test_panels_keep_their_height_under_a_long_legend() -> None:
    heights = []
    for count in (1, 6, 40):
        names = [f"MT10, learning rate of the critic {number}" for number in range(count)]
        sizes = np.array([1.0, 2])
        figure = success_against_parameters({"a": [Series(name, sizes, sizes) for name in names]})
        FigureCanvasAgg(figure).draw()
        heights.append(figure.axes[0].get_window_extent().height)
    assert min(heights) > 0.9 * heights[0]


@pytest.mark.filterwarnings("error")  # of a layout that has no room
@pytest.mark.parametrize("count", [2, 30])
def test_a_legend_of_many_groups_stays_short_and_off_the_points(count: int) -> None:
    names = [f"MT10, learning rate of the critic {number}" for number in range(count)]
    sizes, left_out = np.array([1e5, 1e6]), np.array([False, True])
    for figure in (
        residuals(dict.fromkeys(names, (sizes, sizes / 1000000.0))),
        extrapolation({name: Predicted(sizes / 2e6, sizes / 2e6, left_out) for name in names}),
        profiles_of_fit({name: (np.linspace(0, 1, 9), np.linspace(-2, 2, 9) ** 2) for name in names}),
    ):
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0
        words = [text.get_text() for text in legend.get_texts()]
        assert len(words) <= style.MOST_NAMES
        assert any(word.startswith("and ") for word in words) == (count > style.MOST_NAMES)


def test_a_legend_of_many_groups_names_the_paper() -> None:
    sizes = np.array([1.0, 2])
    names = [*map(str, range(9)), figures.PAPER, *map(str, range(9, 20))]
    figure = success_against_parameters({"a": [Series(name, sizes, sizes) for name in names]})
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-2:] == ["and 10 more", figures.PAPER]


def test_a_figure_has_few_panels() -> None:
    assert first_panels(range(6)) == (range(6), "")
    assert first_panels(range(30)) == (range(6), " The first 6 of 30 are drawn.")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_long_names_stay_in_their_panel(count: int) -> None:
    titles = [f"dormant neurons of the critic on training batches {number}" for number in range(count)]
    series = [
        figures.Series("reach + drawer-close + door-open  (n = 35)", np.array([1.0, 2]), np.array([0.1, 0.2]))
    ]
    panels = dict.fromkeys(titles, series)
    for figure in (figures.measures(panels), figures.lines(panels, x="x", y="y")):
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        boxes = [axis.get_window_extent() for axis in figure.axes]
        for axis, box in zip(figure.axes, boxes, strict=True):
            assert box.width > 0.8 * figure.bbox.width / figures.style.columns_of(count) - 60
            assert axis._left_title.get_window_extent().x1 <= box.x1 + 12
        assert min(box.y0 for box in boxes) > legend.get_window_extent().y1
        assert (
            figure.bbox.x0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figure.bbox.x1
        )


@pytest.mark.parametrize(("seeds", "bands", "lines"), [(1, 0, 0), (2, 0, 1), (3, 1, 0)])
def test_two_runs_are_lines_and_three_a_band(tmp_path: Path, seeds: int, bands: int, lines: int) -> None:
    write_sweep(tmp_path, [config_of("drawer-close-v3", 16, seed) for seed in range(seeds)])
    (axis,) = learning_curves(variants(open_sweep(tmp_path))).axes
    assert sum(isinstance(drawn, PolyCollection) for drawn in axis.collections) == bands
    thin = [drawn for drawn in axis.collections if isinstance(drawn, LineCollection)]
    assert len(thin) == lines
    assert all(len(drawn.get_segments()) == seeds for drawn in thin)


@pytest.mark.parametrize("count", [1, 5, 10, 50])
def test_small_multiples_of_any_number_of_tasks(tmp_path: Path, count: int) -> None:
    write_sweep(tmp_path, [config_of("+".join(resolve_tasks("MT50")[:count]), width) for width in (16, 32)])
    found = variants(open_sweep(tmp_path))
    figure = figures.tasks(found, lambda variant: 1.0, "env steps per task")
    FigureCanvasAgg(figure).draw()
    (axis,) = figure.axes
    titles = [text for text in axis.texts if text.get_text()[0].isalpha()]
    below = sorted(
        (round(box.y1), box.x0, box.x1)
        for text in axis.texts
        if text.get_va() == "top" and (box := text.get_window_extent())
    )
    assert all(end + 8 < start for (row, _, end), (same, start, _) in pairwise(below) if row == same)
    assert len(titles) == count
    boxes = [text.get_window_extent() for text in axis.texts]
    for place, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:place])
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(box) for box in boxes)
    first = axis.get_lines()[0]
    assert np.isnan(first.get_ydata()).sum() == count  # a gap after each panel
    heights = np.asarray(first.get_ydata(), float)[:4]
    np.testing.assert_allclose(
        (heights[-1] - heights[0]) / 0.62, 0.8, atol=1e-6
    )  # success rises from .1 to .9


def test_shares_of_lost_runs_have_their_intervals() -> None:
    ends = np.array([0.0, 0.1]), np.array([0.3, 0.5])
    rate = figures.Rate("MT10", np.array([1e5, 1e6]), np.array([0.0, 0.25]), *ends)
    (axis,) = figures.rates({"MT10": [rate]}, x="parameters", y="runs lost").axes
    (bars,) = axis.containers
    tall = [segment[:, 1].tolist() for segment in bars[2][0].get_segments()]
    np.testing.assert_allclose(tall, [[0, 0.3], [0.1, 0.5]])


def test_flops_have_short_names() -> None:
    assert [style.thousands(value) for value in (2e17, 4.52e9, 3e6, 20_000, 500)] == [
        "2e17",
        "4.5e9",
        "3M",
        "20k",
        "500",
    ]


def test_env_steps_on_an_even_axis_are_named_in_thousands() -> None:
    curve = figures.Series("ours", np.array([2e5, 6e5, 1e6]), np.array([0.1, 0.2, 0.3]))
    drawn = figures.svg(figures.lines({"MT10": [curve]}, x="env steps", y="success", log=False), "curve")
    assert ">200k<" in drawn
    assert ">1M<" in drawn
    assert "1e6" not in drawn
