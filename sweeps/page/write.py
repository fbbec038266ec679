"""Facts -> one HTML file. It needs no network, and JavaScript only for sorting and filtering."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import shlex
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from slurm.survey import Survey
from sweeps.manifest import Entry
from sweeps.page import charts
from sweeps.page.facts import Facts, Row, read_facts
from sweeps.page.law import laws
from sweeps.units import duration

TEMPLATE = Path(__file__).with_name("page.html")
SCRIPT = Path(__file__).with_name("page.js")
RELOAD_SECONDS = 15  # between two loads of a live page
CHUNK = 100  # rows of one table; the browser lays out tables one by one


def write_page(sweeps: Sequence[tuple[Path, list[Entry], Survey]], path: Path, *, live: bool) -> bool:
    """Writes the page of one sweep, or of several side by side. Returns whether every cell is over.

    With `live` the page reloads itself until then. A reader sees the old or the new page, never a part of one.
    """
    facts = [read_facts(sweep, entries, found) for sweep, entries, found in sweeps]
    over = all(not one.unfinished for one in facts)
    text = render(facts, live=live and not over)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return over


def page_path(sweeps: Sequence[Path]) -> Path:
    """The path of these sweeps' page, in the folder of the first sweep."""
    name = "index" if len(sweeps) == 1 else "-".join(sweep.resolve().name for sweep in sweeps)
    return sweeps[0] / "page" / f"{name}.html"


def render(facts: Sequence[Facts], *, live: bool) -> str:
    """The page as HTML; with `live` it reloads itself."""
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"duration": duration, "moment": moment, "number": number}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=" and ".join(name_of(one) for one in facts),
        sweeps=[
            {
                "name": name_of(one), "facts": one, "curves": [(n, Markup(d)) for n, d in charts.learning_curves(one)],
                "laws": [(found, Markup(charts.law(found))) for found in laws(one)],
                "cells": Markup(cell_table(one)), "next": what_next(one), "pace": pace(one),
            }
            for one in facts
        ],
        live=live,
        reload=RELOAD_SECONDS,
        script=Markup(script),
        digest=digest,
    )  # fmt: skip


def name_of(facts: Facts) -> str:
    """The sweep's name."""
    return facts.sweep.resolve().name


def moment(seconds: float) -> str:
    """`28 Nov 14:05`, in this machine's time."""
    return time.strftime("%d %b %H:%M", time.localtime(seconds))


def number(value: float) -> str:
    """`0.42`, `12.3` or `4,310`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def pace(facts: Facts) -> str:
    """How many cells ended in the last hour and day, in words."""
    if not facts.ended:
        return "no cell has ended yet"
    hour, day = facts.ended_within(3600), facts.ended_within(86_400)
    latest = duration(max(0.0, facts.written - facts.ended[-1]))
    return f"{hour:,} ended in the last hour, {day:,} in the last day; the latest {latest} ago"


def what_next(facts: Facts) -> list[tuple[str, str]]:
    """(command, reason) for each command that may help now."""
    name = shlex.quote(name_of(facts))
    steps, retries = [], []
    if "failed" in facts.counts:
        steps.append((f"mtrl-sweep tail {name} {facts.troubles[0].rows[0].run_id}", "the end of a log"))
        retries.append("runs again what failed, if a retry can help")
    if "held" in facts.counts:
        retries.append("submits again what is held")
    if facts.counts.keys() & {"stopped", "missing"} and not facts.counts.keys() & {"running", "pending"}:
        retries.append("resumes what is stopped or missing; no cell is at work")
    if retries:
        steps.append((f"mtrl-sweep retry {name}", "; ".join(retries)))
    if "cancelled" in facts.counts:
        steps.append((f"mtrl-sweep retry {name} --cancelled", "resumes what was cancelled"))
    if facts.over:
        words = (
            "fits the laws: all cells are over"
            if not facts.unfinished
            else "a report on the cells that are over"
        )
        steps.append((f"mtrl-fit {shlex.quote(str(facts.sweep))}", words))
    return steps


escape = lru_cache(maxsize=10_000)(html.escape)


def cell_table(facts: Facts) -> str:
    """All rows as HTML, in tables of CHUNK rows. Made without the template, which is slow for ten thousand rows."""
    names = ["run", *facts.keys, "state", "done", "success", "curve", "node", "heard", "note"]
    columns = "".join(f'<col class="{re.sub("[^a-z]", "", name) or "x"}">' for name in names)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    chunks = []
    for start in range(0, len(facts.rows), CHUNK):
        body = "\n".join(map(_table_row, facts.rows[start : start + CHUNK]))
        chunks.append(
            f'<div class="chunk"><table><colgroup>{columns}</colgroup><tbody>{body}</tbody></table></div>'
        )
    return f'<table class="head"><colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead></table>{"".join(chunks)}'


def _table_row(row: Row) -> str:
    drawing = charts.spark(row.curve)
    cells = [
        row.run_id,
        *map(escape, row.values),
        f'<b class="{row.state}">{row.state}</b>',
        f"{row.progress:.0%}",
        "" if row.success is None else f"{row.success:.2f}",
        f'<svg><path d="{drawing}"/></svg>' if drawing else "",
        escape(row.node),
        "" if row.heard is None else duration(row.heard),
        escape(row.reason),
    ]
    return f"<tr><td>{'<td>'.join(cells)}"
