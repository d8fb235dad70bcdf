"""Images of shards as one stream, local or remote, in the order of the shards.

    stream = find_stream("wds/https://example.org/{000000..099999}.tar")
    for item in stream.part(0, 8).items():
        if isinstance(item, Unreadable): ...

No index is made: a shard is opened when its turn comes, read once from its start (Parquet: group by
group) and closed. One that is missing or damaged is an item, and the next one follows.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from gtacli.data.streams.names import ShardName, ShardNames, split_of_shard
from gtacli.data.streams.parquets import read_parquet
from gtacli.data.streams.samples import (
    ShardEnd,
    ShardError,
    ShardImage,
    StreamItem,
    Unreadable,
)
from gtacli.data.streams.tars import PackedMember, read_tar
from gtacli.errors import GtaError, reason_of_library
from gtacli.images.decode import EncodedImage
from gtacli.images.find import read_file_state
from gtacli.runtime.interrupts import stop_is_requested
from gtacli.runtime.prefetch import read_ahead
from gtacli.runtime.regular import open_regular
from gtacli.runtime.remote import RemoteFile
from gtacli.runtime.secrets import mask_secrets

AHEAD, AHEAD_BYTES = 256, 1 << 26
"""Images and bytes that are read ahead of the consumer."""
Known = Callable[[str], int | None]
"""Returns the number of images of a shard that need not be read, by its state; else None."""


class ImageStream:
    """The images of shards.

    Args:
        names: the shards.
        kind: how a shard is read.
        classes: names of classes by the labels in the shards; others are their own names.

    Attributes:
        name: the data spec without credentials, set by `gtacli.data.spec.find_stream`.
    """

    def __init__(
        self, names: ShardNames, kind: type[OpenShard], classes: Mapping[str, str] | None = None
    ) -> None:
        self.names, self._kind, self._classes = names, kind, classes or {}
        self.name = ""
        self._is_part = False

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names of the shards and of how they are read."""
        return hashlib.sha256(
            f"{self._kind.__name__} {self.names.fingerprint()}".encode()
        ).hexdigest()

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self.names)

    def part(self, number: int, count: int) -> ImageStream:
        """Return every `count`-th shard from `number` on: the parts have all shards, each once."""
        part = ImageStream(self.names.part(number, count), self._kind, self._classes)
        part.name, part._is_part = self.name, self._is_part or count > 1
        return part

    def items(self, labels: bool = True, known: Known = lambda state: None) -> Iterator[StreamItem]:
        """Yield the images, what cannot be read, and the end of each shard, read ahead.

        Args:
            labels: whether labels are read.
            known: which shards are passed over.

        After a stop (see `gtacli.runtime.interrupts`) the stream ends where it is.

        Raises GtaError at the end where all shards can be read and none has an image. A part may
        have none.
        """
        empty = not self._is_part
        shards = (item for shard in self.names for item in self.read(shard, labels, known))
        for item in read_ahead(shards, AHEAD, AHEAD_BYTES, size_in_memory):
            empty = empty and isinstance(item, ShardEnd) and not item.images
            yield item
        if empty and not stop_is_requested():
            raise GtaError(f"{self.name}: its shards ({len(self):,}) have no image")

    def images(self) -> Iterator[ShardImage | Unreadable]:
        """Yield the images with their labels, and what cannot be read."""
        return (item for item in self.items() if not isinstance(item, ShardEnd))

    def read(
        self,
        shard: ShardName,
        labels: bool = True,
        known: Known = lambda state: None,
        start: int = 0,
    ) -> Iterator[StreamItem]:
        """Like `items`, for one shard, which is read while its items are taken.

        Args:
            start: of its first image, see `ShardImage`.
        """
        shown = mask_secrets(shard.place)
        split = split_of_shard(shard.name) or "train"
        count = 0
        try:
            with closing(self._kind(shard, self.names.top is None, start)) as opened:
                state = opened.state()
                before = None if state is None else known(state)
                if before is not None:
                    yield ShardEnd(state, before, known=True)
                    return
                for found in opened.members(labels, start):
                    name = f"{shown}:{found.name}"
                    if isinstance(found, Unreadable):
                        yield Unreadable(name, f"{name}: {found.error}")
                        continue
                    label = self._classes.get(_plain(found.label), found.label)
                    image = EncodedImage(name, found.data)
                    yield ShardImage(image, label, split, found.start, state)
                    count += 1
                # A shard that was written meanwhile is neither the old one nor the new one.
                unchanged = state is not None and opened.state() == state
                yield ShardEnd(state if unchanged else None, count)
        except (OSError, HTTPException, GtaError, ValueError) as error:
            yield Unreadable(shown, f"cannot read shard {shown}: {_reason(error, shown)}")
            yield ShardEnd(None, count)


