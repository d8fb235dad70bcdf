"""Look up cached maps by the content of their images.

    cache = MapCache("maps/")
    rows = cache.rows([record.source for record in records])  # once; -1: no map
    cache[rows[i]]                                           # uint8 (gh, gw), in any process

An image with a known stamp (path, size and times of change) is not read; a new or changed image is
read and identified by its bytes. So a changed file, or another one of the same name, never gets
the map of another image.

The digests of the newest files are in memory, 50 bytes a map; those of all others are looked up in
indexes on disk (`gtacli.discovery.maps.index`). The maps stay in memory-mapped files, whose pages
all processes of a machine share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import SIZE, ImageFile, digest, file_stamp, stack
from gtacli.discovery.maps.files import MAPS, RowArray, files_in
from gtacli.discovery.maps.index import SEEN_KIND, maps_kind
from gtacli.discovery.maps.manifest import read_manifest
from gtacli.discovery.maps.table import FileTable
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError, read_bytes
from gtacli.runtime.prefetch import ahead, ahead_in_blocks

BULK = 4096  # images that are looked up together


class MapCache:
    """The maps in a folder of `gta discover`: read-only, picklable, safe to fork.

    Maps that are added after opening are not included.

    Args:
        folder: of the cache.
        skip_damaged: skip damaged files (and list them in `damaged`).
        check: read all files, to find every damage; else those with an index are known by their
            names and sizes, and damage in them is found when a map of them is read.

    Attributes:
        manifest: properties of the maps.
        grid: (gh, gw) of each map.
        damaged: skipped files.

    Raises GtaError for a folder without maps, and for a damaged file.
    """

    def __init__(self, folder: str | Path, skip_damaged: bool = False, check: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.grid = self.manifest.grid
        self._maps = FileTable(self.folder, maps_kind(self.grid), check)
        self._seen = FileTable(self.folder, SEEN_KIND, check)
        self.damaged = [*self._maps.damaged, *self._seen.damaged]
        if self.damaged and not skip_damaged:
            raise GtaError(f"{self.damaged[0]} is damaged; gta discover computes its maps again")

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Return a copy of the map (gh, gw) in a row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} maps")
        found: NDArray[np.uint8] = self._maps.row(row)["map"].copy()
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
        stamps = [*ahead_in_blocks(file_stamp, images, threads)]
        found, known = self._seen.find(stack(one or bytes(SIZE) for one in stamps))
        known[[one is None for one in stamps]] = False
        return found, known

    def find_rows(self, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the row of the map of each digest of (n, SIZE); -1 for one without a map."""
        rows, known = self._maps.find(digests)
        return np.where(known, rows, -1)

    def fingerprint(self) -> str:
        """Return a SHA-256 of the properties of the maps and the names of their files.

        The names are hashes of what is in the files: a cache to which maps were added has another
        fingerprint.
        """
        names = (path.name for path in files_in(self.folder / MAPS))
        text = "\n".join((self.manifest.text, *names))
        return hashlib.sha256(text.encode()).hexdigest()

    def have(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which of the digests (n, SIZE) have a map."""
        return self.find_rows(digests) >= 0

    def find(self, data: bytes) -> NDArray[np.uint8] | None:
        """Return the map of the image file with these bytes; None if there is none."""
        row = int(self.find_rows(stack([digest(data)]))[0])
        return None if row < 0 else self[row]

    def have_stamps(self, stamps: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which of the stamps (n, SIZE) of image files are known."""
        return self._seen.find(stamps)[1]

    def count_images(self) -> int:
        """Count the images that have a map: equal ones once."""
        return self._maps.count_distinct()

    def contents(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the digests of the images of some rows, (len(rows), SIZE)."""
        return self._maps.column("digest", rows)

    def parts(self) -> Iterator[RowArray]:
        """Yield the rows of (digest, map) of each file."""
        return self._maps.parts()

    def __getstate__(self) -> dict[str, Any]:
        # With the names of the files, so that a row is the same map in every process.
        files = {"maps": self._maps.paths, "seen": self._seen.paths}
        return {"folder": self.folder, "manifest": self.manifest, **files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.manifest = state["folder"], state["manifest"]
        self.grid, self.damaged = self.manifest.grid, []
        try:
            self._maps = FileTable.of_paths(self.folder, maps_kind(self.grid), state["maps"])
            self._seen = FileTable.of_paths(self.folder, SEEN_KIND, state["seen"])
        except (OSError, ValueError) as error:
            text = f"{self.folder} has changed after it was opened: {error}"
            raise GtaError(text) from error


def _content(image: ImageFile) -> bytes | None:
    try:
        return digest(read_bytes(image))
    except ImageError:
        return None
