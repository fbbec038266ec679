"""Tables keep every column: in a pipe whole, on a narrow terminal with one of them cut."""

import os

import pytest

from sweeps.tables import print_table

NAMES = ("run id", "cell", "total", "state")
ROWS = [
    ("996233b4af33", "MT10 width 16 seed 0 and more words", "3,898", "missing"),
    ("b9", "MT10", "12", "done"),
]


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_table(NAMES, ROWS, shrinks="cell")
    return capsys.readouterr().out.splitlines()


def test_in_a_pipe_nothing_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    head, first, second = printed(capsys)
    assert head.split() == ["run", "id", "cell", "total", "state"]
    assert all(cell in first for cell in ROWS[0])
    assert first.index("3,898") + 3 == second.index("12"), "numbers stand to the right"


@pytest.mark.parametrize(
    ("columns", "cell"), [(200, ROWS[0][1]), (50, "MT10 width 16 seed …"), (20, "MT10 wi…")]
)
def test_on_a_terminal_one_column_gives_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, cell: str
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    _, first, second = printed(capsys)
    assert first.split("  ")[:2] == [ROWS[0][0], cell]
    assert all(kept in first for kept in ("996233b4af33", "3,898", "missing"))
    assert all(kept in second for kept in ("b9", "12", "done"))
