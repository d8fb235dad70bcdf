"""A file of sorted keys with their values, of which memory holds one key of each block.

    path = write_sorted(folder, covered, MAP_VALUE, len(rows), [rows], draft)
    values, known = SortedFile(path, MAP_VALUE).find(digests)

The head has the names and lengths of the files whose rows it has, the first key of each block and
the block's checksum, and a checksum of itself; then come the blocks. So damage is found: in the
head when the file is opened, in a block when it is read. 10^9 keys take 24 GB on disk and 20 MB of
memory; a key is looked up by one read of 16 KiB.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import SIZE, digest, find_places, words_of
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.regular import open_regular

BLOCK_BYTES = 1 << 14
SUFFIX = ".sorted"
COVERED = np.dtype([("name", np.uint8, SIZE), ("rows", "<u4")])
_MAGIC = b"gtasort1"
_NUMBERS = struct.Struct("<8sQQI")  # magic, rows, covered files, bytes of a row
Rows = NDArray[np.void]


def row_type(value: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a row: a key as two words, in whose first one the rows are sorted."""
    return np.dtype([("key", "<u8", 2), ("value", value)])


class SortedFile:
    """A file of sorted keys, opened for reading by any number of threads.

    Args:
        path: as `write_sorted` has returned it.
        value: dtype of the values.

    Attributes:
        covered: `COVERED` rows, the files whose rows it has.

    Raises OSError or ValueError if it cannot be read, or is damaged.
    """

    def __init__(self, path: Path, value: np.dtype[Any]) -> None:
        self.path, self._type = path, row_type(value)
        self._file: BinaryIO = open_regular(path)
        self._lock = threading.Lock()
        try:
            self._read_head()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return self._count

    def find(self, keys: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the values of keys (n, SIZE), and which of them there are.

        Of equal keys the first one counts. Raises OSError if the file cannot be read any more,
        ValueError if a block is damaged.
        """
        wanted = words_of(keys)
        values = np.zeros(len(wanted), self._type["value"])
        known = np.zeros(len(wanted), bool)
        # A run of equal first words may begin in the block before that which begins with it.
        first = np.maximum(np.searchsorted(self._fences, wanted[:, 0], "left") - 1, 0)
        last = np.searchsorted(self._fences, wanted[:, 0], "right")
        order = np.argsort(first, kind="stable")
        cuts = np.flatnonzero(np.diff(first[order])) + 1
        for places in np.split(order, cuts) if len(order) else ():
            rows = self._blocks(int(first[places[0]]), int(last[places].max()))
            words = np.ascontiguousarray(rows["key"].T)
            found = find_places(words[0], words[1], wanted[places])
            hit = found >= 0
            values[places[hit]], known[places[hit]] = rows["value"][found[hit]], True
        return values, known

    def between(self, low: int, high: int) -> Rows:
        """Return the rows whose keys' first words are at least `low` and below `high`."""
        first = max(int(np.searchsorted(self._fences, np.uint64(low), "left")) - 1, 0)
        # The block before the first fence that is too large.
        last = int(np.searchsorted(self._fences, np.uint64(high - 1), "right"))
        return select(self._blocks(first, last), low, high)

    def check(self) -> bool:
        """Return whether every block is as it was written; reads the whole file."""
        try:
            for number in range(len(self._fences)):
                self._blocks(number, number + 1)
        except (OSError, ValueError):
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_head(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        magic, count, files, width = _NUMBERS.unpack(self._at(0, _NUMBERS.size))
        self._count, blocks = count, -(-count // self._per_block)
        heads = _NUMBERS.size + files * COVERED.itemsize + blocks * 12
        self._start = heads + SIZE
        whole = self._start + count * width
        if magic != _MAGIC or width != self._type.itemsize or whole != size:
            raise ValueError(f"{self.path.name} is no sorted file, or incomplete")
        head = self._at(0, heads)
        if digest(head) != self._at(heads, SIZE):
            raise ValueError(f"the head of {self.path.name} is damaged")
        place = _NUMBERS.size
        self.covered = np.frombuffer(head, COVERED, files, place)
        place += files * COVERED.itemsize
        self._fences = np.frombuffer(head, "<u8", blocks, place)
        if (self._fences[1:] < self._fences[:-1]).any():
            raise ValueError(f"the blocks of {self.path.name} are not in order")
        self._sums = np.frombuffer(head, "<u4", blocks, place + 8 * blocks)

    @property
    def _per_block(self) -> int:
        return BLOCK_BYTES // self._type.itemsize

    def _blocks(self, first: int, last: int) -> Rows:
        """Return the rows of some blocks. Raises ValueError if one is damaged."""
        if first >= last:
            return np.zeros(0, self._type)
        size = self._per_block * self._type.itemsize
        end = min(last * size, self._count * self._type.itemsize)
        data = memoryview(self._at(self._start + first * size, end - first * size))
        for number in range(first, last):
            place = (number - first) * size
            if zlib.crc32(data[place : place + size]) != self._sums[number]:
                raise ValueError(f"block {number} of {self.path.name} is damaged")
        return np.frombuffer(data, self._type)

    def _at(self, place: int, size: int) -> bytes:
        """Return bytes at a place. Raises ValueError where the file is shorter."""
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), size, place)
        else:  # Windows
            with self._lock:
                self._file.seek(place)
                data = self._file.read(size)
        if len(data) != size:
            raise ValueError(f"{self.path.name} ends early")
        return data


def write_sorted(
    folder: Path,
    covered: Rows,
    value: np.dtype[Any],
    count: int,
    pieces: Iterable[Rows],
    draft: Path,
) -> Path:
    """Write a sorted file, named after the files that it covers; return its path.

    Args:
        folder: created if it does not exist.
        covered: `COVERED` rows.
        value: dtype of the values.
        count: number of all rows.
        pieces: the rows, sorted by the first words of their keys over all pieces.
        draft: temporary file on the same disk, used by this process only.

    Raises OSError if it cannot be written, ValueError for another number of rows, and what `pieces`
    raises.
    """

    def write(path: Path) -> None:
        width = row_type(value).itemsize
        fences, sums = array("Q"), array("I")
        written = 0
        with path.open("r+b") as file:
            blocks = -(-count // (BLOCK_BYTES // width))
            file.seek(_NUMBERS.size + covered.nbytes + 12 * blocks + SIZE)
            for rows in _cut(pieces, BLOCK_BYTES // width):
                data = rows.tobytes()
                fences.append(int(rows["key"][0, 0]))
                sums.append(zlib.crc32(data))
                file.write(data)
                written += len(rows)
            if written != count:
                raise ValueError(f"{written} rows instead of {count}")
            numbers = _NUMBERS.pack(_MAGIC, count, len(covered), width)
            head = b"".join((numbers, covered.tobytes(), _bytes(fences), _bytes(sums)))
            file.seek(0)
            file.write(head + digest(head))

    path = folder / f"{digest(covered.tobytes()).hex()}{SUFFIX}"
    replace_atomic(path, write, draft=draft, sync=True)
    return path


def select(rows: Rows, low: int, high: int) -> Rows:
    """Return those of sorted rows whose keys' first words are at least `low` and below `high`."""
    words = rows["key"][:, 0]
    first = np.searchsorted(words, np.uint64(low), "left")
    return rows[first : np.searchsorted(words, np.uint64(high - 1), "right")]


def _cut(pieces: Iterable[Rows], size: int) -> Iterator[Rows]:
    """Yield the rows in arrays of `size`, the last one of fewer."""
    left: Rows | None = None
    for piece in pieces:
        rows = piece if left is None else np.concatenate([left, piece])
        whole = len(rows) - len(rows) % size
        yield from (rows[start : start + size] for start in range(0, whole, size))
        left = rows[whole:]
    if left is not None and len(left):
        yield left


def _bytes(numbers: array[int]) -> bytes:
    kept = array(numbers.typecode, numbers)
    if sys.byteorder == "big":
        kept.byteswap()
    return kept.tobytes()
