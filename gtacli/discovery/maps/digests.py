"""What stands for an image file: the digest of its bytes; a sighting, where reading can be spared;
and tables of millions of either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from mmap import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gtacli.images.find import file_state
from gtacli.images.packed import Packed

SIZE = 16
"""Bytes: among 10^9 images two share a digest with a probability of 10^-21."""
Source = Path | Packed
_MANY = 1 << 16  # digests that a Known keeps apart before it sorts them in


def digest(data: bytes | mmap) -> bytes:
    """BLAKE2b, about a gigabyte a second; hashing lets other threads run."""
    return hashlib.blake2b(data, digest_size=SIZE).digest()


def sighting(source: Source) -> bytes | None:
    """Digest of where an image is and of what says, without reading it, that its bytes are those
    of before: size and times of change. None where nothing says so, or there is no such file."""
    try:
        state = source.state() if isinstance(source, Packed) else file_state(source)
    except OSError:
        return None
    return None if state is None else digest(state.encode(errors="surrogateescape"))


def stack(digests: Iterable[bytes]) -> NDArray[np.uint8]:
    """(n, SIZE)."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE)


class DigestTable:
    """From digests to their rows, in 20 bytes a digest and in bulk.

    Args:
        digests: uint8 (n, SIZE), n below 2^32.
    """

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        words = _words(digests)
        self._rows = np.argsort(words[:, 0], kind="stable").astype(np.uint32)
        self._first = words[self._rows, 0]
        self._second = words[self._rows, 1]

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The row of each of (m, SIZE), the first of equal ones; -1 for one that is not here."""
        wanted = _words(digests)
        found = np.full(len(wanted), -1, np.int64)
        place = np.searchsorted(self._first, wanted[:, 0])
        left = np.arange(len(wanted))
        while True:  # more than once only where first halves are equal
            left = left[place[left] < len(self)]
            left = left[self._first[place[left]] == wanted[left, 0]]
            if not len(left):
                return found
            same = self._second[place[left]] == wanted[left, 1]
            found[left[same]] = self._rows[place[left[same]]]
            left = left[~same]
            place[left] += 1


class Known:
    """A growing set of digests: sorted ones, and a handful of new ones."""

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        self._all = [digests]
        self._table = DigestTable(digests)
        self._new: set[bytes] = set()

    def __contains__(self, one: bytes) -> bool:
        return one in self._new or bool(self._table.find(stack([one]))[0] >= 0)

    def add(self, digests: Sequence[bytes]) -> None:
        self._all.append(stack(digests))
        self._new.update(digests)
        if len(self._new) > _MANY:
            self._all = [np.concatenate(self._all)]
            self._table = DigestTable(self._all[0])
            self._new = set()


def _words(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2)
