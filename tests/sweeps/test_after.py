"""`--then`: its words, and what they run."""

from pathlib import Path

import pytest

from sweeps.after import commands_after, run_after, split_words
from sweeps.manifest import LaunchError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, []),
        ("gather,fit", ["gather", "fit"]),
        ("gather, fit,", ["gather", "fit"]),
        ('gather,"mail -s a,b me",fit', ["gather", "mail -s a,b me", "fit"]),
    ],
)
def test_commas_part_words(text: str | None, words: list[str]) -> None:
    assert split_words(text) == words


def test_a_slip_is_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="'gahter' is none; did you mean 'gather'"):
        commands_after([tmp_path], ["gahter"])


def test_a_command_is_the_shells_and_the_first_that_fails_is_named(tmp_path: Path) -> None:
    run_after(
        commands_after([tmp_path], [f"echo one > {tmp_path}/told && echo two >> {tmp_path}/told", "true"])
    )
    assert (tmp_path / "told").read_text() == "one\ntwo\n"
    with pytest.raises(LaunchError, match=r"exit 3.* ended with exit code 3"):
        run_after(commands_after([tmp_path], ["exit 3", f"touch {tmp_path}/late"]))
    assert not (tmp_path / "late").exists()
