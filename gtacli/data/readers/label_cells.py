"""The labels in the cells of a column, where an image has any number of them.

A cell is a list, as JSON or Python write it (`["cat", "dog"]`), or labels separated by `|`, `;`,
`,` or spaces: the first of these that any cell of the column contains. An empty cell has none. In a
column with lists a cell that is none is a single label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gtacli.data.readers.column_names import EMPTY
from gtacli.runtime.strict_json import parse_json

SEPARATORS = ("|", ";", ",")
_LIST = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
_ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"]+)""")


def split_labels(cells: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the different labels in each of a column's cells."""
    separator = find_separator(cells)
    return [tuple(dict.fromkeys(_split(cell, separator))) for cell in cells]


def find_separator(cells: Sequence[str]) -> str:
    """Return the character between a column's labels; "" if it has lists."""
    if any(map(_LIST.fullmatch, cells)):
        return ""
    return next((mark for mark in SEPARATORS if any(mark in cell for cell in cells)), " ")


def _split(cell: str, separator: str) -> list[str]:
    if _LIST.fullmatch(cell):
        parts = _read_list(cell)
    elif separator == " ":
        parts = cell.split()
    else:
        parts = cell.split(separator) if separator else [cell]
    stripped = (part.strip() for part in parts)
    return [part for part in stripped if part.lower() not in EMPTY]


def _read_list(text: str) -> list[str]:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if isinstance(value, list):
        return [str(one) for one in value if one is not None]
    # Of Python and numpy, whose quotes JSON has not.
    found = (match.groups(default="") for match in _ITEM.finditer(text[1:-1]))
    return [re.sub(r"\\(.)", r"\1", "".join(groups)) for groups in found]
