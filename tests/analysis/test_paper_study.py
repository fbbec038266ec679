"""The page about the paper's own numbers says what they show and what they do not."""

from analysis.paper_study import study
from analysis.report import Drawing, Page, render
from tests.analysis.pages import table_of


def test_the_papers_numbers_are_shipped_whole(paper_page: Page) -> None:
    page = paper_page
    assert set(page.fits) >= {"MT10", "MT25", "MT50"}
    assert any(line.startswith("MT10: from 461k to 102M parameters, failure falls") for line in page.shows)


def test_the_paper_page_asks_its_own_seeds(paper_page: Page) -> None:
    page = paper_page
    shows, lacks = "\n".join(page.shows), "\n".join(page.does_not_show)
    assert "MLP of width 885 against PaCo" in shows
    assert "MLP of width 4096 against width 400" in shows
    assert "MLP of width 4096 against width 2048" in lacks
    assert "MLP of width 550 against soft modularization" in lacks


def test_the_papers_three_claims_are_answered_first(paper_page: Page) -> None:
    matched, critic, dormant = (claim.answer for claim in paper_page.claims)
    assert "carry the claim against PaCo (+0.132, p < .001)" in matched
    assert "do not carry it against soft modularization (+0.045, p = .5" in matched
    assert "for MOORE (+0.073) and PaCo (+0.215), and smaller for soft modularization (+0.019)" in matched
    assert "critic from 1024 to 200 changes success by -0.166, beyond" in critic
    assert "by +0.007, within" in critic
    assert "five points do not settle it" in critic
    assert "falls at 5 of 5 widths, by 75% to 97%" in dormant
    assert "cannot tell more tasks from larger batches" in dormant
    text = render(paper_page)
    assert text.index("Scale beats architecture") < text.index("What this shows")


def test_the_paper_page_says_what_seeds_cannot_be_asked(paper_page: Page) -> None:
    page = paper_page
    steps = {(row[0], row[1]): row[-1] for row in table_of(page, "success_by_width.csv").rows}
    assert len(steps) == 12
    assert steps["MT25", "2048 to 4096"] == steps["MT50", "2048 to 4096"] == "within"
    assert steps["MT50", "512 to 1024"] == "beyond"


def test_over_compute_the_figures_say_so() -> None:
    page = study(x_axis="compute")
    drawn = {i.name: i for section in page.sections for i in section.items if isinstance(i, Drawing)}
    for name in ("failure", "success_against_parameters"):
        assert drawn[name].title.endswith("against FLOPs")
        assert drawn[name].figure.axes[0].get_xlabel() == "FLOPs of all updates"
