"""The clocks of a run."""

import time

import pytest

from mtrl.monitor.runlog import Clock


def test_a_clock_adds_the_seconds_of_its_blocks_however_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 12.0, 20.0, 21.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clocks = {"env_seconds": 1.0, "update_seconds": 0.0}
    with Clock(clocks, "env_seconds"):
        pass
    with pytest.raises(KeyError), Clock(clocks, "env_seconds"):
        raise KeyError
    assert clocks == {"env_seconds": 4.5, "update_seconds": 0.0}
