"""The pages that several files of tests look at."""

import pytest

from analysis import paper_study
from analysis.report import Page
from tests.analysis.pages import page_of, smoke


@pytest.fixture(scope="package")
def smoke_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = tmp_path_factory.mktemp("smoke")
    smoke(root)
    return page_of(root)


@pytest.fixture(scope="package")
def paper_page() -> Page:
    return paper_study.study()
