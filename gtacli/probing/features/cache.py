"""Features of images by a network: made once, kept on disk, mapped into memory by every task.

Blocks of images make it resumable and let processes share the work; in memory is one block,
however many images. See `feature_files` for what is in the folder.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gtacli.data.base import Record
from gtacli.errors import GtaError, RunError
from gtacli.images.decode import ImageError, decode
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.columns import Column
from gtacli.probing.features.extraction import Extractor
from gtacli.probing.features.files import (
    FeatureKind,
    Stored,
    block_file,
    is_block,
    merge_blocks,
    read_column,
    write_block,
)
from gtacli.runtime.batching import chunks
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.prefetch import ahead

log = logging.getLogger(__name__)
MOST = 4096
"""Images a block at most: what a killed run loses."""
BLOCKS = 32
"""At least, so that processes can share a small set, too."""
Progress = Callable[[int], AbstractContextManager[Callable[[int], object]]]
"""Of a number of images, a context that gives `advance(images)`."""


@dataclass(frozen=True)
class Features:
    """Attributes:
    columns: each fp32 (n, C), mapped from a file.
    labels: int64 (n,).
    keys: of the images, in the order of the records.
    skipped: keys of images that cannot be read, and why.
    """

    columns: dict[Column, Tensor]
    labels: Tensor
    keys: tuple[str, ...]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def values(self) -> Tensor:
        """(n, C): the columns side by side; one alone is still mapped and not in memory."""
        columns = [*self.columns.values()]
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)

    def of(self, columns: Iterable[Column]) -> Features:
        """The same images with some of the columns."""
        chosen = {column: self.columns[column] for column in columns}
        return Features(chosen, self.labels, self.keys, self.skipped)


class FeatureCache:
    """A folder of features.

    Args:
        folder: made when something is kept there.
        batch_size, threads: of `Extractor`.
        processes: that share the work; the folder is one for all of them.
    """

    def __init__(
        self,
        folder: Path,
        compute: Compute,
        batch_size: int = 256,
        threads: int | None = None,
        processes: Processes = ALONE,
        progress: Progress = lambda total: nullcontext(lambda images: None),
    ) -> None:
        self.folder, self.compute, self.processes = folder, compute, processes
        self.batch_size, self.threads, self.progress = batch_size, threads, progress
        self._fingerprints: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._data: dict[int, tuple[tuple[Record, ...], str]] = {}  # kept, so that ids stay theirs

    def features(
        self, model: LoadedModel, records: Sequence[Record], columns: Sequence[Column]
    ) -> Features:
        """Columns of a network for images; what is not in the folder is made, in one pass.

        Raises RunError where values are not finite or nothing can be written, GtaError where no
        image can be read.
        """
        records = tuple(records)
        kinds = {column: self._kind(model, records, column) for column in columns}
        found = {column: self._open(kind) for column, kind in kinds.items()}
        # Every process must see the same files before one of them makes some.
        missing = self.processes.run_on_main(lambda: _missing(records, found))
        if missing:
            self._make(model, records, {column: kinds[column] for column in missing})
            found |= {column: self._open(kinds[column]) for column in missing}
        return _together(records, found)

    def _kind(self, model: LoadedModel, records: tuple[Record, ...], column: Column) -> FeatureKind:
        if model.model not in self._fingerprints:
            self._fingerprints[model.model] = fingerprint(model.model)
        if id(records) not in self._data:
            self._data[id(records)] = (records, data_digest(records, self.threads))
        return FeatureKind(
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

    def _open(self, kind: FeatureKind) -> Stored | None:
        path = self.folder / f"{kind.digest}.safetensors"
        try:
            stored = read_column(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is damaged (%s): its features are made again", path, error)
            return None
        if stored.kind.digest != kind.digest:
            log.warning("%s holds other features: they are made anew", path)
            return None
        return stored

    def _make(
        self, model: LoadedModel, records: tuple[Record, ...], kinds: dict[Column, FeatureKind]
    ) -> None:
        size = min(MOST, max(1, -(-len(records) // BLOCKS)))
        count = -(-len(records) // size)
        folders = {column: self.folder / kind.digest for column, kind in kinds.items()}
        mine = [
            number
            for number in range(self.processes.rank, count, self.processes.size)
            if not all(is_block(block_file(folder, number)) for folder in folders.values())
        ]
        extractor = Extractor(model, [*kinds], self.compute, self.batch_size, self.threads)
        rows = [range(n * size, min((n + 1) * size, len(records))) for n in mine]
        described = extractor(records[row] for block in rows for row in block)
        with self.progress(sum(map(len, rows))) as advance:
            for number, block in zip(mine, rows, strict=True):
                made, skipped = [], {}
                for row in block:
                    one = next(described)
                    if isinstance(one, str):
                        skipped[row] = one
                    else:
                        made.append((row, one))
                    advance(1)
                for i, folder in enumerate(folders.values()):
                    write_block(block_file(folder, number), made, i, skipped)
        self.processes.gather(0)  # all blocks are there
        self.processes.run_on_main(lambda: self._merge(records, kinds, count))

    def _merge(
        self, records: tuple[Record, ...], kinds: dict[Column, FeatureKind], count: int
    ) -> None:
        for column, kind in kinds.items():
            folder = self.folder / kind.digest
            blocks = [block_file(folder, number) for number in range(count)]
            try:
                merge_blocks(self.folder / f"{kind.digest}.safetensors", blocks, kind, records)
            except (OSError, SafetensorError) as error:
                # Another command that makes the same features has merged them and taken them away.
                if self._open(kind) is None:
                    raise RunError(f"features: cannot read {folder} ({error})") from error
            shutil.rmtree(folder, ignore_errors=True)
            log.debug("features %s of %s are kept as %s", column, kind.model, kind.digest)


def data_digest(records: Sequence[Record], threads: int | None = None) -> str:
    """Over the images' keys, labels, sizes and times of change, in their order; of packed images
    those of the file that they lie in."""
    digest = hashlib.sha256()
    # In threads: on a network file system each file waits for an answer.
    for lines in ahead(_stamps, chunks(records, 256), 64, threads):
        digest.update(lines)
    return digest.hexdigest()


def _stamps(records: Sequence[Record]) -> bytes:
    lines = (f"{record.key}\0{record.label}\0{_stamp(record)}\n" for record in records)
    return "".join(lines).encode("utf-8", "surrogateescape")


def _stamp(record: Record) -> str:
    try:
        if not isinstance(record.path, Path):
            return f"{record.path.stamp()} {record.path.state()}"
        stat = record.path.stat()
    except OSError:
        return "gone"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _missing(records: Sequence[Record], found: dict[Column, Stored | None]) -> list[Column]:
    """Columns to make: that are not there, or lack an image that can be read by now. Its file may
    be as it was: a disk did not answer, or nobody was allowed to read it."""
    skipped = {row for stored in found.values() if stored is not None for row in stored.skipped}
    back = {row for row in skipped if _readable(records[row])}
    return [c for c, stored in found.items() if stored is None or back & stored.skipped.keys()]


def _readable(record: Record) -> bool:
    try:
        decode(record.path)
    except ImageError:
        return False
    return True


def _together(records: Sequence[Record], found: dict[Column, Stored | None]) -> Features:
    stored = {column: one for column, one in found.items() if one is not None}
    assert len(stored) == len(found)
    # What could be read at one time and not at another is in some columns alone.
    rows = next(iter(stored.values())).rows
    for one in stored.values():
        rows = rows[torch.isin(rows, one.rows)]
    skipped = {row: why for one in stored.values() for row, why in one.skipped.items()}
    if not len(rows):
        reason = next(iter(skipped.values()), "there are none")
        raise GtaError(f"no image can be read: {reason}")
    kept = [records[row] for row in rows.tolist()]
    return Features(
        {column: one.of(rows) for column, one in stored.items()},
        torch.tensor([record.label for record in kept], dtype=torch.int64),
        tuple(record.key for record in kept),
        {records[row].key: why for row, why in sorted(skipped.items())},
    )
