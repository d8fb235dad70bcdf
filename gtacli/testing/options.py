"""Promises of every part that has options."""

from __future__ import annotations

import pickle
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import tomli_w

from gtacli.config.base import StrictModel, build, read_text
from gtacli.testing.promises import BrokenPromise, clear_error, describe, require

Promises = dict[str, Callable[[], None]]


def build_options(part: Any, given: Mapping[str, Any], base: type[StrictModel]) -> Any:
    """Return the options of a part for the suite. Raises BrokenPromise if they cannot be built."""
    kind = part.Options
    require(
        isinstance(kind, type) and issubclass(kind, base),
        f"{part.__name__}.Options is {kind!r}; it must derive from {base.__module__}."
        f"{base.__qualname__}, as class {part.__name__}Options({base.__name__})",
    )
    try:
        return build(kind, given)
    except Exception as error:
        raise BrokenPromise(
            f"its options cannot be built from {dict(given) or 'their defaults'} "
            f"({describe(error)}); options without a default are given to checks()"
        ) from error


def option_promises(part: Any, given: Mapping[str, Any], base: type[StrictModel]) -> Promises:
    """Return the promises about the options of a part.

    Args:
        part: the class, with `Options`.
        given: values that its options need beside their defaults.
        base: the class from which `Options` derives.
    """

    def described() -> None:
        build_options(part, given, base)
        bare = [name for name, field in part.Options.model_fields.items() if not field.description]
        require(not bare, f"options without a help line (description): {', '.join(bare)}")

    def strict() -> None:
        build_options(part, given, base)
        with clear_error("an unknown option", ["no_such_option"]):
            build(part.Options, {**given, "no_such_option": 1})

    def through_toml() -> None:
        options = build_options(part, given, base)
        text = tomli_w.dumps(options.model_dump(mode="json", exclude_none=True))
        again = build(part.Options, tomllib.loads(text))
        require(again == options, f"options from TOML differ: {again!r}, not {options!r}")

    def through_the_shell() -> None:
        options = build_options(part, given, base)
        for name, value in options.model_dump(mode="json").items():
            if isinstance(value, str | int | float):
                text = str(value).lower() if isinstance(value, bool) else str(value)
                again = read_text(text, part.Options.model_fields[name])
                wanted = getattr(options, name)
                require(again == wanted, f"option {name}: '{text}' is read as {again!r}")

    def pickled() -> None:
        options = build_options(part, given, base)
        require(pickle.loads(pickle.dumps(options)) == options, "pickled options differ")

    return {
        "every option has a help line": described,
        "an unknown option is an error in words": strict,
        "its options come back from a recipe": through_toml,
        "its options come back from a command line": through_the_shell,
        "its options can be sent to another process": pickled,
    }
