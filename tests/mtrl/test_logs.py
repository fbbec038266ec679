"""The log that a command shows."""

import io
import logging
import sys

import pytest

from mtrl.logs import shown_log


class Full(io.StringIO):
    """A log file on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    with shown_log():
        logging.getLogger("mtrl.train").info("step 1 of 2")


def test_the_log_is_shown_within_the_block_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("mtrl.train")
    with shown_log():
        log.info("within")
    log.info("after")
    assert capsys.readouterr().err.endswith(" within\n")
