"""Pages of small sweeps, and what a page must be."""

from html.parser import HTMLParser
from pathlib import Path

from analysis import sweep_study
from analysis.frames import open_sweep
from analysis.report import Page, Table
from tests.analysis.reference_analysis import config_of, write_sweep

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


def table_of(page: Page, beginning: str) -> Table:
    tables = [item for section in page.sections for item in section.items if isinstance(item, Table)]
    return next(table for table in tables if table.caption.startswith(beginning))
