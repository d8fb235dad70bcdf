"""Brace patterns of shards, `{000..003}` and `{a,b}`, counted before they are expanded."""

from __future__ import annotations

import re
from math import prod

from gtacli.errors import GtaError
from gtacli.runtime.secrets import mask_secrets

MAX_NAMES = 100_000
"""Names that one pattern may stand for; published datasets have up to some ten thousand shards."""
_BRACES = re.compile(r"\{([^{}]*)\}")


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern stands for, like shells and WebDataset.

    Raises GtaError for more than `MAX_NAMES` of them and for braces within braces; nothing is
    expanded then.
    """
    parts = _BRACES.split(pattern)
    fixed, braces = parts[::2], parts[1::2]
    shown = mask_secrets(f"wds/{pattern}"[:80])
    if "}" in "".join(fixed).partition("{")[2]:
        raise GtaError(f"{shown}: braces within braces are not expanded")
    if (count := prod(map(_count, braces))) > MAX_NAMES:
        raise GtaError(f"{shown} stands for {count:,} shards; at most {MAX_NAMES:,} are read")
    names = [fixed[0]]
    for inner, after in zip(braces, fixed[1:], strict=True):
        names = [name + word + after for name in names for word in _words(inner)]
    return names


def _range(inner: str) -> tuple[int, int] | None:
    first, dots, last = inner.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()):
        return None
    # Longer numbers are out of range anyway, and Python converts no more than 4300 digits.
    return int(first[:20]), int(last[:20])


def _count(inner: str) -> int:
    bounds = _range(inner)
    return inner.count(",") + 1 if bounds is None else max(0, bounds[1] - bounds[0] + 1)


def _words(inner: str) -> list[str]:
    bounds = _range(inner)
    if bounds is None:
        return inner.split(",")
    width = len(inner.partition("..")[0])
    return [str(number).zfill(width) for number in range(bounds[0], bounds[1] + 1)]
