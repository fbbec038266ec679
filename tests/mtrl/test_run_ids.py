"""Run ids: they outlive new fields, and no default changes unnoticed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl.config import Config
from mtrl.overrides import build_config
from mtrl.presets import PRESETS
from mtrl.run_ids import KEPT, flatten, is_run_id_of, kept_defaults, newest_schema, run_id_of, run_id_today


def differences(live: dict[str, Any], kept: dict[str, Any]) -> str:
    """What is to be done where the defaults are not those that are kept; empty where they are."""
    said = [
        f"new field {key}: add this line to {KEPT.name}, as runs of before the field did what its default does\n"
        f'    "{key}": {json.dumps(live[key])},'
        for key in live.keys() - kept.keys()
    ]
    said += [
        f"{key} is gone or has another default ({kept[key]!r}, now {live.get(key)!r}). That gives runs other ids: take "
        f"the change back, or add the new defaults to {KEPT.name} as schema {newest_schema() + 1} beside the old ones"
        for key in kept.keys() - {key for key in live if key in kept and live[key] == kept[key]}
    ]
    return "\n".join(sorted(said))


def test_no_default_changes_unnoticed() -> None:
    live = flatten(Config().model_dump(mode="json", exclude={"run"}))
    assert not (said := differences(live, kept_defaults()[newest_schema()])), f"\n{said}"


def test_a_changed_a_new_and_a_removed_default_are_each_named() -> None:
    kept = {"agent.critics": 2, "agent.gone": 1, "train.seed": 0}
    said = differences({"agent.critics": 3, "train.seed": 0, "train.warmup": False}, kept)
    assert "new field train.warmup: add this line to defaults.json" in said
    assert '    "train.warmup": false,' in said
    assert "agent.critics is gone or has another default (2, now 3)" in said
    assert "agent.gone is gone or has another default (1, now None)" in said
    assert f"as schema {newest_schema() + 1}" in said
    assert "train.seed" not in said


KNOWN = {
    "paper": "dff5301227e8",
    "debug": "b46ac8fbe737",
    "brc": "44961a520d01",
    "simba": "bbb7e3c137e5",
}


def test_known_ids() -> None:
    """Ids that users have on their disks. A change here makes every finished run missing."""
    earlier = {
        "paper": "c2a8105acd21",
        "debug": "ee63b65b26ad",
        "brc": "bf84886bee73",
        "simba": "855720fe76e7",
    }
    as_stored = {"agent.products": "float32"}  # the default of schema 2
    stored = {name: build_config(name, as_stored).model_dump(mode="json") for name in PRESETS}
    assert {name: run_id_of(config, 2) for name, config in stored.items()} == earlier
    today = {preset: build_config(preset).run_id for preset in PRESETS}
    assert today == KNOWN
    assert {name: run_id_today(earlier[name], config) for name, config in stored.items()} == today
    assert {name: run_id_today(run_id_of(config), config) for name, config in stored.items()} == {
        name: build_config(name, as_stored).run_id for name in PRESETS
    }


def test_a_new_field_at_its_default_changes_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config("debug", {"agent.critics": 3})
    before = config.model_dump(mode="json")
    after = {**before, "train": {**before["train"], "warmup": False}}
    kept = {newest_schema(): kept_defaults()[newest_schema()] | {"train.warmup": False}}
    monkeypatch.setattr("mtrl.run_ids.kept_defaults", lambda: kept)
    assert run_id_of(after) == run_id_of(before) == config.run_id
    assert run_id_of({**after, "train": {**after["train"], "warmup": True}}) != config.run_id


def test_a_preset_and_a_system_hash_by_what_they_set() -> None:
    written_out = {"network.actor.kind": "moore", "network.critic.kind": "moore"}
    written_out |= {f"network.{part}.experts": 4 for part in ("actor", "critic")}
    written_out |= {"agent.temperature_lr": 1e-4, "agent.log_std_min": -10.0}
    assert build_config("paper", {"system": "moore"}).run_id == build_config("paper", written_out).run_id
    debug = flatten(PRESETS["debug"])
    assert build_config("paper", debug).run_id == build_config("debug").run_id
    assert build_config("paper", {"train.seed": 0}).run_id == build_config("paper").run_id


FIELDS = {
    "train.seed": st.integers(0, 5),
    "agent.critics": st.integers(1, 4),
    "agent.actor_lr": st.sampled_from([3e-4, 1e-3]),
    "agent.loss_weights": st.sampled_from(["equal", "temperature", [1.0] * 10, [2.0] * 10]),
    "replay.alpha_end": st.sampled_from([None, 0.5]),
    "network.actor.width": st.sampled_from([400, 64]),
    "env.tasks": st.sampled_from(["MT10", "MT25"]),
}


@given(st.fixed_dictionaries({}, optional=FIELDS), st.fixed_dictionaries({}, optional=FIELDS))
def test_two_configurations_share_an_id_only_if_they_compute_the_same(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    one, other = [
        build_config("paper", values | ({"env.tasks": "MT10"} if "agent.loss_weights" in values else {}))
        for values in (first, second)
    ]
    assert (one.run_id == other.run_id) == (one == other)
    stored = json.loads(one.model_dump_json())
    assert run_id_of(stored) == one.run_id
    assert is_run_id_of(run_id_of(stored, 1), stored)
    assert is_run_id_of(one.run_id, stored)
    assert not is_run_id_of("0123456789ab", stored)
