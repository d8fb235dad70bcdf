"""Indexes of a cache's many files: sorted files of their digests, so that memory does not grow.

A cache of 10^9 maps has a quarter of a million files. The digests of the newest few are read into
memory; those of all others are in sorted files, looked up on disk. Whenever a process that writes
maps finds `MANY_FILES` without an index, it makes one of them, and merges it with those that are
not larger, as a binary counter does: 10^9 maps have about ten. An index is nothing but a copy of
what the files say: it can be deleted at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import SIZE, words_of
from gtacli.discovery.maps.files import MAPS, SEEN, SEEN_TYPE, SHARDS, files_in, load, maps_type
from gtacli.discovery.maps.ledger import join_ledger
from gtacli.discovery.maps.sorted_file import (
    COVERED,
    SUFFIX,
    Rows,
    SortedFile,
    row_type,
    select,
    write_sorted,
)
from gtacli.errors import UsageError
from gtacli.runtime.ownership import owned

log = logging.getLogger(__name__)
INDEX = "index"
"""Folder of the indexes in a cache."""
MANY_FILES = 256
AT_ONCE = 2048
"""Files without an index that get one together, at most."""
PIECE = 1 << 20  # rows that are merged at a time
WORDS = 1 << 64
_LOCK = "index"
_ATTEMPTS = 8  # to open files that another process replaces meanwhile


@dataclass(frozen=True)
class FileKind:
    """A kind of files with an index.

    Attributes:
        name: of their folder.
        rows: dtype of their rows.
        key: field that is looked up.
        found: field that is found; None: the number of the row among those of the covered files.
    """

    name: str
    rows: np.dtype[Any]
    key: str
    found: str | None

    @property
    def value(self) -> np.dtype[Any]:
        """Return the dtype of what is found."""
        return np.dtype("<u8") if self.found is None else self.rows[self.found]

    def entries(self, rows: Rows, start: int) -> Rows:
        """Return the rows of an index for those of a file, which are numbered from `start` on."""
        entries = np.zeros(len(rows), row_type(self.value))
        entries["key"] = words_of(rows[self.key])
        numbers = np.arange(start, start + len(rows), dtype=np.uint64)
        entries["value"] = numbers if self.found is None else rows[self.found]
        return entries


def maps_kind(grid: tuple[int, int]) -> FileKind:
    """Return the kind of the files of maps."""
    return FileKind(MAPS, maps_type(grid), "digest", None)


SEEN_KIND = FileKind(SEEN, SEEN_TYPE, "sighting", "digest")


def open_indexes(folder: Path, kind: FileKind) -> tuple[list[SortedFile], list[Path]]:
    """Return the indexes of a cache, the largest first, and those that are of no use.

    These are damaged, or others have all that they have, since a process was killed that had merged
    them.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _open(folder / INDEX / kind.name, kind)
        except FileNotFoundError:  # merged with others meanwhile
            continue
    return [], []


def _open(folder: Path, kind: FileKind) -> tuple[list[SortedFile], list[Path]]:
    opened, useless = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            opened.append(SortedFile(path, kind.value))
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            log.warning("%s is not used: %s", path, error)
            useless.append(path)
    opened.sort(key=len, reverse=True)
    covered: set[bytes] = set()
    kept = []
    for one in opened:
        names = set(names_of(one.covered))
        (useless.append(one.path) if names <= covered else kept.append(one))
        covered |= names
    return kept, useless


def names_of(covered: Rows) -> list[bytes]:
    """Return the names of covered files, SIZE bytes each."""
    data = covered["name"].tobytes()
    return [data[place : place + SIZE] for place in range(0, len(data), SIZE)]


def index_cache(folder: Path, grid: tuple[int, int], draft: Path) -> bool:
    """Index the files of a cache that have no index, if they are many.

    Args:
        folder: of the cache.
        grid: of its maps.
        draft: temporary file on the same disk, used by this process only.

    Returns: whether anything has changed; not so while another process does it. Raises OSError if
    an index cannot be written.
    """
    changed = False
    try:
        with owned(folder, "discover", part=_LOCK, patience=0, shared=True):
            for kind in (maps_kind(grid), SEEN_KIND):
                while _index_some(folder, kind, draft):
                    changed = True
            if len(files_in(folder / SHARDS)) >= MANY_FILES:
                join_ledger(folder, draft)
    except UsageError:  # another process does it
        pass
    return changed


