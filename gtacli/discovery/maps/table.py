"""The rows of all files of a kind as one table, numbered, and looked up by their keys.

The files that an index covers come first and are opened when a row of them is read, a few at a
time; the newest ones are mapped into memory, and their keys are in it.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import SIZE, DigestTable
from gtacli.discovery.maps.files import NAMED, RowArray, load
from gtacli.discovery.maps.index import (
    FileKind,
    in_order,
    names_of,
    open_indexes,
    ranges,
    starts_of,
)
from gtacli.discovery.maps.sorted_file import Rows, SortedFile, select
from gtacli.errors import GtaError
from gtacli.runtime.npy import size_of_rows

_OPEN_FILES = 256


class DamagedIndex(GtaError):
    """An index that cannot be read; without it, what it has is found in the files of the maps.

    Attributes:
        path: of the index.
    """

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(
            f"{path} cannot be read ({error}); remove it: it only repeats what other files say"
        )
        self.path = path


class FileTable:
    """The rows of a cache's files of a kind.

    Args:
        folder: of the cache.
        kind: of the files.
        check: compare the hash of each file with its name, also of those with an index, which are
            otherwise known by their names and sizes; and read all of the indexes.

    Attributes:
        damaged: files that are left out.
        paths: of the files and indexes that are used.
    """

    def __init__(self, folder: Path, kind: FileKind, check: bool = False) -> None:
        # Indexes before the files: what is indexed meanwhile is in a file of the list, or in both.
        indexes, _ = open_indexes(folder, kind)
        self.damaged: list[Path] = []
        sizes = _sizes(folder / kind.name)
        self._begin(kind, folder / kind.name)
        for index in indexes:
            if check and not index.check():
                self.damaged.append(index.path)
            else:
                self._add_index(index, sizes, check)
        covered = {name for group in self._groups for name in group.names}
        files = [
            folder / kind.name / f"{name}.npy" for name in sorted(sizes) if name not in covered
        ]
        self._load(files, check=True)

    @classmethod
    def of_paths(cls, folder: Path, kind: FileKind, paths: Sequence[Path]) -> FileTable:
        """Return the table whose `paths` these are, with the same numbers of rows.

        Raises OSError or ValueError if one of them is not there any more.
        """
        table = cls.__new__(cls)
        table.damaged = []
        table._begin(kind, folder / kind.name)
        for path in paths:
            if path.parent.name != kind.name or path.parent.parent != folder:
                table._add_index(SortedFile(path, kind.value), None, check=False)
        table._load([p for p in paths if p.parent == folder / kind.name], check=False)
        if table.damaged:
            raise ValueError(f"{table.damaged[0]} was removed or changed")
        return table

    def _begin(self, kind: FileKind, folder: Path) -> None:
        self.kind, self._folder = kind, folder
        self.paths: list[Path] = []
        self._groups: list[_Indexed] = []
        self._count = 0
        self._opened: OrderedDict[str, RowArray] = OrderedDict()
        self._lock = threading.Lock()

    def _add_index(self, index: SortedFile, sizes: dict[str, int] | None, check: bool) -> None:
        group = _Indexed(index, self._count)
        if sizes is not None:
            group.leave_out(self._absent(group, sizes, check))
        self._groups.append(group)
        self._count += group.count
        self.paths.append(index.path)

    def _absent(self, group: _Indexed, sizes: dict[str, int], check: bool) -> Iterator[int]:
        """Yield the numbers of covered files that are gone or damaged, and note the latter."""
        rows = group.covered["rows"].tolist()
        for number, name in enumerate(group.names):
            size = sizes.get(name)
            if size is None:
                yield number
                continue
            path = self._folder / f"{name}.npy"
            if size != size_of_rows(self.kind.rows, rows[number]) or (
                check and load(path, self.kind.rows) is None
            ):
                self.damaged.append(path)
                yield number

    def _load(self, files: Sequence[Path], check: bool) -> None:
        self._loaded: list[RowArray] = []
        for file in files:
            rows = load(file, self.kind.rows, check)
            if rows is None:
                self.damaged.append(file)
            else:
                self._loaded.append(rows)
                self.paths.append(file)
        counts = [n for group in self._groups for n in group.covered["rows"].tolist()]
        counts += map(len, self._loaded)
        self._names = [name for group in self._groups for name in group.names]
        self._starts: list[int] = [0, *accumulate(counts)]
        self._count = self._starts[-1]

    def __len__(self) -> int:
        return self._count

    def find(self, keys: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return what is found for keys (n, SIZE), and for which of them there is something.

        Raises DamagedIndex.
        """
        values, known = self._in_memory(keys)
        for group in self._groups:
            left = np.flatnonzero(~known)
            if not len(left):
                break
            found, there = group.find(keys[left], self.kind.found is None)
            values[left[there]], known[left[there]] = found[there], True
        return values, known

    def _in_memory(self, keys: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        rows = self._newest.find(keys)
        known = rows >= 0
        if self.kind.found is None:
            return rows + self._starts[len(self._names)], known
        values = np.zeros(len(keys), self.kind.value)
        values[known] = self._newest_values[rows[known]]
        return values, known

    def count_distinct(self) -> int:
        """Count the keys, each once. Raises DamagedIndex."""
        newest = in_order([self.kind.entries(rows, 0) for rows in self._loaded], self.kind)
        found = 0
        for low, high in ranges(self._count):
            rows = [group.between(low, high, self.kind.found is None) for group in self._groups]
            keys = np.concatenate([*rows, select(newest, low, high)])["key"]
            found += len(np.unique(np.ascontiguousarray(keys).view("V16")))
        return found

    def row(self, number: int) -> np.void:
        """Return a row. Raises GtaError if its file is damaged or gone."""
        part = bisect_right(self._starts, number) - 1
        row: np.void = self._part(part)[number - self._starts[part]]
        return row

    def column(self, field: str, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return a field of some rows. Raises GtaError as `row` does."""
        found = np.zeros(len(numbers), self.kind.rows[field])
        parts = np.searchsorted(self._starts, numbers, "right") - 1
        for part in np.unique(parts).tolist():
            of_part = parts == part
            found[of_part] = self._part(part)[field][numbers[of_part] - self._starts[part]]
        return found

    def _part(self, number: int) -> RowArray:
        """Return the rows of a file by its number."""
        first = number - len(self._names)
        return self._open(self._names[number]) if first < 0 else self._loaded[first]

    def parts(self) -> Iterator[RowArray]:
        """Yield the rows of each file."""
        for group in self._groups:
            yield from (self._open(name) for name in group.present())
        yield from self._loaded

    def _open(self, name: str) -> RowArray:
        """Return the rows of a file with an index, whose hash is compared when it is opened."""
        with self._lock:
            if (rows := self._opened.get(name)) is not None:
                self._opened.move_to_end(name)
                return rows
        path = self._folder / f"{name}.npy"
        rows = load(path, self.kind.rows)
        if rows is None:
            text = f"{path} is damaged or gone; without it gta discover computes its maps again"
            raise GtaError(text)
        with self._lock:
            self._opened[name] = rows
            while len(self._opened) > _OPEN_FILES:
                self._opened.popitem(last=False)
        return rows

    @cached_property
    def _newest(self) -> DigestTable:
        return DigestTable(_column(self._loaded, self.kind.key))

    @cached_property
    def _newest_values(self) -> NDArray[Any]:
        assert self.kind.found is not None
        return _column(self._loaded, self.kind.found)


class _Indexed:
    """The files that an index covers.

    Args:
        index: opened.
        start: number of its first row.
    """

    def __init__(self, index: SortedFile, start: int) -> None:
        self.index, self.covered = index, index.covered
        self.names = [name.hex() for name in names_of(index.covered)]
        self.starts = starts_of(index.covered) + start
        self.count = int(self.starts[-1]) - start
        self._gone = np.zeros(len(self.names), bool)

    def leave_out(self, files: Iterator[int]) -> None:
        """Forget what is in these files, by number."""
        for file in files:
            self._gone[file] = True

    def present(self) -> Iterator[str]:
        """Yield the names of the files that are there."""
        return (name for name, gone in zip(self.names, self._gone, strict=True) if not gone)

    def find(
        self, keys: NDArray[np.uint8], numbered: bool
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return what is found; `numbered`: the numbers of rows, where their files are there."""
        try:
            values, known = self.index.find(keys)
        except (OSError, ValueError) as error:
            raise DamagedIndex(self.index.path, error) from error
        if numbered:
            known &= values < self.count
            values = np.where(known, values, 0).astype(np.int64) + self.starts[0]
            known &= self._is_there(values)
        return values, known

    def between(self, low: int, high: int, numbered: bool) -> Rows:
        """Return the rows of the index with first words in [low, high), of files that are there."""
        try:
            rows = self.index.between(low, high)
        except (OSError, ValueError) as error:
            raise DamagedIndex(self.index.path, error) from error
        if not numbered:
            return rows
        rows = rows[rows["value"] < self.count]
        return rows[self._is_there(rows["value"].astype(np.int64) + self.starts[0])]

    def _is_there(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return ~self._gone[np.searchsorted(self.starts, rows, "right") - 1]


def _sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the files in a folder by their names without the suffix."""
    sizes = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if NAMED.fullmatch(entry.name):
                    try:
                        sizes[entry.name[:-4]] = entry.stat().st_size
                    except OSError:  # removed meanwhile
                        continue
    except FileNotFoundError:
        pass
    return sizes


def _column(parts: Sequence[RowArray], name: str) -> NDArray[np.uint8]:
    """Copy one column of digests of all parts into memory."""
    none = np.empty((0, SIZE), np.uint8)
    return np.concatenate([none, *(part[name] for part in parts)])
