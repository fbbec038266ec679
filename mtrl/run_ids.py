"""Run ids: the short name of what a run computes.

A run id is a hash of the fields that differ from the kept defaults (`defaults.json`, by schema), `run` apart. So a new
field that nobody sets changes no id. These functions take a configuration as JSON, whole or without the fields that a
newer version added, so that files of every version can be found by what they computed (docs/decisions/0080).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

KEPT = Path(__file__).with_name("defaults.json")
WHOLE = 1  # the schema whose ids hash every field
# How runs behaved whose files have this schema (mtrl.results) or an earlier one, if that is not today's default.
EARLIER: dict[int, dict[str, dict[str, Any]]] = {
    1: {"evaluate": {"whole_episodes": True}},
    2: {"agent": {"products": "float32"}},
}


@cache
def kept_defaults() -> dict[int, dict[str, Any]]:
    """{schema: {"agent.critics": 2, ...}}: the defaults of every schema since the first."""
    return {int(schema): fields for schema, fields in json.loads(KEPT.read_text()).items()}


def newest_schema() -> int:
    """The schema of the ids that this version gives."""
    return max(kept_defaults())


def run_id_of(config: Mapping[str, Any], schema: int | None = None) -> str:
    """The run id, 12 hexadecimal digits, of a configuration as JSON, in `schema` or in the newest."""
    schema = schema or newest_schema()
    sections = {name: fields for name, fields in config.items() if name != "run"}
    if schema == WHOLE:
        return _digest({"schema": schema, **sections})
    return _digest({"schema": schema, **_differing(flatten(sections), schema)})


def _differing(fields: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """The flat fields that are not at the default of `schema`."""
    defaults = kept_defaults()[schema]
    return {key: value for key, value in fields.items() if key not in defaults or defaults[key] != value}


def run_id_today(run_id: str, config: Mapping[str, Any]) -> str:
    """Today's run id for the settings that once gave the stored `config` this `run_id`.

    A field that was at the default of then is at the default of today, also where that default changed.
    """
    schemas = (*reversed(kept_defaults()), WHOLE)
    schema = next((each for each in schemas if run_id == run_id_of(config, each)), newest_schema())
    sections = {name: fields for name, fields in config.items() if name != "run"}
    given = _differing(flatten(sections), max(schema, min(kept_defaults())))
    return _digest({"schema": newest_schema(), **_differing(given, newest_schema())})


def is_run_id_of(run_id: str, config: Mapping[str, Any]) -> bool:
    """Whether any version of mtrl gave the run of this stored configuration that id."""
    return any(run_id == run_id_of(config, schema) for schema in (*reversed(kept_defaults()), WHOLE))


def as_meant(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with the fields of EARLIER that it lacks."""
    earlier = {name: fields for sections in EARLIER.values() for name, fields in sections.items()}
    return {**stored, **{name: {**fields, **stored.get(name, {})} for name, fields in earlier.items()}}


def as_begun_earlier(config: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """A configuration of today with the values of EARLIER where it has today's default: what the version that wrote run
    files of this schema ran from the same settings."""
    begun, defaults = dict(config), kept_defaults()[newest_schema()]
    earlier = (sections for last, sections in EARLIER.items() if schema <= last)
    for name, fields in (section for sections in earlier for section in sections.items()):
        unsaid = {
            key: value for key, value in fields.items() if config[name][key] == defaults[f"{name}.{key}"]
        }
        begun[name] = {**config[name], **unsaid}
    return begun


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"agent.critics": 2, ...} of nested sections."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _digest(identity: Mapping[str, Any]) -> str:
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
