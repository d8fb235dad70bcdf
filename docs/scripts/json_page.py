"""Make docs/json.md: the fields of every JSON result, from their types.

python docs/scripts/json_page.py

Results are TypedDicts whose fields carry a `Doc`.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from inspect import cleandoc, isclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required

import gtacli
from gtacli.runtime.results import Doc

PAGE = Path(__file__).parents[1] / "json.md"
INTRODUCTION = """\
# JSON results

What commands print with `--json` (one object a line) and write into run folders. Accuracies and
fractions run from 0 to 1. A number that is not finite becomes null. *Optional*
fields may be absent.

Made from the types in the code by `docs/scripts/json_page.py`.
"""
OPTIONAL = (NotRequired, Required)
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def page() -> str:
    """Return the text of docs/json.md."""
    return "\n".join([INTRODUCTION, *(section(result) for result in results())])


def results() -> list[Any]:
    """Return every TypedDict with described fields, without mere parts of others."""
    found: list[Any] = []
    for module in pkgutil.walk_packages(gtacli.__path__, "gtacli."):
        if not module.name.endswith("__main__"):
            members = vars(importlib.import_module(module.name)).values()
            found += [m for m in members if is_result(m) and m.__module__ == module.name]
    fields = {result.__name__: set(hints(result).items()) for result in found}
    types = " ".join(written_type(hint) for row in fields.values() for _, hint in row)
    parts = [r for r in found if any(fields[r.__name__] < other for other in fields.values())]
    return [r for r in found if r not in parts or f"[{r.__name__}]" in types]


def is_result(value: Any) -> bool:
    """Return whether a value is a TypedDict whose fields are described."""
    if not isclass(value) or not typing.is_typeddict(value) or value.__name__.startswith("_"):
        return False
    return any(Doc in map(type, notes(hint)) for hint in hints(value).values())


def hints(result: Any) -> dict[str, Any]:
    """Return the types of a result's fields with their descriptions."""
    return typing.get_type_hints(result, include_extras=True)


def notes(hint: Any) -> tuple[Any, ...]:
    """Return what annotates a type, below NotRequired."""
    if typing.get_origin(hint) in OPTIONAL:
        return notes(typing.get_args(hint)[0])
    return typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()


def section(result: Any) -> str:
    """Return the heading, introduction and table of one result."""
    lines = [row(result, name, hint) for name, hint in hints(result).items()]
    head = "| field | type | unit | meaning |\n|---|---|---|---|"
    return "\n".join(
        (f"## {result.__name__}\n", cleandoc(result.__doc__ or ""), "", head, *lines, "")
    )


def row(result: Any, name: str, hint: Any) -> str:
    """Return a field's line of the table."""
    doc = next((note for note in notes(hint) if isinstance(note, Doc)), Doc(""))
    optional = name in result.__optional_keys__
    while typing.get_origin(hint) in (*OPTIONAL, Annotated):
        optional |= typing.get_origin(hint) is NotRequired
        hint = typing.get_args(hint)[0]
    text = f"*optional;* {doc.text}" if optional else doc.text
    return f"| `{name}` | {written_type(hint)} | {doc.unit} | {text.replace('|', chr(92) + '|')} |"


def written_type(kind: Any) -> str:
    """Return a type in JSON's words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Annotated, *OPTIONAL):
        return written_type(arguments[0])
    if kind in SCALARS:
        return SCALARS[kind]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(written_type(part) for part in arguments))
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (list, tuple):
        inner = [part for part in arguments if part is not Ellipsis]
        same = len(set(inner)) == 1
        return f"list of {written_type(inner[0])}" if inner and same else "list"
    if origin is dict:
        return f"object of {written_type(arguments[1])}"
    if typing.is_typeddict(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return "object"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
