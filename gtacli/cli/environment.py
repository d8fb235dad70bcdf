"""The environment variables that `gta` reads, and those that only look as if it did."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from difflib import get_close_matches

from gtacli.cli.lazy import COMMANDS

log = logging.getLogger(__name__)
SETTINGS = ("GTA_CACHE", "GTA_PLUGINS", "GTA_MAX_PIXELS", "GTA_ALLOW_HTTP")
INTERNAL = ("GTA_BANDS", "GTA_VALUE_RANGE", "GTA_LAUNCHER", "GTA_LAUNCHER_PID")


def warn_of_variables(command: str, keys: Collection[str]) -> None:
    """Warn of every variable GTA_... that no command reads, as of a misspelled one.

    Args:
        command: the one that runs; an unknown key in its own variables is an error of its config.
        keys: of its config, to suggest.
    """
    own = _prefix(command)
    known = [*SETTINGS, *(own + key.upper() for key in keys)]
    for name in _unread(os.environ):
        near = get_close_matches(name, known, 1, 0.8)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(SETTINGS)}, {own}KEY"
        log.warning("the environment variable %s is not read%s", name, hint)


def _unread(names: Collection[str]) -> Iterator[str]:
    prefixes = tuple(_prefix(name) for name in COMMANDS)
    for name in sorted(names):
        ours = name.startswith("GTA_") and name not in SETTINGS + INTERNAL
        if ours and not name.startswith((*prefixes, "GTA_PROBE_")):
            yield name


def _prefix(command: str) -> str:
    """Return the beginning of the variables with a command's options."""
    return f"GTA_{command.upper().replace('-', '_').replace(' ', '_')}__"
