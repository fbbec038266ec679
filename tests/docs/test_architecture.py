"""ARCHITECTURE.md names places: each must be there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
PLACE = re.compile(r"`((?:mtrl|sweeps|slurm|analysis|csrc|tests)/[\w/.]+\.(?:py|cpp|h))(?:::([\w.]+))?`")
PLACES = sorted({(match[1], match[2] or "") for match in PLACE.finditer(TEXT)})


def names_in(source: str) -> set[str]:
    """`f`, `Class`, `Class.method` and constants of a Python file."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_it_names_places() -> None:
    assert len(PLACES) > 25


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_a_place_that_is_named_is_there(path: str, name: str) -> None:
    assert (ROOT / path).is_file(), f"ARCHITECTURE.md names {path}"
    if name:
        assert name in names_in((ROOT / path).read_text()), f"ARCHITECTURE.md names {name} in {path}"
