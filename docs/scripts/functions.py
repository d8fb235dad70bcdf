"""Write gtacli/cli/functions.pyi, which declares the commands' functions for type checkers.

python docs/scripts/functions.py
"""

from __future__ import annotations

import enum
import inspect
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from gtacli.cli import functions

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "gtacli" / "cli" / "functions.pyi"
RESULTS = {
    "finetune": ("gtacli.finetuning.results", "FinetuneSummary"),
    "pretrain": ("gtacli.pretraining.results", "PretrainSummary"),
    "calibrate": ("gtacli.trained.results", "CalibrateSummary"),
    "merge": ("gtacli.trained.results", "MergeSummary"),
    "export": ("gtacli.trained.results", "ExportSummary"),
    "embed": ("gtacli.inference.results", "EmbedSummary"),
    "discover": ("gtacli.inference.results", "DiscoverSummary"),
}
HEAD = '''"""The commands as functions, for type checkers: written by docs/scripts/functions.py."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

'''
PATH = "str | PathLike[str]"


def kind(annotation: Any) -> str:
    """Return an option's type in Python: what a recipe may hold, and text as a shell has it."""
    found: list[str] = []
    for one in _alternatives(annotation):
        origin = typing.get_origin(one)
        if one is type(None):
            continue
        if origin is Literal:
            found.append(f"Literal[{', '.join(map(json.dumps, typing.get_args(one)))}]")
        elif one in (bool, int, float):
            found.append(one.__name__)
        elif one is str or one is Path:
            found.append(PATH)
        elif origin in (tuple, list):
            found += ["str", "int", "Sequence[Any]"]
        else:
            found.append("Any" if origin is not dict else "str | Sequence[str] | dict[str, Any]")
    kinds = dict.fromkeys([*found, "None"])
    return "Any" if "Any" in kinds else " | ".join(kinds)


def _alternatives(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [k for one in typing.get_args(annotation) for k in _alternatives(one)]
    return [str if isinstance(annotation, enum.EnumType) else annotation]


def declare(name: str) -> str:
    """Return the declaration of one function."""
    signature = inspect.signature(getattr(functions, name))
    entry = functions.FUNCTIONS[name]
    lines, keyword = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
            lines.append("*")
            keyword = True
        if not keyword:
            many = "list" in str(_alternatives(parameter.annotation))
            words = f"{PATH} | Sequence[{PATH}] | None = None" if many else PATH
            words += "" if many or parameter.default is parameter.empty else " | None = None"
            lines.append(f"{parameter.name}: {words}")
        elif parameter.name in functions.SWITCHES:
            words, default = functions.SWITCHES[parameter.name]
            lines.append(f"{parameter.name}: {words} = {default}")
        else:
            lines.append(f"{parameter.name}: {kind(parameter.annotation)} = ...")
    result = RESULTS.get(name, ("", "dict[str, Any]"))[1]
    result = "list[dict[str, Any]]" if entry.many else result
    body = "".join(f"    {line},\n" for line in lines)
    return f"def {name}(\n{body}) -> {result}: ...\n"


def text() -> str:
    """Return the content of the file."""
    homes: dict[str, list[str]] = {}
    for module, result in RESULTS.values():
        homes.setdefault(module, []).append(result)
    imports = "".join(
        f"from {module} import {', '.join(sorted(names))}\n"
        for module, names in sorted(homes.items())
    )
    declared = "".join(declare(name) for name in functions.FUNCTIONS)
    return f"{HEAD}{imports}\n{TABLES}\n{declared}"


TABLES = """class CommandEntry:
    command: str
    module: str
    many: bool

FUNCTIONS: dict[str, CommandEntry]
SWITCHES: dict[str, tuple[str, Any]]
"""


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
