"""Maps by the content of their images, for whoever trains with them.

    cache = MapCache("maps/")
    rows = cache.rows([record.path for record in records])   # once; -1: no map
    cache[rows[i]]                                           # uint8 (gh, gw), in any process

A sighting (where a file lies, its size and times of change) answers without reading the image; an
image that was never seen there, or has changed since, is read and known by its bytes. So neither a
changed file nor another one of the same name gets a map that is not its own.

In memory are some 50 bytes a map, for looking rows up; the maps stay in their files, mapped, and
the pages that are in use are shared by all processes of a machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import SIZE, DigestTable, Source, digest, sighting, stack
from gtacli.discovery.maps.files import MAPS, SEEN, SEEN_TYPE, Rows, files_in, load, maps_type
from gtacli.discovery.maps.kind import read_kind
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError, encoded
from gtacli.runtime.prefetch import ahead

BULK = 4096  # images that are looked up together
PIECE = 256  # of them a thread


class MapCache:
    """The maps in a folder of `gta discover`; read-only, picklable, safe to fork.

    It is the folder as it was opened: what is added later is not seen.

    Args:
        folder: of the cache.
        skip_damaged: leave damaged files out (and name them in `damaged`).

    Attributes:
        kind: what the maps are.
        grid: (gh, gw) of each.
        parts: rows of (digest, map), file by file.
        damaged: files that are left out.

    Raises GtaError for a folder without maps, and for a damaged file.
    """

    def __init__(self, folder: str | Path, skip_damaged: bool = False) -> None:
        self.folder = Path(folder)
        self.kind = read_kind(self.folder)
        self.grid = self.kind.grid
        self._open(files_in(self.folder / MAPS), files_in(self.folder / SEEN), check=True)
        if self.damaged and not skip_damaged:
            raise GtaError(f"{self.damaged[0]} is damaged; gta discover makes its maps again")

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """The map in a row, (gh, gw); a copy."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} maps")
        part = bisect_right(self._starts, row) - 1
        found: NDArray[np.uint8] = self._maps[part][row - self._starts[part]].copy()
        return found

    def rows(
        self,
        images: Sequence[Source],
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.int64]:
        """The row of each image's map; -1: there is none, or the image cannot be read.

        Args:
            threads: that ask for the files, and read those that were not seen yet; 0: none;
                default: by the machine.
            progress: called with the number of images that are done.
        """
        found = np.full(len(images), -1, np.int64)
        for start in range(0, len(images), BULK):
            bulk = images[start : start + BULK]
            digests, known = self.digests(bulk, threads)
            new = np.flatnonzero(~known).tolist()
            read = ahead(_content, (bulk[i] for i in new), 256, threads)
            for i, one in zip(new, read, strict=True):
                if one is not None:
                    digests[i], known[i] = np.frombuffer(one, np.uint8), True
            found[start : start + len(bulk)][known] = self._table.find(digests[known])
            if progress is not None:
                progress(len(bulk))
        return found

    def digests(
        self, images: Sequence[Source], threads: int | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(n, SIZE) digests of images by their sightings, and which are known by them."""
        # In threads: on a network file system each waits for an answer.
        pieces = (images[start : start + PIECE] for start in range(0, len(images), PIECE))
        sightings = list(chain.from_iterable(ahead(_sightings, pieces, 64, threads)))
        table, contents = self._by_sighting
        rows = table.find(stack(one or bytes(SIZE) for one in sightings))
        rows[[one is None for one in sightings]] = -1
        found = np.zeros((len(images), SIZE), np.uint8)
        found[rows >= 0] = contents[rows[rows >= 0]]
        return found, rows >= 0

    def have(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of the images with these digests, (n, SIZE), have a map."""
        return self._table.find(digests) >= 0

    def find(self, data: bytes) -> NDArray[np.uint8] | None:
        """The map of the image file with these bytes."""
        row = int(self._table.find(stack([digest(data)]))[0])
        return None if row < 0 else self[row]

    @property
    def contents(self) -> NDArray[np.uint8]:
        """(len(self), SIZE): the digest of each row's image."""
        return _column(self.parts, "digest")

    @property
    def sightings(self) -> NDArray[np.uint8]:
        """(n, SIZE): the sightings of images."""
        return _column(self._seen, "sighting")

    @cached_property
    def _table(self) -> DigestTable:
        return DigestTable(self.contents)

    @cached_property
    def _by_sighting(self) -> tuple[DigestTable, NDArray[np.uint8]]:
        return DigestTable(self.sightings), _column(self._seen, "digest")

    def _open(self, maps: Sequence[Path], seen: Sequence[Path], check: bool) -> None:
        kind = maps_type(self.grid)
        loaded = {file: load(file, kind, check) for file in maps}
        sighted = {file: load(file, SEEN_TYPE, check) for file in seen}
        self.damaged = [f for f, rows in {**loaded, **sighted}.items() if rows is None]
        self._files = [f for f in (*maps, *seen) if f not in self.damaged]
        self.parts = [rows for rows in loaded.values() if rows is not None]
        self._seen = [rows for rows in sighted.values() if rows is not None]
        self._maps = [part["map"] for part in self.parts]
        self._starts = [0, *np.cumsum([len(part) for part in self.parts]).tolist()]

    def __getstate__(self) -> dict[str, Any]:
        # The files by name: a row must mean the same map in every process.
        return {"folder": self.folder, "kind": self.kind, "files": self._files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.kind = state["folder"], state["kind"]
        self.grid = self.kind.grid
        maps = [file for file in state["files"] if file.parent.name == MAPS]
        seen = [file for file in state["files"] if file.parent.name == SEEN]
        self._open(maps, seen, check=False)
        if self.damaged:
            raise GtaError(f"{self.damaged[0]} has gone since the cache was opened")


def _sightings(images: Sequence[Source]) -> list[bytes | None]:
    return [sighting(image) for image in images]


def _content(image: Source) -> bytes | None:
    try:
        return digest(encoded(image))
    except ImageError:
        return None


def _column(parts: Sequence[Rows], name: str) -> NDArray[np.uint8]:
    """One column of digests of all parts, in memory."""
    none = np.empty((0, SIZE), np.uint8)
    return np.concatenate([none, *(part[name] for part in parts)])
