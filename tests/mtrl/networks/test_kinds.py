"""The entries of network kinds: what is forgotten in one is an error that names it."""

import dataclasses

import pytest
import torch

from mtrl.config import ConfigError
from mtrl.networks.build import build_actor
from mtrl.networks.kinds import KINDS
from mtrl.overrides import build_config


def test_a_kind_without_an_entry_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no kind of network 'more'; did you mean 'moore'.*kinds\.py"):
        build_config("debug", {"network.actor.kind": "more"})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("mtrl.networks.mine:Mine", "network kind 'care': No module named 'mtrl.networks.mine'"),
        ("mtrl.networks.care:Mine", "network kind 'care': .* has no attribute 'Mine'; its entry in"),
    ],
)
def test_an_entry_with_a_wrong_class_is_named(
    network: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "care", dataclasses.replace(KINDS["care"], network=network))
    config = build_config("debug", {"network.actor.kind": "care"})
    with pytest.raises(ValueError, match=message):
        build_actor(config, torch.Generator(), "torch")


def test_a_fault_inside_a_network_is_not_taken_for_a_wrong_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plan: object) -> None:
        raise AttributeError("of the network's own", name="width")

    monkeypatch.setattr("mtrl.networks.care.Care", broken)
    with pytest.raises(AttributeError, match="of the network's own"):
        build_actor(build_config("debug", {"network.actor.kind": "care"}), torch.Generator(), "torch")


def test_every_option_is_a_setting_and_every_kind_has_its_own() -> None:
    fields = type(build_config().network.actor).model_fields
    assert all(option in fields for kind in KINDS.values() for option in kind.options)
