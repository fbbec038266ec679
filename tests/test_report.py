"""The report says what the runs show and what they do not, and is one file that needs no other."""

import itertools
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from reference_analysis import config_of, write_run, write_sweep

from analysis import paper_study, sweep_study
from analysis.frames import SweepError, open_sweep
from analysis.report import Drawing, Page, render
from analysis.sweep_study import is_above

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checked(HTMLParser):
    """Notes what an HTML page refers to, and that its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.references += [
            value or "" for name, value in attributes if name in ("src", "href", "xlink:href")
        ]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [
            value or "" for name, value in attributes if name in ("src", "href", "xlink:href")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(tmp_path: Path) -> Page:
    return sweep_study.study(open_sweep(tmp_path), "smoke")


def smoke(tmp_path: Path, seeds: int = 1, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
    sets = ("drawer-close-v3", "drawer-close-v3+reach-v3")
    write_sweep(tmp_path, [config_of(t, w, s) for t in sets for w in widths for s in range(seeds)])


def test_a_smoke_study_claims_a_pipeline_and_curves_but_no_width_effect(tmp_path: Path) -> None:
    smoke(tmp_path)
    page = page_of(tmp_path)
    shows, lacks = "\n".join(page.shows), "\n".join(page.does_not_show)
    assert "The pipeline works: 8 runs" in shows
    assert (
        "drawer-close rises above its random-policy line (20%) in 4 of 4 runs: success is 90% over" in shows
    )
    assert "A width effect: there is 1 run per width" in lacks
    assert "the widest network here has 128" in lacks
    assert "2,000 steps per task, 0.001 of the paper's 2,000,000" in lacks
    assert "the largest set here has 2 tasks" in lacks
    assert lacks.count("not identified") == 2


def test_the_words_follow_the_data(tmp_path: Path) -> None:
    smoke(tmp_path, seeds=3, widths=(16, 32, 64))
    lacks = "\n".join(page_of(tmp_path).does_not_show)
    assert "A width effect" not in lacks
    assert "3 sizes, 4 needed" in lacks


def test_a_task_that_is_not_learned_is_said(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of("reach-v3")], success=[0.1, 0.2, 0.2, 0.2])
    page = page_of(tmp_path)
    line = next(line for line in page.does_not_show if line.startswith("reach"))
    assert "does not rise above its random-policy line (20%) in any of 1 run: success is 20%" in line


def test_above_the_random_policy_means_beyond_chance() -> None:
    assert is_above(0.8, 20, 0.2, 20)
    assert not is_above(0.3, 20, 0.2, 20)
    assert not is_above(1.0, 5, 0.6, 5)


def test_a_law_in_the_data_is_reported(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for width in (256, 512, 1024, 2048, 4096):
        for seed in range(4):
            config = config_of("drawer-close-v3+reach-v3", width, seed, evaluate__episodes=1000)
            failure = 0.05 + 0.3 * (width / 256) ** -0.8
            value = 1 - failure + generator.normal(0, 0.005)
            write_run(tmp_path / "cells" / config.run_id / "run.h5", config, success=[0.1, 0.2, 0.3, value])
    page = page_of(tmp_path)
    (law,) = [line for line in page.shows if "failure falls with parameters" in line]
    low, high = map(float, law.rstrip(".").split("interval ")[1].split(" to "))
    assert low < 0.4 < high  # parameters grow with the width squared
    assert high - low < 0.2
    assert not any("width effect" in line for line in page.does_not_show)


def test_unfinished_and_skipped_are_said_and_listed(tmp_path: Path) -> None:
    smoke(tmp_path)
    write_sweep(tmp_path, [config_of(width=8)], success=[0.1])
    (tmp_path / "cells" / "bad").mkdir()
    (tmp_path / "cells" / "bad" / "run.h5").write_text("<b>no</b>")
    page = page_of(tmp_path)
    assert any("1 run not finished" in line for line in page.does_not_show)
    assert any("1 file could not be read" in line for line in page.does_not_show)
    html = render(page)
    assert "cells/bad/run.h5" in html


def test_no_finished_run(tmp_path: Path) -> None:
    write_sweep(tmp_path, [config_of()], success=[0.1])
    with pytest.raises(SweepError, match=r"no finished runs in smoke \(1 unfinished\)"):
        page_of(tmp_path)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    smoke(tmp_path)
    for page in (page_of(tmp_path), paper_study.study()):
        checked = Checked(render(page))
        assert "script" not in checked.tags
        assert "img" not in checked.tags
        assert all(reference.startswith(("#", "data:")) for reference in checked.references)


def test_names_are_escaped(tmp_path: Path) -> None:
    smoke(tmp_path)
    html = render(sweep_study.study(open_sweep(tmp_path), "<script>alert(1)</script>"))
    assert "<script>" not in html


def test_the_papers_numbers_are_shipped_whole() -> None:
    page = paper_study.study()
    assert set(page.fits) >= {"MT10", "MT25", "MT50"}
    assert any(line.startswith("MT10: failure falls") for line in page.shows)


def actor_critic_sweep(root: Path, sets: tuple[str, ...] = ("MT10",), seeds: int = 2) -> None:
    """Failure falls with the critic's size and hardly with the actor's."""
    generator = np.random.default_rng(0)
    widths = (64, 192, 512, 1536)
    for number, tasks in enumerate(sets):
        for actor, critic, seed in itertools.product(widths, widths, range(seeds)):
            config = config_of(
                tasks,
                critic,
                seed,
                network__actor__width=actor,
                evaluate__episodes=50,
                train__vector_steps=6_000,
            )
            failure = 0.02 + 0.05 * number + 0.02 * (actor / 64) ** -0.4 + 0.5 * (critic / 64) ** -1.2
            final = 1 - failure * np.exp(generator.normal(0, 0.03))
            sizes = {"actor": 3 * actor**2, "critic": 6 * critic**2, "target": 6 * critic**2}
            write_run(
                root / "cells" / config.run_id / "run.h5",
                config,
                success=final * np.linspace(0.1, 1, 12) ** 0.3,
                parameters=sizes | {"total": sizes["actor"] + sizes["critic"]},
            )


def test_the_critics_exponent_is_found_larger(tmp_path: Path) -> None:
    actor_critic_sweep(tmp_path)
    page = page_of(tmp_path)
    assert any(
        "the critic's exponent is larger than the actor's, with confidence" in line for line in page.shows
    )
    names = {item.name for section in page.sections for item in section.items if isinstance(item, Drawing)}
    assert names >= {"actor_critic_0", "exponents", "residuals", "dormant", "profiles"}
    fits = page.fits["MT10"]
    assert isinstance(fits, dict)
    share = fits["best_critic_share"]["equal parameters"]
    assert 0.5 < share["low"] < share["share"] < share["high"] < 1
    Checked(render(page))


def test_the_paper_page_asks_its_own_seeds() -> None:
    page = paper_study.study()
    shows, lacks = "\n".join(page.shows), "\n".join(page.does_not_show)
    assert "MLP of width 885 above PaCo" in shows
    assert "MLP of width 4096 above width 400" in shows
    assert "MLP of width 4096 above width 2048" in lacks
    assert "MLP of width 550 above soft modularization" in lacks
