"""How maps enter a cache: by images in their order, in blocks, so that the files are the same
however often a run is killed and however many runs share the work.

What makes it so: blocks are fixed by the list of images alone, run i of n has blocks i, i + n, ...;
a file begins and ends at the border of a block; batches begin with a file, and a journal keeps them
whole; no file has a time, a host or a process in it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import Known, Source, stack
from gtacli.discovery.maps.files import (
    MAPS,
    SEEN,
    SEEN_TYPE,
    Rows,
    files_in,
    load,
    maps_type,
    put,
    save,
)
from gtacli.discovery.maps.journal import Journal
from gtacli.discovery.maps.kind import MANIFEST, MapKind, check_same, read_kind
from gtacli.discovery.maps.reader import MapCache
from gtacli.errors import GtaError, RunError, UsageError

log = logging.getLogger(__name__)
MAPS_A_FILE = 4096
BLOCKS = 32  # at least, so that a small set can be shared out, too
_DRAFT, _JOURNAL = ".draft-", "journal-"
_BEGUN = (_DRAFT, _JOURNAL)  # what a run that has just begun may have written


def block_size(images: int, batch_size: int, shared: bool = False) -> int:
    """Of images in order: whole batches, 4,096 images, fewer of a small set.

    shared: by several runs. Their blocks must meet, whatever the batches of each are.
    """
    wanted = min(MAPS_A_FILE, max(1, -(-images // BLOCKS)))
    return wanted if shared else -(-wanted // batch_size) * batch_size


def check_free(folder: Path, kind: MapKind | None = None) -> None:
    """Raises UsageError for a folder with other things in it, or with maps of another kind."""
    if folder.is_file():
        raise UsageError(f"--out: {folder} is a file")
    if (folder / MANIFEST).is_file():
        if kind is not None:
            check_same(folder, read_kind(folder), kind)
    elif folder.is_dir() and any(not p.name.startswith(_BEGUN) for p in folder.iterdir()):
        raise UsageError(f"--out: {folder} is not empty and holds no maps; choose another folder")


def remove_cache(folder: Path) -> None:
    """Remove a cache's files, and nothing else."""
    if not (folder / MANIFEST).is_file():
        return
    for name in (MAPS, SEEN):
        shutil.rmtree(folder / name, ignore_errors=True)
    for file in (*journals(folder), folder / MANIFEST):
        file.unlink(missing_ok=True)


class Writer:
    """A cache of one kind, to be filled with the maps of a list of images.

    Args:
        folder: of the cache; made if it is not there.
        kind: of the maps.
        block: images a block; see `block_size`.
        share: (i, n): this is run i of n that share the images.

    Raises UsageError for a folder that holds something else or is being written, GtaError where
    nothing can be written.
    """

    def __init__(
        self, folder: Path, kind: MapKind, block: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.folder, self.block, self.share = folder, block, share
        name = f"{share[0]}-of-{share[1]}"
        self._draft = folder / f"{_DRAFT}{name}"
        self._type = maps_type(kind.grid)
        check_free(folder, kind)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder / f"{_JOURNAL}{name}", self._type)
            if not (folder / MANIFEST).is_file():
                put(folder / MANIFEST, kind.text.encode(), self._draft)
        except OSError as error:
            raise GtaError(f"--out: cannot write {folder} ({error.strerror or error})") from error
        except RunError as error:  # nothing was computed yet
            raise GtaError(str(error)) from error
        self.cache = MapCache(folder, skip_damaged=True)
        check_same(folder, self.cache.kind, kind)  # another run may have been faster
        for file in self.cache.damaged:
            log.warning("%s is damaged: its images are done again", file)
        self._contents = Known(self.cache.contents)
        self._sightings = Known(self.cache.sightings)
        self._kept = {
            row["digest"].tobytes(): row["map"] for b in self._journal.replay() for row in b
        }
        self._maps: dict[bytes, NDArray[np.uint8] | None] = {}
        self._seen: dict[bytes, bytes] = {}

    def blocks(self, images: int) -> list[range]:
        """This run's share of so many images, block by block."""
        i, n = self.share
        starts = range(i * self.block, images, n * self.block)
        return [range(start, min(start + self.block, images)) for start in starts]

    def unknown(self, block: Sequence[Source]) -> list[Source]:
        """The images of a block that have to be read: unseen, changed, or without a map."""
        digests, seen = self.cache.digests(block)
        seen[seen] = self.cache.have(digests[seen])
        return [image for image, done in zip(block, seen, strict=True) if not done]

    def has(self, digest: bytes) -> bool:
        """Whether the map of this image is in a file or in the journal. Any thread may ask."""
        return digest in self._kept or digest in self._contents

    def enter(self, digest: bytes, sighting: bytes | None) -> bool:
        """The next image in order. True: its map has to be made, and `add` is to be called."""
        if sighting is not None and sighting not in self._sightings:
            self._seen[sighting] = digest
        if digest in self._maps or digest in self._contents:
            return False
        self._maps[digest] = self._kept.get(digest)
        return self._maps[digest] is None

    def add(self, digests: Sequence[bytes], maps: NDArray[np.uint8]) -> None:
        """A batch of maps (n, gh, gw); kept from now on."""
        self._journal.append(self._rows(digests, maps))
        self._maps.update(zip(digests, maps, strict=True))

    def drop(self, digest: bytes) -> None:
        """There will be no map of this image."""
        self._maps.pop(digest, None)
        self._seen = {s: d for s, d in self._seen.items() if d != digest}

    def due(self, last: bool) -> bool:
        """At the end of a block: whether the maps so far become a file. All must be there."""
        return 2 * len(self._maps) >= self.block or (last and bool(self._maps))

    def end_block(self, last: bool) -> None:
        """Write what is due; `last`: of this run's blocks."""
        if self.due(last):
            digests, maps = list(self._maps), [m for m in self._maps.values() if m is not None]
            save(self.folder / MAPS, self._rows(digests, np.stack(maps)), self._draft)
            self._contents.add(digests)
            self._maps = {}
            self._journal.clear()
        if 2 * len(self._seen) >= self.block or (last and self._seen):
            rows = np.empty(len(self._seen), SEEN_TYPE)
            rows["sighting"], rows["digest"] = stack(self._seen), stack(self._seen.values())
            save(self.folder / SEEN, rows, self._draft)
            self._sightings.add(list(self._seen))
            self._seen = {}

    def close(self, done: bool) -> None:
        """Let other runs in. `done`: all blocks are; then damaged files have been replaced, and
        what was not is of no use to anybody."""
        if done:
            for file in self.cache.damaged:
                kind = self._type if file.parent.name == MAPS else SEEN_TYPE
                if file.is_file() and load(file, kind) is None:
                    file.unlink()
        self._draft.unlink(missing_ok=True)
        self._journal.close(remove=done)

    def _rows(self, digests: Sequence[bytes], maps: NDArray[np.uint8]) -> Rows:
        rows = np.empty(len(digests), self._type)
        rows["digest"], rows["map"] = stack(digests), maps
        return rows


def journals(folder: Path) -> list[Path]:
    """Of runs that were interrupted, or are at work."""
    return sorted(folder.glob(f"{_JOURNAL}*"))


def size_of(folder: Path) -> int:
    """Bytes of a cache's files."""
    files = (folder / MANIFEST, *files_in(folder / MAPS), *files_in(folder / SEEN))
    return sum(file.stat().st_size for file in files)