def _index_some(folder: Path, kind: FileKind, draft: Path) -> bool:
    indexes, useless = open_indexes(folder, kind)
    for path in useless:
        path.unlink(missing_ok=True)
    known = {name.hex() for one in indexes for name in names_of(one.covered)}
    files = files_in(folder / kind.name)
    new = [file for file in files if file.stem not in known][:AT_ONCE]
    loaded = [(file, load(file, kind.rows)) for file in new] if len(new) >= MANY_FILES else []
    good = [(file, rows) for file, rows in loaded if rows is not None]
    if len(good) < MANY_FILES:
        return False
    merger = _Merger(kind, {file.stem for file in files})
    merger.add_files(good)
    merged = []
    for one in reversed(indexes):
        if len(one) <= merger.count:
            merger.add_index(one)
            merged.append(one.path)
    log.debug("indexing %d %s, with %d indexes", merger.count, kind.name, len(merged))
    try:
        merger.write(folder / INDEX / kind.name, draft)
    except ValueError:  # a block of an index is damaged
        merged = [one.path for one in indexes if one.path in merged and not one.check()]
        if not merged:
            raise
    for path in merged:
        path.unlink(missing_ok=True)
    return True


class _Merger:
    """The rows of new files and of indexes, to be written as one index.

    Args:
        kind: of the files.
        there: names of the files that are still there; what an index says of others is dropped.
    """

    def __init__(self, kind: FileKind, there: set[str]) -> None:
        self.kind, self._there = kind, there
        self.count = 0
        self._covered: list[Rows] = []
        self._sources: list[Callable[[int, int], Rows]] = []

    def add_files(self, files: Sequence[tuple[Path, Rows]]) -> None:
        """Add the rows of files."""
        covered = np.zeros(len(files), COVERED)
        covered["name"] = [list(bytes.fromhex(file.stem)) for file, _ in files]
        covered["rows"] = [len(rows) for _, rows in files]
        starts = starts_of(covered) + self.count
        parts = [self.kind.entries(r, s) for (_, r), s in zip(files, starts[:-1], strict=True)]
        self._add(covered, partial(select, in_order(parts, self.kind)))

    def add_index(self, index: SortedFile) -> None:
        """Add the rows of an index, but for those of files that are gone."""
        covered = index.covered
        alive = np.array([name.hex() in self._there for name in names_of(covered)], bool)
        if self.kind.found is not None:  # what was found remains true without the file
            alive[:] = True
        old, kept = starts_of(covered), covered[alive]
        new = np.zeros(len(covered), np.int64)
        new[alive] = starts_of(kept)[:-1] + self.count

        def between(low: int, high: int) -> Rows:
            rows = index.between(low, high)
            if self.kind.found is not None:
                return rows
            numbers = rows["value"].astype(np.int64)
            files = np.searchsorted(old, numbers, "right") - 1
            moved = rows.copy()
            moved["value"] = numbers - old[files] + new[files]
            return moved[alive[files]]

        self._add(kept, between)

    def _add(self, covered: Rows, between: Callable[[int, int], Rows]) -> None:
        self._covered.append(covered)
        self._sources.append(between)
        self.count += int(covered["rows"].sum())

    def write(self, folder: Path, draft: Path) -> Path:
        """Write the index, with a piece of the rows in memory at a time."""
        covered = np.concatenate(self._covered)
        return write_sorted(folder, covered, self.kind.value, self.count, self._pieces(), draft)

    def _pieces(self) -> Iterator[Rows]:
        for low, high in ranges(self.count):
            yield in_order([source(low, high) for source in self._sources], self.kind)


def starts_of(covered: Rows) -> NDArray[np.int64]:
    """Return the number of each covered file's first row, and the number of all rows."""
    return np.concatenate([[0], np.cumsum(covered["rows"], dtype=np.int64)])


def ranges(count: int) -> Iterator[tuple[int, int]]:
    """Cut the first words of `count` keys into ranges [low, high) of about `PIECE` of them each."""
    parts = max(1, count // PIECE)
    bounds = [part * WORDS // parts for part in range(parts + 1)]
    return pairwise(bounds)


def in_order(parts: Sequence[Rows], kind: FileKind) -> Rows:
    """Return rows of an index as one array, sorted."""
    rows = np.concatenate([np.zeros(0, row_type(kind.value)), *parts])
    return rows[np.argsort(rows["key"][:, 0], kind="stable")]
