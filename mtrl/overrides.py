"""Reading a configuration: a preset with dotted overrides over it, as a user writes them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from mtrl.config import Config, ConfigError
from mtrl.names import nearest
from mtrl.presets import PRESETS
from mtrl.systems import SYSTEMS, system_settings
from mtrl.tasks import resolve_tasks


def build_config(preset: str = "paper", overrides: Mapping[str, Any] | None = None) -> Config:
    """The preset with dotted overrides laid over it, as {"network.actor.width": 64}; "system" names one of `SYSTEMS`.

    Raises ConfigError for an unknown preset, system or key (with the nearest names) and for a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"no preset '{preset}'{nearest(preset, PRESETS)}; there are: {', '.join(PRESETS)}")
    return override(PRESETS[preset], expand_system(overrides or {}, preset))


def override(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    """The configuration of `values` (sections of fields) with dotted overrides laid over them. Raises ConfigError."""
    whole = json.loads(json.dumps(values))
    for key, value in overrides.items():
        check_key(key)
        *sections, field = key.split(".")
        place = whole
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    try:
        return Config.model_validate(whole)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """The fields that are wrong and the reasons, in one line."""
    return "; ".join(_describe(problem) for problem in error.errors())


def expand_system(overrides: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """`overrides` with the key "system" replaced by that system's settings. A key that `overrides` has itself wins.

    Raises ConfigError for an unknown system or task.
    """
    rest = dict(overrides)
    name = rest.pop("system", None)
    if name is None:
        return rest
    if name not in SYSTEMS:
        raise ConfigError(f"no system '{name}'{nearest(str(name), SYSTEMS)}; there are: {', '.join(SYSTEMS)}")
    tasks = rest.get("env.tasks") or PRESETS[preset].get("env", {}).get("tasks", "MT10")
    try:
        return system_settings(name, len(resolve_tasks(tasks))) | rest
    except ValueError as error:
        raise ConfigError(f"env.tasks = {tasks!r}: {error}") from None


def check_key(key: str) -> None:
    """Raises ConfigError, with the nearest names, unless `key` names a field as in `network.actor.width`."""
    section: type[BaseModel] = Config
    path = key.split(".")
    for depth, name in enumerate(path):
        place = ".".join(path[:depth]) or "a configuration"
        if name not in section.model_fields:
            whole = [known for known in field_keys() if known.endswith(f".{key}")]
            hint = f"; did you mean '{whole[0]}'?" if whole else nearest(name, section.model_fields)
            raise ConfigError(f"no field '{name}' in {place}{hint}")
        kind = section.model_fields[name].annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        if is_section == (depth == len(path) - 1):
            fields = ", ".join(kind.model_fields) if is_section else ""  # type: ignore[union-attr]
            cure = f"is a section; name one of its fields: {fields}" if is_section else "has no fields"
            raise ConfigError(f"'{'.'.join(path[: depth + 1])}' {cure}")
        if is_section:
            section = kind  # type: ignore[assignment]


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """{"agent.critics": 3} from ["agent.critics=3"]. A value is read as TOML; what is not TOML is a string."""
    return dict(map(_parse_override, words))


def parse_value(text: str) -> Any:
    """`text` as a TOML value (3e-4, true, [1, 2], "x"); what is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parse_override(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals:
        raise ConfigError(f"'{word}' is not an override; write key=value, as in network.actor.width=64")
    return key.strip(), parse_value(text.strip())


def field_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """The dotted keys of all fields, as in `network.actor.width`."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += field_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _describe(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    message: str = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if isinstance(problem["input"], dict):  # fields that do not go together: the message names them
        return f"{place}: {message}" if place else message
    return f"{place} = {problem['input']!r}: {message}"
