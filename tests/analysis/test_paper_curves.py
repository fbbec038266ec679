"""The paper's learning curves -> its laws in data and compute, against numbers worked out apart from this code."""

import numpy as np
import pytest

from analysis import paper_curves, paper_study
from analysis.report import Drawing


def test_the_laws_of_the_papers_curves() -> None:
    """MT10: a .42, b .82; MT50: a .28, b .59 by actor parameters; steps to 65% at MT10 fall as N^-.23."""
    mt10, mt50 = paper_curves.studies(np.random.default_rng(0))
    for study, known in ((mt10, (0.42, 0.82)), (mt50, (0.28, 0.59))):
        law = study.laws[0]
        found = law.exponent("parameters").value, law.exponent("steps").value
        assert found == pytest.approx(known, abs=0.03)
    time = mt10.times[paper_curves.LEVELS.index(0.65)].exponent
    assert time is not None
    assert time.value == pytest.approx(0.23, abs=0.01)
    assert time.low > 0


def test_compute_is_that_of_the_papers_networks() -> None:
    """Width 1024 at MT10 took 1.8e17 FLOPs over 2M steps of each of 10 tasks."""
    study = paper_curves.studies(np.random.default_rng(0))[0]
    (line,) = [line for line in study.lines if line.name == "width 1024"]
    assert line.cost * 2e7 == pytest.approx(1.8e17, rel=0.05)


def test_the_page_of_the_paper_has_them() -> None:
    page = paper_study.study()
    (section,) = [section for section in page.sections if section.title == "Data and compute"]
    names = {item.name for item in section.items if isinstance(item, Drawing)}
    assert "success_against_compute" in names
    said = page.shows + page.does_not_show
    for benchmark in ("MT10", "MT50"):
        assert any(line.startswith(f"{benchmark}: over parameters N and env steps D") for line in said)
    assert {"MT10", "MT50"} <= page.fits["curves"].keys()
