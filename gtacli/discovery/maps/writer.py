"""Write maps to a cache so that its files do not depend on interruptions or the number of runs.

Blocks depend on the list of images only, and run i of n computes the blocks i, i + n, ...; a file
begins and ends with a block; no file contains a time, a host or a process number. Batches may cross
blocks: a file is written once the last of its maps is there, and until then a journal stores the
batches, so that those of a run which continues are composed as those of an undisturbed one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import ImageFile, stack
from gtacli.discovery.maps.files import (
    MAPS,
    SEEN,
    SEEN_TYPE,
    RowArray,
    files_in,
    load,
    maps_type,
    put,
    save,
    write_error,
)
from gtacli.discovery.maps.folder import (
    JOURNAL,
    check_free,
    journal_name,
    journals,
    remove_cache,
)
from gtacli.discovery.maps.journal import Journal
from gtacli.discovery.maps.known import KnownImages
from gtacli.discovery.maps.ledger import ShardLedger
from gtacli.discovery.maps.manifest import MANIFEST, MapManifest
from gtacli.errors import GtaError, RunError, UsageError
from gtacli.runtime.drafts import draft_name
from gtacli.runtime.ownership import is_owned, locked_parts, owned

log = logging.getLogger(__name__)
MAPS_A_FILE = 4096
BLOCKS = 32  # at least, so that runs can share small datasets, too
_LEAST = 8  # images of a block: of the smallest datasets not every image makes a file
_MOST_BLOCKS = 16  # of a stream whose images nearly all have maps, before a file is written
_MANY_SECONDS = 60.0  # that several runs of one array job may take to begin one after the other


def block_size(images: int) -> int:
    """Return the number of images per block, 8 to 4,096; few images give smaller blocks."""
    return min(MAPS_A_FILE, max(_LEAST, -(-images // BLOCKS)))


@dataclass
class _Files:
    """Files that are written once all their maps are there.

    Attributes:
        digests: of the images whose maps make a file; none: there is no file of maps.
        seen: stamps and digests of the other file.
        shards: states and sizes of the shards that are done with these maps.
        done: number of the first digests whose maps are known to be there.
    """

    digests: list[bytes]
    seen: dict[bytes, bytes]
    shards: list[tuple[str, int]]
    done: int = 0


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
            self._begin(manifest)
        self._waiting = waiting = deque[_Files]()

        def on_the_way() -> Iterator[bytes]:  # without `self`, which would be in a circle
            return chain.from_iterable(files.seen for files in waiting)

        self._known = KnownImages(folder, manifest, self._draft, on_the_way)
        self._damaged = self._known.cache.damaged
        for file in self._damaged:
            log.warning("%s is damaged: its maps are computed again", file)
        self.ledger = ShardLedger(folder, self._draft)
        maps = {file.stem for file in files_in(folder / MAPS)}
        self.ledger.rely_on(maps - {file.stem for file in self._damaged})
        # Maps that are in the journal, and in no file.
        self._maps: dict[bytes, NDArray[np.uint8]] = {}
        for rows in self._journal.replay():
            self._take(rows)
        if share == (0, 1):
            self._adopt_journals()
        self._entered: set[bytes] = set()  # images of this run that are in no file
        self._dropped: set[bytes] = set()
        # Images, sightings and shards since the last block with which files end, in order.
        self._block: dict[bytes, None] = {}
        self._seen: dict[bytes, bytes] = {}
        self._shards: list[tuple[str, int]] = []
        self._passed = 0  # images of shards since the last file
        self._last = False

    def _begin(self, manifest: MapManifest) -> None:
        """Open the journal and write the manifest, if there is none."""
        folder, name = self.folder, journal_name(self.share)
        check_free(folder, manifest)
        try:
            self._journal = Journal(folder / name, self._type)
            if not (folder / MANIFEST).is_file():
                put(folder / MANIFEST, manifest.text.encode(), self._draft)
        except (OSError, RunError) as error:  # nothing was computed yet
            if hasattr(self, "_journal"):
                self._journal.close(remove=not self._journal.path.stat().st_size)
            cause = write_error(folder, error) if isinstance(error, OSError) else error
            raise GtaError(cause.message, option=cause.option) from error

    def _take(self, rows: RowArray) -> None:
        """Take over maps of a journal that are in no file."""
        for row in rows:
            digest = row["digest"].tobytes()
            if not self.has(digest):
                self._maps[digest] = row["map"]

    def _adopt_journals(self) -> None:
        """Take over the journals of ended runs that shared the images; this run shares nothing."""
        locked = locked_parts(self.folder, JOURNAL)
        for name in sorted({*locked, *(path.name for path in journals(self.folder))}):
            if name == self._journal.path.name or is_owned(self.folder, name):
                continue
            with suppress(UsageError):  # it has an owner since
                other = Journal(self.folder / name, self._type, patience=0)
                for rows in other.replay():
                    self._journal.append(rows)
                    self._take(rows)
                other.close(remove=True)

    def blocks(self, images: int) -> list[range]:
        """Return the index ranges of this run's blocks."""
        i, n = self.share
        starts = range(i * self.block, images, n * self.block)
        return [range(start, min(start + self.block, images)) for start in starts]

    def unknown(self, block: Sequence[ImageFile]) -> list[ImageFile]:
        """Return the images of a block that must be read: new, changed, or without a map."""
        return self._known.without_map(block)

    def has(self, digest: bytes) -> bool:
        """Return whether an image's map is in a file or in the journal; thread-safe."""
        return digest in self._maps or self._known.has(digest)

    def enter(self, digest: bytes, stamp: bytes | None) -> bool:
        """Register the next image in order; return whether its map must be computed and added."""
        if stamp is not None and not self._known.has_stamp(stamp):
            self._seen[stamp] = digest
        if digest in self._entered or self._known.has(digest):
            return False
        self._entered.add(digest)
        self._block[digest] = None
        return digest not in self._maps

    def add(self, digests: Sequence[bytes], maps: NDArray[np.uint8]) -> None:
        """Store a batch of maps (n, gh, gw); it survives an interruption from now on."""
        self._journal.append(self._rows(digests, maps))
        self._maps.update(zip(digests, maps, strict=True))
        self._dropped.difference_update(digests)
        self._write_complete()

    def drop(self, digest: bytes) -> None:
        """Remove an image whose map could not be computed; no shard whose end waits is done."""
        self._entered.discard(digest)
        self._dropped.add(digest)
        for shards in (self._shards, *(files.shards for files in self._waiting)):
            shards.clear()
        self._write_complete()

    def end_part(self, images: int, last: bool, shard: str | None = None, size: int = 0) -> bool:
        """Like `end_block`, but in a stream of shards: after some images, or at a shard's end.

        Args:
            images: of the part.
            shard: the state of a shard that is done once the maps of all images so far are there.
            size: number of its images.
        """
        self._passed += images
        if shard is not None:
            self._shards.append((shard, size))
        return self.end_block(last)

    def end_block(self, last: bool) -> bool:
        """Let a file end with this block if enough images are new.

        Args:
            last: this is the run's last block.

        Returns: whether the maps that are missing must be computed now, as nothing else follows or
            the images before were too many to be read again after an interruption.
        """
        late = last or self._passed >= _MOST_BLOCKS * self.block
        ends = 2 * len(self._block) >= self.block or (late and bool(self._block))
        seen = self._seen if 2 * len(self._seen) >= self.block or last else {}
        if ends or seen:
            self._waiting.append(_Files([*self._block] if ends else [], seen, []))
        if seen:
            self._known.add_stamps([*seen])
            self._seen = {}
        if ends:
            self._block, self._passed = {}, 0
        if not self._block and self._waiting:
            self._waiting[-1].shards += self._shards
            self._shards = []
        self._last = last
        self._write_complete()
        return late

    def _write_complete(self) -> None:
        """Write the files whose maps are all there, in order."""
        while self._waiting and self._is_complete(self._waiting[0]):
            self._write(self._waiting.popleft())
        if not self._waiting and not self._block:
            self._finish_shards(self._shards)
            self._shards = []
            if self._last:
                self.ledger.write()

    def _is_complete(self, files: _Files) -> bool:
        while files.done < len(files.digests):
            digest = files.digests[files.done]
            if digest in self._entered and digest not in self._maps:
                return False
            files.done += 1
        return True

    def _write(self, files: _Files) -> None:
        digests = [one for one in files.digests if one in self._maps]
        if digests:
            rows = self._rows(digests, [self._maps[one] for one in digests])
            self.ledger.rely_too(save(self.folder / MAPS, rows, self._draft).stem)
            self._known.add_file(digests)  # before other threads no longer find them in `_maps`
            self._entered.difference_update(digests)
            for one in digests:
                del self._maps[one]
            self._journal.clear(self._journaled())
        seen = {stamp: one for stamp, one in files.seen.items() if one not in self._dropped}
        if seen:
            rows = np.empty(len(seen), SEEN_TYPE)
            rows["sighting"], rows["digest"] = stack(seen), stack(seen.values())
            save(self.folder / SEEN, rows, self._draft)
        self._finish_shards(files.shards)

    def _finish_shards(self, shards: Iterable[tuple[str, int]]) -> None:
        """Note shards whose maps are all in files."""
        for state, size in shards:
            self.ledger.add(state, size)
        if self.ledger.waiting >= self.block:
            self.ledger.write()

    def close(self, done: bool) -> None:
        """Close the cache for this run.

        Args:
            done: all blocks are finished; then damaged files have been replaced and are deleted.
        """
        if done:
            if self._maps:  # of images that this run was not given
                save(self.folder / MAPS, self._journaled(), self._draft)
            for file in self._damaged:
                dtype = self._type if file.parent.name == MAPS else SEEN_TYPE
                if file.is_file() and load(file, dtype) is None:
                    file.unlink()
        self._draft.unlink(missing_ok=True)
        self._journal.close(remove=done)

    def _journaled(self) -> RowArray:
        """Return the maps that are in the journal and in no file."""
        return self._rows([*self._maps], [*self._maps.values()])

    def _rows(
        self, digests: Sequence[bytes], maps: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
    ) -> RowArray:
        rows = np.empty(len(digests), self._type)
        if digests:
            rows["digest"], rows["map"] = stack(digests), maps
        return rows
