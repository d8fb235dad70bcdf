"""A cache of image features on disk, shared by all feature probes and mapped into memory.

Extraction works in blocks of images, so that it can be resumed and shared among processes; only one
block is in memory. See `files` for the contents of the folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gtacli.data.base import Record, label_text
from gtacli.data.labels import label_tensor
from gtacli.errors import GtaError, RunError, UsageError
from gtacli.images.decode import ImageError, decode
from gtacli.images.depth import reading
from gtacli.images.packed import PackedImage
from gtacli.inference.features import FeatureExtractor
from gtacli.inference.stream import Failure
from gtacli.models.feature_columns import FeatureColumn
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.files import (
    FeatureKey,
    FeatureTable,
    block_file,
    is_block,
    merge_blocks,
    read_column,
    write_block,
)
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.ownership import locked_parts, owned, remove_dead_lock
from gtacli.runtime.prefetch import ahead_in_blocks

log = logging.getLogger(__name__)
BLOCK_SIZE = 4096
"""Most images of a block, which are lost if a run is killed."""
BLOCKS = 32
"""Fewest blocks, so that processes can share a small dataset too."""
WAIT_SECONDS = 30.0
"""Time after which the processes of a run exchange that they wait for another command."""
ProgressBar = Callable[[int], AbstractContextManager[Callable[[int], object]]]
"""Given the total, a context that yields a function to call with each further count."""


@dataclass(frozen=True)
class Features:
    """A model's features of images, with their labels.

    Attributes:
        columns: each fp32 (n, C), mapped from a file.
        labels: int64 (n,), or (n, M) of any number per image, see `gtacli.data.labels`.
        keys: of the images, in the order of the records.
        skipped: keys of images that cannot be read, with the reason.
    """

    columns: dict[FeatureColumn, Tensor]
    labels: Tensor
    keys: tuple[str, ...]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def values(self) -> Tensor:
        """The columns side by side, (n, C); a single column stays mapped, not in memory."""
        columns = [*self.columns.values()]
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)

    def select(self, columns: Iterable[FeatureColumn]) -> Features:
        """Return some of the columns for the same images."""
        chosen = {column: self.columns[column] for column in columns}
        return Features(chosen, self.labels, self.keys, self.skipped)


class FeatureCache:
    """A folder of cached features.

    Args:
        folder: created when the first features are written.
        batch_size, threads: of `FeatureExtractor`.
        processes: that share the work and the folder.
    """

    def __init__(
        self,
        folder: Path,
        compute: Compute,
        batch_size: int = 256,
        threads: int | None = None,
        processes: Processes = ALONE,
        progress: ProgressBar = lambda total: nullcontext(lambda images: None),
    ) -> None:
        self.folder, self.compute, self.processes = folder, compute, processes
        self.batch_size, self.threads, self.progress = batch_size, threads, progress
        self._fingerprints: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        # With the records, so that no other tuple can get the same id.
        self._data: dict[int, tuple[tuple[Record, ...], str]] = {}

    def features(
        self, model: LoadedModel, records: Sequence[Record], columns: Sequence[FeatureColumn]
    ) -> Features:
        """Return a model's features of images; extract columns that are not cached, in one pass.

        Raises RunError if values are not finite or cannot be written, GtaError if no image can be
        read.
        """
        records = tuple(records)
        keys = self._keys(model, records, columns)
        found, missing = self._find(records, keys)
        if missing:
            with self.owned([keys[column] for column in missing]):
                found, missing = self._find(records, keys)  # another command may have been first
                if missing:
                    self._extract(model, records, {column: keys[column] for column in missing})
                    found |= {column: self._open(keys[column]) for column in missing}
        self.processes.run_on_main(lambda: self._remove_blocks(keys.values()))
        return _join_columns(records, found)

    def keys(
        self, model: LoadedModel, records: Sequence[Record], columns: Sequence[FeatureColumn]
    ) -> list[FeatureKey]:
        """Return the cache keys of columns."""
        return [*self._keys(model, tuple(records), columns).values()]

    def missing(
        self, model: LoadedModel, records: Sequence[Record], columns: Sequence[FeatureColumn]
    ) -> list[FeatureColumn]:
        """Return the columns that must be extracted."""
        records = tuple(records)
        return self._find(records, self._keys(model, records, columns))[1]

    def write_part(
        self,
        model: LoadedModel,
        records: Sequence[Record],
        columns: Sequence[FeatureColumn],
        part: tuple[int, int],
    ) -> None:
        """Extract the i-th of n parts (i, n) of what is missing, for who merges all of them."""
        records = tuple(records)
        keys = self._keys(model, records, columns)
        if missing := self._find(records, keys)[1]:
            self._write_blocks(model, records, {c: keys[c] for c in missing}, *part)

    def _find(
        self, records: tuple[Record, ...], keys: dict[FeatureColumn, FeatureKey]
    ) -> tuple[dict[FeatureColumn, FeatureTable | None], list[FeatureColumn]]:
        """Return the columns' files, and those columns that must be extracted."""
        found = {column: self._open(key) for column, key in keys.items()}
        # Every process must find the same files before one of them writes some.
        missing = self.processes.run_on_main(lambda: _missing_columns(records, found))
        return found, missing

    @contextmanager
    def owned(self, keys: Sequence[FeatureKey]) -> Iterator[None]:
        """Let no other command write these files inside; wait until it has done so."""
        with ExitStack() as stack:
            # In the order of their names, so that no two commands wait for each other.
            for digest in sorted({key.digest for key in keys}):
                waiting = False
                while holder := self.processes.run_on_main(partial(self._own, stack, digest)):
                    if not waiting and self.processes.is_main:
                        log.info("waiting for the same features: %s", holder)
                    waiting = True
            yield

    def _own(self, stack: ExitStack, digest: str) -> str | None:
        """Own a file; return None, or who else does: all processes of a run wait in turns."""
        try:
            stack.enter_context(
                owned(self.folder, "probe", part=digest, option="cache", patience=WAIT_SECONDS)
            )
        except UsageError as error:
            return error.message.partition(";")[0]
        return None

    def _remove_blocks(self, keys: Iterable[FeatureKey]) -> None:
        """Remove the blocks and locks of whole files, which a command that was killed has left."""
        for key in keys:
            folder = self.folder / key.digest
            if folder.is_dir():
                # Unless another command works there, or nobody may write.
                with suppress(GtaError), owned(self.folder, "probe", key.digest, patience=0):
                    shutil.rmtree(folder, ignore_errors=True)
            for part in locked_parts(self.folder, key.digest):  # also those of parts
                remove_dead_lock(self.folder, part)

    def _keys(
        self,
        model: LoadedModel,
        records: tuple[Record, ...],
        columns: Sequence[FeatureColumn],
    ) -> dict[FeatureColumn, FeatureKey]:
        return {column: self._key(model, records, column) for column in columns}

    def _key(
        self, model: LoadedModel, records: tuple[Record, ...], column: FeatureColumn
    ) -> FeatureKey:
        if model.model not in self._fingerprints:
            self._fingerprints[model.model] = fingerprint(model.model)
        if id(records) not in self._data:
            self._data[id(records)] = (records, data_digest(records, self.threads))
        return FeatureKey(
            model=model.spec,
            fingerprint=self._fingerprints[model.model],
            image_size=model.image_size,
            mean=tuple(model.mean),
            std=tuple(model.std),
            precision=str(self.compute.dtype).removeprefix("torch."),
            layer=column.layer,
            pool=column.pool,
            data=self._data[id(records)][1],
        )

    def _open(self, key: FeatureKey) -> FeatureTable | None:
        path = self.folder / f"{key.digest}.safetensors"
        try:
            table = read_column(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("%s is damaged (%s): extracting its features again", path, error)
            return None
        if table.key.digest != key.digest:
            log.warning("%s holds other features: extracting them again", path)
            return None
        return table

    def _extract(
        self,
        model: LoadedModel,
        records: tuple[Record, ...],
        keys: dict[FeatureColumn, FeatureKey],
    ) -> None:
        processes = self.processes
        count = self._write_blocks(model, records, keys, processes.rank, processes.size)
        processes.gather(0)  # wait until all blocks are written
        processes.run_on_main(lambda: self._merge(records, keys, count))

    def _write_blocks(
        self,
        model: LoadedModel,
        records: tuple[Record, ...],
        keys: dict[FeatureColumn, FeatureKey],
        part: int,
        parts: int,
    ) -> int:
        """Write every block of a part that is not there; return the number of all blocks."""
        size, count = _block_size(len(records)), count_blocks(len(records))
        folders = {column: self.folder / key.digest for column, key in keys.items()}
        mine = [
            number
            for number in range(part, count, parts)
            if not all(is_block(block_file(folder, number)) for folder in folders.values())
        ]
        extractor = FeatureExtractor(model, [*keys], self.compute, self.batch_size, self.threads)
        rows = [range(n * size, min((n + 1) * size, len(records))) for n in mine]
        features = extractor(records[row] for block in rows for row in block)
        with self.progress(sum(map(len, rows))) as advance:
            for number, block in zip(mine, rows, strict=True):
                extracted, skipped = [], {}
                for row in block:
                    one = next(features)
                    if isinstance(one, Failure):
                        skipped[row] = one.error
                    else:
                        extracted.append((row, one))
                    advance(1)
                for i, folder in enumerate(folders.values()):
                    write_block(block_file(folder, number), extracted, i, skipped)
        return count

    def _merge(
        self, records: tuple[Record, ...], keys: dict[FeatureColumn, FeatureKey], count: int
    ) -> None:
        for column, key in keys.items():
            folder = self.folder / key.digest
            blocks = [block_file(folder, number) for number in range(count)]
            try:
                merge_blocks(self.folder / f"{key.digest}.safetensors", blocks, key, records)
            except (OSError, SafetensorError, ValueError) as error:
                raise RunError(f"cannot read the features in {folder} ({error})") from error
            log.debug("features %s of %s are cached as %s", column, key.model, key.digest)


def count_blocks(images: int) -> int:
    """Return the number of blocks of so many images, the most parts that have some."""
    return -(-images // _block_size(images))


def _block_size(images: int) -> int:
    return min(BLOCK_SIZE, max(1, -(-images // BLOCKS)))


def data_digest(records: Sequence[Record], threads: int | None = None) -> str:
    """Hash the images' keys, labels, sizes and modification times, in their order.

    Size and time of a packed image are those of the file that holds it.
    """
    digest = hashlib.sha256(reading().encode())
    for line in ahead_in_blocks(_line, records, threads):
        digest.update(line)
    return digest.hexdigest()


def _line(record: Record) -> bytes:
    text = f"{record.key}\0{label_text(record)}\0{_stamp(record)}\n"
    return text.encode("utf-8", "surrogateescape")


def _stamp(record: Record) -> str:
    try:
        if isinstance(record.path, PackedImage):
            return f"{record.path.stamp()} {record.path.state()}"
        stat = os.stat(record.path)
    except OSError:
        return "gone"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _missing_columns(
    records: Sequence[Record], found: dict[FeatureColumn, FeatureTable | None]
) -> list[FeatureColumn]:
    """List the columns to extract: not cached, or without an image that is readable now.

    The file of such an image may be unchanged (a disk error, missing permissions).
    """
    skipped = {row for table in found.values() if table is not None for row in table.skipped}
    back = {row for row in skipped if _is_readable(records[row])}
    return [c for c, table in found.items() if table is None or back & table.skipped.keys()]


def _is_readable(record: Record) -> bool:
    try:
        decode(record.source)
    except ImageError:
        return False
    return True


def _join_columns(
    records: Sequence[Record], found: dict[FeatureColumn, FeatureTable | None]
) -> Features:
    """Restrict columns that were extracted at different times to the images that all of them have.

    An image may have been readable at one time and not at another.
    """
    tables = {column: table for column, table in found.items() if table is not None}
    assert len(tables) == len(found)
    rows = next(iter(tables.values())).rows
    for table in tables.values():
        rows = rows[torch.isin(rows, table.rows)]
    skipped = {row: reason for table in tables.values() for row, reason in table.skipped.items()}
    if not len(rows):
        reason = next(iter(skipped.values()), "there are none")
        raise GtaError(f"no image can be read: {reason}")
    readable = [records[row] for row in rows.tolist()]
    return Features(
        {column: table.select(rows) for column, table in tables.items()},
        label_tensor(readable),
        tuple(record.key for record in readable),
        {records[row].key: reason for row, reason in sorted(skipped.items())},
    )
