"""The spelling of options on the command line: `image_size` of a config is `--image-size`.

The library names options as the configs do, in backticks (see `gtacli.errors`). Errors, log lines
and help texts pass through here on their way to a terminal.
"""

from __future__ import annotations

import re

from gtacli.errors import GtaError

_OPTION = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\s]+))?`")


def flag(key: str) -> str:
    """Return the flag of a config key; a key within a table ("discovery.tokencut.tau") stays."""
    return key if "." in key else "--" + key.replace("_", "-")


def with_flags(text: str) -> str:
    """Write every `` `option` `` and `` `option=value` `` in `text` as a flag with its value."""

    def spell(match: re.Match[str]) -> str:
        key, value = match.groups()
        if value == "false":
            return flag(f"no_{key}")
        return flag(key) if value in (None, "true") else f"{flag(key)} {value}"

    return _OPTION.sub(spell, text)


def describe(error: GtaError) -> str:
    """Return the line that the command line prints for an error; `option` may be `option=value`."""
    text = with_flags(error.message)
    if error.source:  # a recipe, whose keys are no flags, or an environment variable
        return ": ".join(filter(None, (error.source, error.option, text)))
    if not error.option:
        return text
    key, _, value = error.option.partition("=")
    return f"{flag(key)} {value}".rstrip() + f": {text}"
