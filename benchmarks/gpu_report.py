"""The page that `make gpu-check` writes, from its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

PAGE = Path(__file__).with_name("gpu_report.html")
WORDS = {
    "passed": "This GPU runs mtrl: nothing failed and nothing was slower than expected.",
    "slow": "This GPU runs mtrl, and some of it is slower than expected.",
    "failed": "Something failed. The parts below say what, and what to do.",
}


def write_report(path: Path, check: dict[str, Any]) -> None:
    """Writes the page of a check as gpu-check.json has it."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(PAGE.read_text())
    tables = [(result, _table(result["found"])) for result in check["results"]]
    path.write_text(page.render(check=check, words=WORDS[check["verdict"]], tables=tables))


def _table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of what a part measured: those of its findings that have numbers."""
    rows = [row for row in found if any(isinstance(value, float | int) for value in row.values())]
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in ("words", "state")))
    return columns, [[_cell(row.get(column, "")) for column in columns] for row in rows]


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
