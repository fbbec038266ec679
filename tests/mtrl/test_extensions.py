"""Code of a user's own named in settings: what is wrong is named, and reading a configuration runs nothing."""

from pathlib import Path
from typing import Any

import pytest

from mtrl.config import ConfigError
from mtrl.extensions import load
from mtrl.monitor.runlog import own_metrics
from mtrl.networks.kinds import kind_of
from mtrl.overrides import build_config


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_user.py").write_text("def rule(batch, update):\n    return update.priority\n")
    (tmp_path / "broken_of_a_user.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_another:rule", r"replay\.priority = 'of_another:rule': Python finds no module 'of_another' here"),
        ("of_a_user:ruled", r"replay\.priority = 'of_a_user:ruled': of_a_user has no 'ruled'"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(name, "replay.priority")


def test_what_a_users_module_lacks_itself_is_its_own_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load("broken_of_a_user:rule", "replay.priority")


def test_reading_a_configuration_runs_no_code() -> None:
    """It may come from a run file or a checkpoint of someone else."""
    settings: dict[str, Any] = {
        "network.actor.kind": "broken_of_a_user:KIND",
        "replay.mode": "prioritized",
        "replay.priority": "broken_of_a_user:rule",
        "run.metrics": ["broken_of_a_user:metric"],
        "run.loggers": "broken_of_a_user:Logger",
    }
    config = build_config("debug", settings)
    assert config.run_id != build_config("debug", {"replay.mode": "prioritized"}).run_id
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        kind_of(config.network.actor.kind)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"run.metrics": "q_spread"}, "write module:name, as in my_module:my_function"),
        ({"run.loggers": "tensorbord"}, "no logger 'tensorbord'; did you mean 'tensorboard'"),
        ({"replay.priority": "of_a_user:rule"}, "needs mode=prioritized"),
        ({"replay.priority": "error", "replay.mode": "prioritized"}, "write module:name"),
    ],
)
def test_what_can_be_seen_before_a_run_is_said_before_it(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config("debug", settings)


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="have the same name"):
        own_metrics(("of_a_user:rule", "of_a_user:rule"))
