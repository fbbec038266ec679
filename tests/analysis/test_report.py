"""The report is one file that needs no other, and a browser shows it whole."""

import html
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.report import MOST_LINES, Page, render
from tests.analysis.pages import Checked

MEASURE = """<script>
const late = [...document.querySelectorAll('svg text')].filter(text => {
  const own = text.getBoundingClientRect(), svg = text.ownerSVGElement.getBoundingClientRect();
  return own.right > svg.right + 1 || own.left < svg.left - 1 || own.bottom > svg.bottom + 1 || own.top < svg.top - 1;
});
document.title = JSON.stringify({page: document.documentElement.scrollWidth, window: innerWidth,
  clipped: late.map(text => text.textContent), drawings: document.querySelectorAll('svg').length});
</script>"""
FRAME = """<body style="margin:0"><iframe src="PAGE" style="border:0;width:WIDTHpx;height:1500px"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => { document.title = frame.contentDocument.title; };
</script>"""


def test_the_page_needs_nothing_else(smoke_page: Page, paper_page: Page) -> None:
    for page in (smoke_page, paper_page):
        checked = Checked(render(page))
        assert "script" not in checked.tags
        assert "img" not in checked.tags
        assert all(reference.startswith(("#", "data:")) for reference in checked.references)


def test_of_many_sentences_the_first_are_shown_and_the_rest_folded(smoke_page: Page) -> None:
    lines = [f"sentence {number}." for number in range(MOST_LINES + 6)]
    text = render(replace(smoke_page, shows=lines, does_not_show=lines[:MOST_LINES]))
    shown, folded = text.split("<summary>6 more</summary>")
    assert text.count("<summary>6 more</summary>") == 1
    assert [line for line in lines if f"<li>{line}</li>" in shown] == lines[:MOST_LINES]
    assert [line for line in lines[MOST_LINES:] if f"<li>{line}</li>" in folded] == lines[MOST_LINES:]
    assert Checked(text).open == []


def test_names_are_escaped(smoke_page: Page) -> None:
    text = render(replace(smoke_page, title="<script>alert(1)</script>"))
    assert "<script>" not in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("which", ["sweep", "paper"])
def test_a_browser_shows_it_whole(
    tmp_path: Path, width: int, which: str, smoke_page: Page, paper_page: Page
) -> None:
    """In Chromium: the page is no wider than its window, no text leaves its figure, and nothing is complained of.

    The page stands in a frame: Chromium makes no window as narrow as a phone's.
    """
    page = tmp_path / "page.html"
    page.write_text(
        render(smoke_page if which == "sweep" else paper_page).replace("</body>", MEASURE + "</body>")
    )
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("PAGE", page.as_uri()).replace("WIDTH", str(width)))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    words += [
        f"--window-size={max(width, 500)},2000", "--allow-file-access-from-files", "--enable-logging=stderr",
        "--disable-quic", "--no-first-run", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    done = subprocess.run(["chromium", *words, frame.as_uri()], capture_output=True, text=True, timeout=120)
    found = json.loads(html.unescape(done.stdout.split("<title>")[1].split("</title>")[0]))
    assert found["window"] == width
    assert found["page"] <= found["window"]
    assert found["clipped"] == []
    assert found["drawings"] >= 3
    assert "CONSOLE" not in done.stderr
