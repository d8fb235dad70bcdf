"""A config as TOML that is itself a recipe."""

from __future__ import annotations

import tomli_w

from gtacli.config.common import CommandConfig


def to_toml(config: CommandConfig, command: str) -> str:
    """All values, defaults included; what is unset is left out."""
    values = config.model_dump(mode="json", exclude_none=True)
    for key, other in type(config).exclusive:
        if other in values:  # then the key is at its default, and a recipe may not hold both
            values.pop(key, None)
    if values.get("regularizer") == {}:
        values["regularizer"] = "none"
    return tomli_w.dumps({"command": command, **values})
