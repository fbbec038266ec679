"""The entries of network kinds: what is forgotten in one is an error that names it."""

import dataclasses

import pytest
import torch

from mtrl.config import ConfigError
from mtrl.networks.build import build_actor
from mtrl.networks.kinds import KINDS
from mtrl.overrides import build_config


def test_a_kind_without_an_entry_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no kind of network 'more'; did you mean 'moore'.*module:name"):
        build_config("debug", {"network.actor.kind": "more"})


def test_an_entry_with_a_wrong_class_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "care", dataclasses.replace(KINDS["care"], network="mtrl.networks.care:Mine"))
    config = build_config("debug", {"network.actor.kind": "care"})
    with pytest.raises(
        ConfigError, match=r"the network of kind care = .*: mtrl\.networks\.care has no 'Mine'"
    ):
        build_actor(config, torch.Generator(), "torch")


def test_every_option_is_a_setting_and_every_kind_has_its_own() -> None:
    fields = type(build_config().network.actor).model_fields
    assert all(option in fields for kind in KINDS.values() for option in kind.options)
