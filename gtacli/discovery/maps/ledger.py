"""The shards whose maps are all in the cache, so that a finished shard is not read again.

A shard is known by a digest of its place and state (size and times of a file; ETag, time and length
of a URL): a changed one is another one. Each file of the ledger also names the files of maps that
its shards rely on. Where one of these is missing or damaged, or a file of the ledger is, all of the
ledger is dropped and the shards are read again; what has a map is not computed again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np

from gtacli.discovery.maps.digests import SIZE, DigestTable, digest, stack
from gtacli.discovery.maps.files import SHARDS, RowArray, files_in, load, save

log = logging.getLogger(__name__)
_TYPE = np.dtype([("kind", np.uint8), ("digest", np.uint8, SIZE), ("images", "<u8")])
_SHARD, _MAPS = 0, 1
_ATTEMPTS = 8


class ShardLedger:
    """The finished shards of a cache.

    Args:
        folder: of the cache. The ledger must be opened before the maps are listed, since another
            run may write both meanwhile, the maps first.
        draft: temporary file of this process on the same disk.

    Attributes:
        waiting: images of the shards that are not written yet.
    """

    def __init__(self, folder: Path, draft: Path) -> None:
        self.folder, self._draft = folder / SHARDS, draft
        self._loaded = _load_all(self.folder)
        self.waiting = 0
        self._new: list[tuple[bytes, int]] = []
        self._relied: set[str] = set()
        self._table, self._images = DigestTable(stack(())), np.zeros(0, np.uint64)

    def rely_on(self, maps: Collection[str]) -> None:
        """Read the ledger, if all files of maps that it relies on are among `maps`, by hash."""
        self._relied = set(maps)
        loaded, self._loaded = self._loaded, []
        rows: list[RowArray] = [one for one in loaded if one is not None]
        relied = {r.tobytes().hex() for part in rows for r in part["digest"][part["kind"] == _MAPS]}
        if len(rows) == len(loaded) and relied <= set(maps):
            shards = [part[part["kind"] == _SHARD] for part in rows]
            digests = [np.zeros((0, SIZE), np.uint8), *(part["digest"] for part in shards)]
            self._table = DigestTable(np.concatenate(digests))
            self._images = np.concatenate([self._images, *(part["images"] for part in shards)])
        elif loaded:
            log.info("maps of finished shards are missing or damaged: all shards are read again")
            shutil.rmtree(self.folder, ignore_errors=True)

    def find(self, state: str) -> int | None:
        """Return the number of images of a finished shard; None for another one."""
        row = int(self._table.find(stack([_key(state)]))[0])
        return None if row < 0 else int(self._images[row])

    def add(self, state: str, images: int) -> None:
        """Note a shard whose maps are all computed; it counts once it is written."""
        self._new.append((_key(state), images))
        self.waiting += images

    def drop(self) -> None:
        """Forget the shards that are not written yet."""
        self._new, self.waiting = [], 0

    def rely_too(self, maps: str) -> None:
        """Note a file of maps that was written, by its hash."""
        self._relied.add(maps)

    def write(self) -> None:
        """Write the shards noted so far, whose maps must be in files by now."""
        if not self._new:
            return
        rows = np.zeros(len(self._new) + len(self._relied), _TYPE)
        rows["kind"][len(self._new) :] = _MAPS
        relied = map(bytes.fromhex, sorted(self._relied))
        rows["digest"] = stack([*(key for key, _ in self._new), *relied])
        rows["images"][: len(self._new)] = [images for _, images in self._new]
        save(self.folder, rows, self._draft)
        self.drop()
        self._relied = set()


def join_ledger(folder: Path, draft: Path) -> None:
    """Replace the files of a cache's ledger by one, which says what they say.

    A damaged file stays, and with it the others: `ShardLedger.rely_on` decides what it means.
    """
    files = files_in(folder / SHARDS)
    loaded = [load(file, _TYPE) for file in files]
    rows = [one for one in loaded if one is not None]
    if len(rows) < len(files) or len(rows) < 2:
        return
    joined = save(folder / SHARDS, np.unique(np.concatenate(rows)), draft)
    for file in files:
        if file != joined:
            file.unlink(missing_ok=True)


def _load_all(folder: Path) -> list[RowArray | None]:
    """Return the content of each file, copied; None for a damaged one."""
    for _ in range(_ATTEMPTS):
        files = files_in(folder)
        loaded = [None if (rows := load(f, _TYPE)) is None else rows.copy() for f in files]
        if all(file.exists() for file in files):  # else they were joined meanwhile
            break
    return loaded


def _key(state: str) -> bytes:
    return digest(state.encode(errors="surrogateescape"))
