"""Flags for the options of the parts that a command line chooses.

`gta finetune --regularizer delta` takes the options of `delta` as flags of its own, below a heading
of its own in the help, whether `delta` is built in or a plug-in's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pydantic.fields import FieldInfo

from gtacli.cli.spelling import flag
from gtacli.config.common import CommandConfig, PartChoice
from gtacli.config.recipes import find
from gtacli.errors import GtaError, UsageError

Path = tuple[str, ...]
STRENGTH = "lam"
META = "gta.part_flags"
"""The key of `PartFlags` in the context of a call."""


@dataclass
class PartFlags:
    """The flags of one call that belong to parts.

    Attributes:
        fields: by the parameter's name, the option's own name, its field and its heading; a name
            that the command has already is replaced.
        places: by the parameter's name, its place in a recipe.
        hidden: headings whose part is not chosen.
        strengths: default strengths of the chosen parts, whose flag is the command's own.
    """

    fields: dict[str, tuple[str, FieldInfo, str]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    strengths: dict[str, float] = field(default_factory=dict)


def part_flags(
    model: type[CommandConfig], command: str, words: Sequence[str], taken: Collection[str]
) -> PartFlags:
    """Return the flags of the parts that `words` choose, or by default.

    Args:
        model: config of the command.
        command: its name.
        words: after the command's name.
        taken: the flags that the command has already. One of the default part's
            (`model.flat_fields`) is that of a chosen part which has such an option, too.

    Raises GtaError for a part that cannot be loaded, unless the help is asked for.
    """
    found = PartFlags()
    for number, choice in enumerate(model.part_choices):
        default = next(iter(_names(_default(model, choice))), None)
        chosen = list(_chosen(model, choice, command, words))
        # The fields beside the config's are the first choice's.
        flat = {} if number or default in chosen else model.flat_fields()
        if flat:
            found.hidden.add(heading(choice.registry.noun, str(default)))
        for name in chosen:
            fields = _fields(choice, name, words)
            title = heading(choice.registry.noun, name)
            if STRENGTH in fields and flag(STRENGTH) in taken:
                found.strengths[name] = fields[STRENGTH].default
                title += f" ({flag(STRENGTH)} {found.strengths[name]:g} by default)"
            for key, one in fields.items():
                parameter = f"part_{len(found.fields)}_{key}"
                if key in flat and key not in found.fields:
                    parameter = key  # in place of the default part's
                elif flag(key) in taken:
                    continue
                found.fields[parameter] = (key, one, title)
                found.places[parameter] = (choice.tables, name, key)
                taken = {*taken, flag(key)}
    return found


def parts_with(model: type[CommandConfig], option: str) -> str | None:
    """Return which parts of a command have an option, and how they are chosen; None for no part.

    Args:
        model: config of the command.
        option: a flag that the command does not have, as `--power` or `--no-power`.
    """
    for choice in model.part_choices:
        names = [
            name
            for name in choice.registry.names()
            if any(option in (flag(k), flag(f"no_{k}")) for k in _fields(choice, name, ["--help"]))
        ]
        if names:
            ways = " or ".join(f"{flag(choice.key)} {name}" for name in names)
            return f"it is an option of {' and '.join(names)}: add {ways}"
    return None


def _fields(choice: PartChoice, name: str, words: Sequence[str]) -> Mapping[str, FieldInfo]:
    """Return the options of a part; none for an unknown name, of which the config says more."""
    try:
        options = choice.registry.options(name)
    except UsageError:
        return {}
    except GtaError:
        if {"--help", "-h"} & {*words}:
            return {}
        raise
    return {} if options is None else options.model_fields


def heading(noun: str, name: str) -> str:
    """Return the heading of a part's options in the help."""
    return f"{noun.capitalize()} {name}"


def _chosen(
    model: type[CommandConfig], choice: PartChoice, command: str, words: Sequence[str]
) -> Iterator[str]:
    """Yield the names of the parts, each once."""
    values = _values(words, flag(choice.key))
    if not values:
        for recipe in _values(words, "--recipe"):
            with suppress(GtaError):  # the config says more
                values = _names(find(recipe).values(command).get(choice.key))
    names = values or _names(_default(model, choice))
    yield from dict.fromkeys(name.partition(":")[0] for name in names if name != "none")


def _values(words: Sequence[str], option: str) -> list[str]:
    """Return the values of an option among words."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return [*found, *(value for word, value in pairwise(words) if word == option)]


def _names(value: Any) -> list[str]:
    """Return the names in the value of a config's key: a name, a list, or tables by name."""
    if isinstance(value, str):
        return [value]
    return [str(name) for name in value] if isinstance(value, list | tuple | dict) else []


def _default(model: type[CommandConfig], choice: PartChoice) -> Any:
    return model.model_fields[choice.key].get_default(call_default_factory=True)
