"""Code of a user's own, which a setting names as "module:name" (docs/extend/)."""

from __future__ import annotations

import importlib
from typing import Any


def is_own(name: str) -> bool:
    """Whether `name` names code outside of mtrl."""
    return ":" in name


def load(name: str, key: str) -> Any:
    """The object that `name`, "module:name", names. Raises ConfigError, naming the setting `key`, if there is none."""
    from mtrl.config import ConfigError  # which itself asks `is_own`

    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that the user's own needs
        raise ConfigError(
            f"{key} = '{name}': Python finds no module '{error.name}' here; install it, or set PYTHONPATH to its folder"
        ) from None
    except AttributeError as error:
        if error.name != attribute:
            raise
        raise ConfigError(f"{key} = '{name}': {module} has no '{attribute}'") from None
