"""The pages of docs/extend: what they print runs, as printed, from top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs/extend").glob("*.md"))
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(language, name of the file or nothing, content) of each block."""
    return [(match[1], match[2] or "", match[3]) for match in BLOCK.finditer(page.read_text())]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_prints_runs(page: Path, tmp_path: Path) -> None:
    """A block with a title is a file; other blocks of Python and shell are run in the folder of these files."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(tmp_path)}
    found = blocks(page)
    assert {"sh", "python"} & {language for language, name, _ in found if not name}, "nothing is run"
    for language, name, content in found:
        if name:
            (tmp_path / name).write_text(content)
            continue
        if language not in ("sh", "python"):
            continue
        command = ["bash", "-e", "-c", content] if language == "sh" else [sys.executable, "-c", content]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
        )
        assert done.returncode == 0, f"{content}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
