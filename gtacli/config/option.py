"""The fields of configs, with what the command line says about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field


def option(
    default: Any,
    help_text: str,
    *,
    metavar: str | None = None,
    shown: str | float | None = None,
    choices: Sequence[str] = (),
    multiple: bool = False,
    variadic: bool = False,
    switch: bool = False,
    flag: bool = True,
    **constraints: Any,
) -> Any:
    """Return a Pydantic field that is an option of the command line, too.

    Args:
        default: its value, or a function that makes it.
        help_text: one line: what it sets, its unit, what happens without it.
        metavar: stands for the value in the help.
        shown: the default in words, where its value says little.
        choices: words for completion, beside those of the type.
        multiple: the option may be given several times.
        variadic: it takes all words up to the next option.
        switch: a boolean without an opposite `--no-...` form.
        flag: False for tables, which only recipes and `--set` fill.
        constraints: Pydantic's own: gt, ge, lt, le, min_length, ...
    """
    said = {
        "metavar": metavar,
        "default": shown,
        "choices": list(choices),
        "multiple": multiple,
        "variadic": variadic,
        "switch": switch,
    }
    extra: dict[str, Any] = {key: value for key, value in said.items() if value}
    if not flag:
        extra["flag"] = False
    value = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**value, description=help_text, json_schema_extra=extra or None, **constraints)
