"""A figure as SVG inside a page, and as files beside it."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.figures.style import INK, STYLE


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element to stand inside a page: text as text, colours that follow the page, own ids."""
    text = _drawn(figure, name)
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    width = f"{72 * figure.get_figwidth() * 4 / 3:.0f}px"
    return re.sub(
        r'<svg (.*?)>', lambda tag: f'<svg style="width:100%;max-width:{width};height:auto" {_unsized(tag[1])}>', text,
        count=1, flags=re.S,
    )  # fmt: skip


def write(figure: Figure, folder: Path, name: str, *, png: bool = False) -> None:
    """`<name>.svg` in `folder`, on white, and with `png` also `<name>.png`, which takes as long again."""
    paper = '<rect width="100%" height="100%" fill="white"/>'
    text = re.sub(r"(<svg .*?>)", rf"\1{paper}", _drawn(figure, name), count=1, flags=re.S)
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    if not png:
        return
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", facecolor="white", dpi=160)


@lru_cache(64)
def _drawn(figure: Figure, name: str) -> str:
    """The figure as an SVG file without a background.

    Its layout is settled first and then switched off: saving with a layout engine draws everything twice, and Agg
    measures text many times faster than the SVG backend.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        if engine := figure.get_layout_engine():
            FigureCanvasAgg(figure)
            engine.execute(figure)
            figure.set_layout_engine(None)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _unsized(attributes: str) -> str:
    return re.sub(r'\s*\b(width|height)="[^"]*"', "", attributes)
