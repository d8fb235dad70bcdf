"""Look up cached maps by the content of their images.

    cache = MapCache("maps/")
    rows = cache.rows([record.path for record in records])   # once; -1: no map
    cache[rows[i]]                                           # uint8 (gh, gw), in any process

An image with a known stamp (path, size and times of change) is not read; a new or changed image is
read and identified by its bytes. So a changed file, or another one of the same name, never gets
the map of another image.

The lookup table takes about 50 bytes of memory per map; the maps stay in memory-mapped files, whose
pages all processes of a machine share.
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

from gtacli.discovery.maps.digests import SIZE, DigestTable, ImageFile, digest, file_stamp, stack
from gtacli.discovery.maps.files import MAPS, SEEN, SEEN_TYPE, RowArray, files_in, load, maps_type
from gtacli.discovery.maps.manifest import read_manifest
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError, read_bytes
from gtacli.runtime.prefetch import ahead

BULK = 4096  # images that are looked up together
PIECE = 256  # of them per thread


class MapCache:
    """The maps in a folder of `gta discover`: read-only, picklable, safe to fork.

    Maps that are added after opening are not included.

    Args:
        folder: of the cache.
        skip_damaged: skip damaged files (and list them in `damaged`).

    Attributes:
        manifest: properties of the maps.
        grid: (gh, gw) of each map.
        parts: rows of (digest, map), one array per file.
        damaged: skipped files.

    Raises GtaError for a folder without maps, and for a damaged file.
    """

    def __init__(self, folder: str | Path, skip_damaged: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.grid = self.manifest.grid
        self._open(files_in(self.folder / MAPS), files_in(self.folder / SEEN), check=True)
        if self.damaged and not skip_damaged:
            raise GtaError(f"{self.damaged[0]} is damaged; gta discover computes its maps again")

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return a copy of the map (gh, gw) in a row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} maps")
        part = bisect_right(self._starts, row) - 1
        found: NDArray[np.uint8] = self._maps[part][row - self._starts[part]].copy()
        return found

    def rows(
        self,
        images: Sequence[ImageFile],
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.int64]:
        """Return the row of each image's map; -1 if there is none or the image cannot be read.

        Args:
            threads: number of threads that read images; 0: none; default: depends on the machine.
            progress: called with the number of images of each bulk.
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
            found[start : start + len(bulk)][known] = self.find_rows(digests[known])
            if progress is not None:
                progress(len(bulk))
        return found

    def digests(
        self, images: Sequence[ImageFile], threads: int | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return digests (n, SIZE) of the images with known stamps, and which images these are."""
        # In threads, because a network file system is slow to answer.
        pieces = (images[start : start + PIECE] for start in range(0, len(images), PIECE))
        stamps = list(chain.from_iterable(ahead(_stamps, pieces, 64, threads)))
        table, contents = self._by_stamp
        rows = table.find(stack(one or bytes(SIZE) for one in stamps))
        rows[[one is None for one in stamps]] = -1
        found = np.zeros((len(images), SIZE), np.uint8)
        found[rows >= 0] = contents[rows[rows >= 0]]
        return found, rows >= 0

    def find_rows(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of the map of each digest of (n, SIZE); -1 for one without a map."""
        return self._table.find(digests)

    def have(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which of the digests (n, SIZE) have a map."""
        return self.find_rows(digests) >= 0

    def find(self, data: bytes) -> NDArray[np.uint8] | None:
        """Return the map of the image file with these bytes; None if there is none."""
        row = int(self.find_rows(stack([digest(data)]))[0])
        return None if row < 0 else self[row]

    @property
    def contents(self) -> NDArray[np.uint8]:
        """Return the digest of each row's image, (len(self), SIZE)."""
        return _column(self.parts, "digest")

    @property
    def stamps(self) -> NDArray[np.uint8]:
        """Return all known stamps of image files, (n, SIZE)."""
        return _column(self._seen, "sighting")

    @cached_property
    def _table(self) -> DigestTable:
        return DigestTable(self.contents)

    @cached_property
    def _by_stamp(self) -> tuple[DigestTable, NDArray[np.uint8]]:
        return DigestTable(self.stamps), _column(self._seen, "digest")

    def _open(self, maps: Sequence[Path], seen: Sequence[Path], check: bool) -> None:
        dtype = maps_type(self.grid)
        loaded = {file: load(file, dtype, check) for file in maps}
        stamps = {file: load(file, SEEN_TYPE, check) for file in seen}
        self.damaged = [f for f, rows in {**loaded, **stamps}.items() if rows is None]
        self._files = [f for f in (*maps, *seen) if f not in self.damaged]
        self.parts = [rows for rows in loaded.values() if rows is not None]
        self._seen = [rows for rows in stamps.values() if rows is not None]
        self._maps = [part["map"] for part in self.parts]
        self._starts = [0, *np.cumsum([len(part) for part in self.parts]).tolist()]

    def __getstate__(self) -> dict[str, Any]:
        # With the names of the files, so that a row is the same map in every process.
        return {"folder": self.folder, "manifest": self.manifest, "files": self._files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.manifest = state["folder"], state["manifest"]
        self.grid = self.manifest.grid
        maps = [file for file in state["files"] if file.parent.name == MAPS]
        seen = [file for file in state["files"] if file.parent.name == SEEN]
        self._open(maps, seen, check=False)
        if self.damaged:
            raise GtaError(f"{self.damaged[0]} was removed or changed after the cache was opened")


def _stamps(images: Sequence[ImageFile]) -> list[bytes | None]:
    return [file_stamp(image) for image in images]


def _content(image: ImageFile) -> bytes | None:
    try:
        return digest(read_bytes(image))
    except ImageError:
        return None


def _column(parts: Sequence[RowArray], name: str) -> NDArray[np.uint8]:
    """Copy one column of digests of all parts into memory."""
    none = np.empty((0, SIZE), np.uint8)
    return np.concatenate([none, *(part[name] for part in parts)])
