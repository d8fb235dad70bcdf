"""The maps and images that a cache knows, looked up while files are added to it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import DigestSet, ImageFile
from gtacli.discovery.maps.files import write_error
from gtacli.discovery.maps.index import INDEX, MANY_FILES, index_cache
from gtacli.discovery.maps.manifest import MapManifest, check_manifest
from gtacli.discovery.maps.reader import MapCache
from gtacli.discovery.maps.table import DamagedIndex

log = logging.getLogger(__name__)
T = TypeVar("T")


class KnownImages:
    """The images whose maps are in a cache's files, and the stamps of those that were read.

    Args:
        folder: of the cache.
        manifest: that of the run; the cache's must be equal.
        draft: temporary file on the same disk, used by this process only.
        on_the_way: returns the stamps that are in no file yet, but were added.

    Raises RunError if an index cannot be written, UsageError for a cache of other maps.
    """

    def __init__(
        self,
        folder: Path,
        manifest: MapManifest,
        draft: Path,
        on_the_way: Callable[[], Iterable[bytes]],
    ) -> None:
        self._folder, self._grid, self._draft = folder, manifest.grid, draft
        self._on_the_way = on_the_way
        self._reopening = threading.Lock()
        self._files = 0  # that were added since those without an index were looked for
        self._index()
        self._open()
        check_manifest(folder, self.cache.manifest, manifest)  # of a run that started meanwhile

    def has(self, digest: bytes) -> bool:
        """Return whether an image's map is in a file; thread-safe."""
        return self._ask(lambda: digest in self._contents)

    def has_stamp(self, stamp: bytes) -> bool:
        """Return whether the image file with this stamp has been read; thread-safe."""
        return self._ask(lambda: stamp in self._stamps)

    def without_map(self, images: Sequence[ImageFile]) -> list[ImageFile]:
        """Return the images that must be read: new, changed, or without a map."""

        def find(cache: MapCache) -> NDArray[np.bool_]:
            digests, done = cache.digests(images)
            done[done] = cache.have(digests[done])
            return done

        done = self._ask(lambda: find(self.cache))
        return [image for image, skip in zip(images, done, strict=True) if not skip]

    def add_file(self, digests: Sequence[bytes]) -> None:
        """Add the images of a file of maps that was written."""
        self._contents.add(digests)
        self._files += 1
        if self._files == MANY_FILES:
            self._files = 0
            if self._index():
                self._open()  # looks up in the files of today, instead of the memory of them

    def add_stamps(self, stamps: Sequence[bytes]) -> None:
        """Add the stamps of image files that were read."""
        self._stamps.add(stamps)

    def _open(self) -> None:
        self.cache = cache = MapCache(self._folder, skip_damaged=True)
        self._contents = DigestSet(cache.have)
        self._stamps = DigestSet(cache.have_stamps)
        self._stamps.add([*self._on_the_way()])

    def _index(self) -> bool:
        """Index the files without one, if they are many; return whether anything has changed."""
        try:
            return index_cache(self._folder, self._grid, self._draft)
        except OSError as error:
            raise write_error(self._folder / INDEX, error) from error

    def _ask(self, question: Callable[[], T]) -> T:
        """Return the answer; where an index is damaged or gone, with the index made again."""
        while True:
            cache = self.cache
            try:
                return question()
            except DamagedIndex as error:
                with self._reopening:
                    if cache is self.cache:  # no other thread has done it
                        log.warning("%s is damaged; it is made again", error.path)
                        error.path.unlink(missing_ok=True)
                        self._index()
                        self._open()
