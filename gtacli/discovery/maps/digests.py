"""Digests of image files and stamps of unread ones, and lookup tables of millions of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from mmap import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gtacli.images.depth import reading
from gtacli.images.find import read_file_state
from gtacli.images.packed import PackedImage

SIZE = 16
"""Bytes of a digest: the probability of a collision among 10^9 images is 10^-21."""
ImageFile = Path | PackedImage
_MANY = 1 << 16  # new digests of a DigestSet after which its table is rebuilt


def digest(data: bytes | mmap) -> bytes:
    """Return the BLAKE2b digest, at about 1 GB per second; other threads can run meanwhile.

    The same bytes read in another way (`gtacli.images.depth`) have another digest.
    """
    return hashlib.blake2b(data, digest_size=SIZE, key=reading().encode()).digest()


def file_stamp(source: ImageFile) -> bytes | None:
    """Return a digest of an image's path, size and times of change, without reading it.

    An equal stamp means that the content has not changed. None for a missing file, and for an image
    without times of change.
    """
    try:
        state = source.state() if isinstance(source, PackedImage) else read_file_state(source)
    except OSError:
        return None
    return None if state is None else digest(state.encode(errors="surrogateescape"))


def stack(digests: Iterable[bytes]) -> NDArray[np.uint8]:
    """Return the digests as one array (n, SIZE)."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, SIZE)


class DigestTable:
    """A map from digests to row numbers that takes 20 bytes per digest, with lookups in bulk.

    Args:
        digests: uint8 (n, SIZE), n below 2^32.
    """

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        words = words_of(digests)
        self._rows = np.argsort(words[:, 0], kind="stable").astype(np.uint32)
        self._first = words[self._rows, 0]
        self._second = words[self._rows, 1]

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the first row of each digest of (m, SIZE); -1 for a digest not in the table."""
        found = find_places(self._first, self._second, words_of(digests))
        found[found >= 0] = self._rows[found[found >= 0]]
        return found


def find_places(
    first: NDArray[np.uint64], second: NDArray[np.uint64], wanted: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the first place of each wanted digest (m, 2) among (n,) halves; -1 for none.

    Args:
        first: sorted first halves.
        second: the second halves.
    """
    found = np.full(len(wanted), -1, np.int64)
    place = np.searchsorted(first, wanted[:, 0])
    left = np.arange(len(wanted))
    while True:  # repeated only for digests with equal first halves
        left = left[place[left] < len(first)]
        left = left[first[place[left]] == wanted[left, 0]]
        if not len(left):
            return found
        same = second[place[left]] == wanted[left, 1]
        found[left[same]] = place[left[same]]
        left = left[~same]
        place[left] += 1


def words_of(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the halves of digests (n, SIZE) as little-endian numbers (n, 2)."""
    return np.ascontiguousarray(digests).view("<u8").reshape(-1, 2)


class DigestSet:
    """A growing set of digests: those that `have` knows, a sorted table, and a few new ones.

    Args:
        have: returns which of the digests (n, SIZE) are in the set from the beginning.
    """

    def __init__(self, have: Callable[[NDArray[np.uint8]], NDArray[np.bool_]]) -> None:
        self._have = have
        self._all = [stack(())]
        self._table = DigestTable(self._all[0])
        self._new: set[bytes] = set()

    def __contains__(self, one: bytes) -> bool:
        if one in self._new:
            return True
        wanted = stack([one])
        return bool(self._table.find(wanted)[0] >= 0 or self._have(wanted)[0])

    def add(self, digests: Sequence[bytes]) -> None:
        self._all.append(stack(digests))
        self._new.update(digests)
        if len(self._new) > _MANY:
            self._all = [np.concatenate(self._all)]
            self._table = DigestTable(self._all[0])
            self._new = set()
