"""Brace patterns of shards, `{000..003}` and `{a,b}`, counted before they are expanded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

from gtacli.errors import GtaError
from gtacli.runtime.secrets import mask_secrets

MAX_NAMES = 100_000
"""Names that one pattern may stand for in a list; published datasets have up to some ten thousand
shards."""
MOST_STREAMED = 1_000_000_000
"""Names that one pattern may stand for where they are made one by one."""
_BRACES = re.compile(r"\{([^{}]*)\}")


class BraceNames:
    """The names that a pattern stands for, each made when it is asked for.

    Args:
        pattern: braces as shells and WebDataset expand them.
        most: names at most.
        kind: the family of the data spec, for errors.

    Attributes:
        pattern: as it was given.

    Raises GtaError for more than `most` names and for braces within braces.
    """

    def __init__(self, pattern: str, most: int = MOST_STREAMED, kind: str = "wds") -> None:
        parts = _BRACES.split(pattern)
        self.pattern = pattern
        self._fixed, self._braces = parts[::2], parts[1::2]
        shown = mask_secrets(f"{kind}/{pattern}"[:80])
        if "}" in "".join(self._fixed).partition("{")[2]:
            raise GtaError(f"{shown}: braces within braces are not expanded")
        self._counts = [_count(inner) for inner in self._braces]
        if (count := prod(self._counts)) > most:
            raise GtaError(f"{shown} stands for {count:,} shards; at most {most:,} are read")
        self._length = count
        # A list is as long as its text; a range is never expanded.
        self._words = [None if _range(b) else b.split(",") for b in self._braces]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < self._length:
            raise IndexError(number)
        words: list[str] = []
        for inner, count, listed in zip(
            reversed(self._braces), reversed(self._counts), reversed(self._words), strict=True
        ):
            number, place = divmod(number, count)
            words.append(_word(inner, place) if listed is None else listed[place])
        parts = [self._fixed[0]]
        for word, after in zip(reversed(words), self._fixed[1:], strict=True):
            parts += word, after
        return "".join(parts)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(self._length))


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern stands for, like shells and WebDataset.

    Raises GtaError for more than `MAX_NAMES` of them and for braces within braces; nothing is
    expanded then.
    """
    return list(BraceNames(pattern, MAX_NAMES))


def _range(inner: str) -> tuple[int, int] | None:
    first, dots, last = inner.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()):
        return None
    # Longer numbers are out of range anyway, and Python converts no more than 4300 digits.
    return int(first[:20]), int(last[:20])


def _count(inner: str) -> int:
    bounds = _range(inner)
    return inner.count(",") + 1 if bounds is None else max(0, bounds[1] - bounds[0] + 1)


def _word(inner: str, place: int) -> str:
    first = inner.partition("..")[0]
    return str(int(first) + place).zfill(len(first))
