"""JSON of strangers: one value in UTF-8, read strictly, and every error in one plain line.

Python's reader takes more than JSON (NaN, Infinity), rounds 1e400 to infinity, keeps the last of
two equal keys, and stops deep nesting with a RecursionError. Here all of these are ValueErrors, as
are other encodings and numbers beyond 64 bits, so no reader of a file meets a value that JSON's
other programs would read otherwise.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from gtacli.runtime.regular import not_utf8, read_regular

MAX_DEPTH = 64
"""Containers within containers; files of this program and of published datasets have up to ten."""
_BITS = 64


def parse_json(data: bytes | str, *, nonfinite: bool = False) -> Any:
    """Return the value of a JSON text, in UTF-8 with or without a byte order mark.

    Args:
        nonfinite: accept the words NaN and Infinity, which other programs write for numbers.

    Raises ValueError with one line that says what is wrong, and in which line of the text.
    """
    text = _decode(data) if isinstance(data, bytes) else data.removeprefix("\ufeff")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=float if nonfinite else _refuse_constant,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ValueError("it is empty") from None
        reason = f"{error.msg[:1].lower()}{error.msg[1:]} in line {error.lineno}"
        raise ValueError(f"it is not JSON: {reason}, character {error.colno}") from None
    check_depth(value)
    return value


def read_json(path: Path, *, nonfinite: bool = False) -> Any:
    """Return the value in a JSON file. Raises OSError as `read_regular`, ValueError as above."""
    return parse_json(read_regular(path), nonfinite=nonfinite)


def reason_of(error: OSError | ValueError) -> str:
    """Return why a file could not be read: the system's words, or those of `parse_json`."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


_TOO_DEEP = f"its values are nested more than {MAX_DEPTH} deep"


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(error)) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"its key {twice[:60]!r} occurs twice in one object")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or (value := int(text)).bit_length() > _BITS:
        raise ValueError(f"its number {text[:20]}… has more than {_BITS} bits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"its number {text[:20]} is too large")
    return value


def _refuse_constant(word: str) -> float:
    raise ValueError(f"it holds {word}, which is no number in JSON")


def check_depth(value: Any) -> None:
    """Raise ValueError for containers within containers beyond `MAX_DEPTH`."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    if level:
        raise ValueError(_TOO_DEEP)
