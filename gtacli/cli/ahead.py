"""Questions to the hosts that a command line names, asked while torch is imported."""

from __future__ import annotations

import os
import re
from typing import Any

from gtacli.cli.completion import timm_names
from gtacli.registry import MODELS

_SPECS = ("model", "source", "teacher", "compare", "init", "data")
"""Config keys whose values name models and datasets."""
_URL = re.compile(r"https?://[^/\s]+")


def ask_hosts_ahead(config: Any) -> None:
    """Begin to ask the hosts from which the specs of a config may be downloaded."""
    for key in _SPECS:
        value = getattr(config, key, None)
        for spec in [value] if isinstance(value, str) else value or ():
            if isinstance(spec, str):
                _ask(spec)


def _ask(spec: str) -> None:
    from gtacli.runtime import reachable

    if url := _URL.search(spec):
        reachable.ask_ahead(url[0])
    elif _is_of_hub(spec):
        reachable.ask_hub_ahead()


def _is_of_hub(spec: str) -> bool:
    if spec.startswith("hf-hub:"):
        return True
    if spec.startswith("hfds/"):
        return not os.path.exists(spec[5:])
    named = re.fullmatch(r"[\w.]+", spec) and spec not in MODELS.names()
    return bool(named) and not os.path.exists(spec) and spec in timm_names()
