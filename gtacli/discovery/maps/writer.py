"""Write maps to a cache so that its files do not depend on interruptions or the number of runs.

Blocks depend on the list of images only, and run i of n computes the blocks i, i + n, ...; a file
begins and ends with a block; batches never cross files, and a journal stores complete batches; no
file contains a time, a host or a process number.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import DigestSet, ImageFile, stack
from gtacli.discovery.maps.files import (
    MAPS,
    SEEN,
    SEEN_TYPE,
    SHARDS,
    RowArray,
    files_in,
    load,
    maps_type,
    put,
    save,
    write_error,
)
from gtacli.discovery.maps.index import INDEX, MANY_FILES, index_cache
from gtacli.discovery.maps.journal import Journal
from gtacli.discovery.maps.ledger import ShardLedger
from gtacli.discovery.maps.manifest import MANIFEST, MapManifest, check_manifest, read_manifest
from gtacli.discovery.maps.reader import MapCache
from gtacli.discovery.maps.sorted_file import SUFFIX
from gtacli.discovery.maps.table import DamagedIndex
from gtacli.errors import GtaError, RunError, UsageError, errors_about
from gtacli.runtime.drafts import content, draft_name
from gtacli.runtime.ownership import owned

log = logging.getLogger(__name__)
T = TypeVar("T")
MAPS_A_FILE = 4096
BLOCKS = 32  # at least, so that runs can share small datasets, too
_MOST_BLOCKS = 16  # of a stream whose images nearly all have maps, before a file is written
_JOURNAL = "journal-"
_MANY_SECONDS = 60.0  # that several runs of one array job may take to begin one after the other


def block_size(images: int, batch_size: int, shared: bool = False) -> int:
    """Return the number of images per block: complete batches, about 4,096 images at most.

    Args:
        images: number of images; few images give smaller blocks.
        batch_size: of this run.
        shared: several runs share the images; then blocks do not depend on the batch size.
    """
    wanted = min(MAPS_A_FILE, max(1, -(-images // BLOCKS)))
    return wanted if shared else -(-wanted // batch_size) * batch_size


@errors_about("out")
def check_free(folder: Path, manifest: MapManifest | None = None) -> None:
    """Raise UsageError for a folder with other files, or with maps of another manifest."""
    if folder.is_file():
        raise UsageError(f"{folder} is a file")
    if (folder / MANIFEST).is_file():
        if manifest is not None:
            check_manifest(folder, read_manifest(folder), manifest)
    elif folder.is_dir() and any(
        not name.startswith(_JOURNAL) for name in content(p.name for p in folder.iterdir())
    ):
        raise UsageError(f"{folder} is not empty and has no maps; choose another folder")


def remove_cache(folder: Path) -> None:
    """Delete the files of a cache; other files in the folder stay.

    Raises UsageError if a run writes to it.
    """
    if not (folder / MANIFEST).is_file():
        return
    for file in journals(folder):
        with owned(folder, "discover", part=file.name):
            pass
    for name in (MAPS, SEEN, SHARDS, INDEX):
        shutil.rmtree(folder / name, ignore_errors=True)
    for file in (*journals(folder), folder / MANIFEST):
        file.unlink(missing_ok=True)


class MapWriter:
    """A cache to be filled with the maps of a list of images.

    Args:
        folder: of the cache; created if it does not exist.
        manifest: properties of the maps.
        block: images per block; see `block_size`.
        share: (i, n): this is run i of n that share the images.
        overwrite: delete an earlier cache first.

    Raises UsageError for a folder with other files or one that another run writes to, GtaError for
    a folder that cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        manifest: MapManifest,
        block: int,
        share: tuple[int, int] = (0, 1),
        overwrite: bool = False,
    ) -> None:
        self.folder, self.block, self.share = folder, block, share
        self._draft = folder / draft_name()
        self._type = maps_type(manifest.grid)
        # Other runs may work in the folder, but no command begins in it meanwhile.
        patience = _MANY_SECONDS if share[1] > 1 else None
        with owned(folder, "discover", patience=patience, shared=True):
            if overwrite:
                remove_cache(folder)
            self._begin(manifest, f"{share[0]}-of-{share[1]}")
        self._index()
        self.ledger = ShardLedger(folder, self._draft)
        self.cache = MapCache(folder, skip_damaged=True)
        check_manifest(folder, self.cache.manifest, manifest)  # of a run that started meanwhile
        for file in self.cache.damaged:
            log.warning("%s is damaged: its maps are computed again", file)
        maps = {file.stem for file in files_in(folder / MAPS)}
        self.ledger.rely_on(maps - {file.stem for file in self.cache.damaged})
        self._damaged = self.cache.damaged
        self._look_up_in(self.cache)
        self._files = 0  # that this run has written since it looked for those without an index
        self._reopening = threading.Lock()
        self._journaled = {
            row["digest"].tobytes(): row["map"] for b in self._journal.replay() for row in b
        }
        self._maps: dict[bytes, NDArray[np.uint8] | None] = {}
        self._seen: dict[bytes, bytes] = {}
        self._dropped: set[bytes] = set()
        self._passed = 0  # images of shards since the last file

    def _begin(self, manifest: MapManifest, name: str) -> None:
        """Open the journal and write the manifest, if there is none."""
        folder = self.folder
        check_free(folder, manifest)
        try:
            self._journal = Journal(folder / f"{_JOURNAL}{name}", self._type)
            if not (folder / MANIFEST).is_file():
                put(folder / MANIFEST, manifest.text.encode(), self._draft)
        except (OSError, RunError) as error:  # nothing was computed yet
            if hasattr(self, "_journal"):
                self._journal.close(remove=not self._journal.path.stat().st_size)
            cause = write_error(folder, error) if isinstance(error, OSError) else error
            raise GtaError(cause.message, option=cause.option) from error

    def _index(self) -> bool:
        """Index the files without one, if they are many; return whether anything has changed.

        Raises RunError if an index cannot be written.
        """
        try:
            return index_cache(self.folder, self._type["map"].shape, self._draft)
        except OSError as error:
            raise write_error(self.folder / INDEX, error) from error

    def _reopen(self) -> None:
        """Look up in the files of today, instead of the memory of what was added to them."""
        self.cache = MapCache(self.folder, skip_damaged=True)
        self._look_up_in(self.cache)

    def _look_up_in(self, cache: MapCache) -> None:
        self._contents = DigestSet(cache.have)
        self._stamps = DigestSet(cache.have_stamps)

    def _ask(self, question: Callable[[], T]) -> T:
        """Return the answer; where an index is damaged or gone, with the index made again."""
        while True:
            cache = self.cache
            try:
                return question()
            except DamagedIndex as error:
                with self._reopening:
                    if cache is self.cache:  # no other thread has done it
                        log.warning("%s", error)
                        error.path.unlink(missing_ok=True)
                        self._index()
                        self._reopen()

    def blocks(self, images: int) -> list[range]:
        """Return the index ranges of this run's blocks."""
        i, n = self.share
        starts = range(i * self.block, images, n * self.block)
        return [range(start, min(start + self.block, images)) for start in starts]

    def unknown(self, block: Sequence[ImageFile]) -> list[ImageFile]:
        """Return the images of a block that must be read: new, changed, or without a map."""

        def find(cache: MapCache) -> NDArray[np.bool_]:
            digests, done = cache.digests(block)
            done[done] = cache.have(digests[done])
            return done

        done = self._ask(lambda: find(self.cache))
        return [image for image, skip in zip(block, done, strict=True) if not skip]

    def has(self, digest: bytes) -> bool:
        """Return whether an image's map is in a file or in the journal; thread-safe."""
        return digest in self._journaled or self._ask(lambda: digest in self._contents)

    def enter(self, digest: bytes, stamp: bytes | None) -> bool:
        """Register the next image in order; return whether its map must be computed and added."""
        if stamp is not None and not self._ask(lambda: stamp in self._stamps):
            self._seen[stamp] = digest
        if digest in self._maps or self._ask(lambda: digest in self._contents):
            return False
        self._maps[digest] = self._journaled.get(digest)
        return self._maps[digest] is None

    def add(self, digests: Sequence[bytes], maps: NDArray[np.uint8]) -> None:
        """Store a batch of maps (n, gh, gw); it survives an interruption from now on."""
        self._journal.append(self._rows(digests, maps))
        self._maps.update(zip(digests, maps, strict=True))
        self._dropped.difference_update(digests)

    def drop(self, digest: bytes) -> None:
        """Remove an image whose map could not be computed."""
        self._maps.pop(digest, None)
        self._dropped.add(digest)

    def due(self, last: bool) -> bool:
        """Return whether the maps so far are written to a file at the end of a block."""
        late = last or self._passed >= _MOST_BLOCKS * self.block
        return 2 * len(self._maps) >= self.block or (late and bool(self._maps))

    def due_after(self, images: int, last: bool) -> bool:
        """Return whether a file is written at the end of a part of a stream.

        Args:
            images: of the part.
            last: whether it is this run's last one.
        """
        self._passed += images
        return self.due(last)

    def end_part(self, last: bool, shard: str | None = None, size: int = 0) -> None:
        """Like `end_block`, but in a stream of shards: after some images, or at a shard's end.

        Args:
            shard: the state of a shard that is done: each of its images has a map.
            size: number of its images.
        """
        if shard is not None:
            self.ledger.add(shard, size)
        self.end_block(last)
        if not self._maps and (last or self.ledger.waiting >= self.block):
            self.ledger.write()

    def end_block(self, last: bool) -> None:
        """Write the maps of finished blocks to a file if `due`; `last`: this run's last block."""
        if self.due(last):
            digests, maps = list(self._maps), [m for m in self._maps.values() if m is not None]
            file = save(self.folder / MAPS, self._rows(digests, np.stack(maps)), self._draft)
            self.ledger.rely_too(file.stem)
            self._passed = 0
            self._contents.add(digests)
            self._maps = {}
            self._journal.clear()
            self._files += 1
            if self._files == MANY_FILES:
                self._files = 0
                if self._index():
                    self._reopen()
        if 2 * len(self._seen) >= self.block or (last and self._seen):
            self._save_seen()

    def _save_seen(self) -> None:
        """Write which images have which maps, without those that were dropped."""
        seen = {s: digest for s, digest in self._seen.items() if digest not in self._dropped}
        if seen:
            rows = np.empty(len(seen), SEEN_TYPE)
            rows["sighting"], rows["digest"] = stack(seen), stack(seen.values())
            save(self.folder / SEEN, rows, self._draft)
            self._stamps.add(list(seen))
        self._seen, self._dropped = {}, set()

    def close(self, done: bool) -> None:
        """Close the cache for this run.

        Args:
            done: all blocks are finished; then damaged files have been replaced and are deleted.
        """
        if done:
            for file in self._damaged:
                dtype = self._type if file.parent.name == MAPS else SEEN_TYPE
                if file.is_file() and load(file, dtype) is None:
                    file.unlink()
        self._draft.unlink(missing_ok=True)
        self._journal.close(remove=done)

    def _rows(self, digests: Sequence[bytes], maps: NDArray[np.uint8]) -> RowArray:
        rows = np.empty(len(digests), self._type)
        rows["digest"], rows["map"] = stack(digests), maps
        return rows


def journals(folder: Path) -> list[Path]:
    """List the journal files of interrupted or running jobs."""
    return sorted(folder.glob(f"{_JOURNAL}*"))


def size_of(folder: Path) -> int:
    """Return the size of a cache's files in bytes."""
    files = [folder / MANIFEST]
    files += (file for name in (MAPS, SEEN, SHARDS) for file in files_in(folder / name))
    files += (folder / INDEX).rglob(f"*{SUFFIX}")
    return sum(file.stat().st_size for file in files)
