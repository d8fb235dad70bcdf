"""Mutations of bytes, lines and JSON values. All from one random.Random."""

from __future__ import annotations

import contextlib
import copy
import json
import random

INTS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    0x7FFFFFFFFFFFFFFF,
    0xFFFFFFFFFFFFFFFF,
)
TOKENS = (
    "",
    "-1",
    "0",
    "1e400",
    "nan",
    "inf",
    "NaN",
    "null",
    "true",
    "99999999999999999999",
    "1.5",
    "../../etc/passwd",
    "/etc/passwd",
    "\x00",
    "\ufeff",
    "\U0001f426",
    "'",
    '"',
    "\\",
    "<script>alert(1)</script>",
    "%s%n",
    "{}",
    "[]",
    "a" * 5000,
    "\n",
    "\r",
    "\t",
    " ",
    ",",
    "=",
    "[[",
    "]]",
    "é",
    "\u202e",
    "\ud800",
)
VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    1e308,
    "",
    "x",
    "../../x",
    "\x00",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    [],
    {},
    [[]],
    [None],
    {"": None},
    "y" * 10000,
    list(range(2000)),
)


def of_bytes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    value = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not value:
            return bytes(value)
        kind = rng.choice(
            (
                "flip",
                "flip",
                "truncate",
                "bytes",
                "splice",
                "delete",
                "repeat",
                "int",
                "int",
                "zero",
                "head",
            )
        )
        at = rng.randrange(len(value))
        if rng.random() < 0.5:  # headers are where lies live
            at = rng.randrange(min(len(value), 256))
        if kind == "flip":
            for _ in range(rng.choice((1, 1, 2, 8, 64))):
                spot = (
                    rng.randrange(len(value))
                    if rng.random() < 0.5
                    else rng.randrange(min(len(value), 512))
                )
                value[spot] ^= 1 << rng.randrange(8)
        elif kind == "truncate":
            del value[at:]
        elif kind == "bytes":
            value[at : at + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(1, 64))
        elif kind == "splice":
            other = rng.choice(others)
            start = rng.randrange(len(other)) if other else 0
            value[at : at + rng.randrange(0, 256)] = other[start : start + rng.randrange(1, 512)]
        elif kind == "delete":
            del value[at : at + rng.randrange(1, 256)]
        elif kind == "repeat":
            size = rng.randrange(1, 256)
            value[at:at] = value[at : at + size] * rng.randrange(1, 8)
        elif kind == "int":
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(INTS) & ((1 << (8 * width)) - 1)
            value[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == "zero":
            size = rng.randrange(1, 512)
            value[at : at + size] = bytes(size)
        else:
            value[: rng.randrange(1, 16)] = rng.randbytes(rng.randrange(0, 16))
    return bytes(value)


def of_text(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 2, 4))):
        lines = text.split("\n")
        kind = rng.choice(("token", "token", "line-", "line+", "swap", "char", "join", "insert"))
        at = rng.randrange(len(lines))
        if kind == "token":
            for mark in rng.sample((" ", ",", "=", "/", ".", ":"), 6):
                parts = lines[at].split(mark)
                if len(parts) > 1:
                    parts[rng.randrange(len(parts))] = rng.choice(TOKENS)
                    lines[at] = mark.join(parts)
                    break
        elif kind == "line-":
            del lines[at]
        elif kind == "line+":
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == "swap" and len(lines) > 1:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "char" and lines[at]:
            spot = rng.randrange(len(lines[at]))
            lines[at] = (
                lines[at][:spot] + rng.choice(TOKENS) + lines[at][spot + rng.randrange(0, 3) :]
            )
        elif kind == "join":
            lines[at : at + 2] = ["".join(lines[at : at + 2])]
        else:
            lines.insert(at, rng.choice(TOKENS))
        text = "\n".join(lines)
    return text


def text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def of_json(value, rng: random.Random):
    """Another value or structure somewhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        kind = rng.choice(("value", "value", "value", "delete", "add", "wrap", "swap"))
        if kind == "value":
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == "delete":
            del parent[key]
        elif kind == "add" and isinstance(parent, dict):
            parent[rng.choice(("x", "__class__", "", "resume", "phase"))] = copy.deepcopy(
                rng.choice(VALUES)
            )
        elif kind == "wrap":
            parent[key] = [parent[key]]
        else:
            other, name = rng.choice(places)
            with contextlib.suppress(KeyError, IndexError):
                parent[key] = copy.deepcopy(other[name])
    return value


def _places(value):
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, below in list(items):
        yield value, key
        yield from _places(below)


def json_bytes(value, rng: random.Random) -> bytes:
    data = text_bytes(json.dumps(value, ensure_ascii=rng.random() < 0.8))
    if rng.random() < 0.1:
        data = of_bytes(data, rng, [data])
    return data