class OpenShard(ABC):
    """A shard that is read.

    Args:
        shard: its name and place.
        remote: whether the place is a URL.
        start: of the first image that is read, see `ShardImage`.

    Raises OSError, GtaError or HTTPException if it cannot be opened.
    """

    def __init__(self, shard: ShardName, remote: bool, start: int = 0) -> None:
        self._remote: RemoteFile | None = None
        self._path = Path(shard.place)
        self._file: BinaryIO | None = None
        if remote:
            first = start if self.sequential else 0
            self._remote = RemoteFile(shard.place, whole=self.sequential, start=first)
        else:
            self._file = open_regular(self._path)
            if self.sequential:
                self._file.seek(start)

    sequential: bool = True
    """Whether it is read from its start to its end."""

    def state(self) -> str | None:
        """Return a string that changes with its place and bytes; None if there is none."""
        return self._remote.state if self._remote is not None else read_file_state(self._path)

    @abstractmethod
    def members(self, labels: bool, start: int = 0) -> Iterator[PackedMember | Unreadable]:
        """Yield its images, from where it was opened. Raises ShardError where it is damaged."""

    def close(self) -> None:
        """Close the file or the connection."""
        for one in (self._file, self._remote):
            if one is not None:
                one.close()


class TarShard(OpenShard):
    """A tar of WebDataset."""

    def members(self, labels: bool, start: int = 0) -> Iterator[PackedMember | Unreadable]:
        return read_tar(self, labels, start)

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        if self._remote is not None:
            return self._remote.read(size)
        assert self._file is not None
        return self._file.read(size)

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        if self._file is not None:
            self._file.seek(size, os.SEEK_CUR)
            return
        while size and (block := self.read(min(size, 1 << 18))):
            size -= len(block)


class ParquetShard(OpenShard):
    """A Parquet file with images."""

    sequential = False

    def __init__(self, shard: ShardName, remote: bool, start: int = 0) -> None:
        super().__init__(shard, remote, start)
        if self._file is not None:
            self._size = os.fstat(self._file.fileno()).st_size
        else:
            assert self._remote is not None
            self._remote.read_range(0, 1)
            if self._remote.length is None:
                raise ShardError("its server does not say how large it is")
            self._size = self._remote.length

    @property
    def size(self) -> int:
        """Number of all bytes."""
        return self._size

    def members(self, labels: bool, start: int = 0) -> Iterator[PackedMember | Unreadable]:
        return read_parquet(self, labels, start)

    def read_range(self, start: int, size: int) -> bytes:
        """Return bytes at a place."""
        if self._remote is not None:
            return self._remote.read_range(start, min(size, max(0, self._size - start)))
        assert self._file is not None
        self._file.seek(start)
        return self._file.read(size)


def _plain(label: str) -> str:
    return str(int(label)) if label.isdecimal() and len(label) < 20 else label


def size_in_memory(item: StreamItem) -> int:
    """Return the bytes of an item that is an image."""
    return len(item.image.data) if isinstance(item, ShardImage) else 0


def _reason(error: BaseException, shown: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = error.message if isinstance(error, GtaError) else reason_of_library(error)
    return mask_secrets(text).removeprefix(f"cannot read {shown}: ")
