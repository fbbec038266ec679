"""Writes a report: one HTML page with what a study shows and does not show in words, then figures, tables, methods.

The page needs no network and no JavaScript, and suits light, dark and print. A page is plain data (`Page`);
sweep_study.py, table_study.py and paper_study.py make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from analysis import figures

MOST_LINES = 24  # of what a study shows, or does not; more are folded
TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Lines:
    """Text of many lines, folded unless `opened`."""

    title: str
    text: str
    opened: bool = False
    kind: ClassVar[str] = "lines"


@dataclass(frozen=True)
class Table:
    """A table; every cell is text."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = (0,)  # columns that hold words
    kind: ClassVar[str] = "table"

    def is_text(self, column: int) -> bool:
        """Whether the column holds words instead of numbers."""
        return column in self.texts


@dataclass(frozen=True)
class Drawing:
    """A figure; `name` is also that of its files beside the page."""

    name: str
    title: str
    caption: str
    figure: Figure
    kind: ClassVar[str] = "figure"

    @property
    def svg(self) -> Markup:
        """The figure as SVG."""
        return Markup(figures.svg(self.figure, self.name))  # made here, from numbers and escaped text


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    items: Sequence[Text | Lines | Table | Drawing]


@dataclass(frozen=True)
class Claim:
    """Somebody's claim, and the answer of the data."""

    title: str
    answer: str


@dataclass(frozen=True)
class Page:
    """The content of a report."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    shows: Sequence[str]
    does_not_show: Sequence[str]
    sections: Sequence[Section]
    footer: str
    fits: dict[str, Any] = field(default_factory=dict)  # for fits.json
    claims: Sequence[Claim] = ()  # answered before anything else


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def write(page: Page, folder: Path, *, png: bool = False) -> Path:
    """Writes report.html and each figure as SVG, with `png` also as PNG, into `folder`; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for section in page.sections:
        for item in section.items:
            if isinstance(item, Drawing):
                figures.write(item.figure, folder, item.name, png=png)
    path = folder / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return path


def render(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(page=page, most_lines=MOST_LINES)
