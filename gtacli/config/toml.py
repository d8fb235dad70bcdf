"""Printing of a config as a recipe."""

from __future__ import annotations

import tomli_w

from gtacli.config.common import CommandConfig


def to_toml(config: CommandConfig, command: str) -> str:
    """Return a recipe with all values of a config, defaults included; unset keys are left out."""
    values = config.model_dump(mode="json", exclude_none=True)
    for key, other in type(config).exclusive:
        if other in values:  # `key` has its default, and a recipe may not contain both
            values.pop(key, None)
    if values.get("regularizer") == {}:
        values["regularizer"] = "none"
    return tomli_w.dumps({"command": command, **values})
