"""The items of a stream of shards: images, what cannot be read, and the ends of shards."""

from __future__ import annotations

from typing import NamedTuple

from gtacli.errors import GtaError
from gtacli.images.decode import EncodedImage

LARGEST = 1 << 28
"""Bytes of an image file at most."""


class ShardError(GtaError):
    """A shard that is damaged, incomplete, or none."""


class ShardImage(NamedTuple):
    """An image of a shard.

    Attributes:
        image: its bytes; its name is `SHARD:MEMBER`.
        label: its class, "" if none is known.
        split: of its shard.
        start: where it begins: a byte of a tar, a row of a Parquet file.
        state: of its shard, as in `ShardEnd`, when it was opened.
    """

    image: EncodedImage
    label: str
    split: str
    start: int = 0
    state: str | None = None


class Unreadable(NamedTuple):
    """A shard, or an image in it, that cannot be read; why, in one line."""

    name: str
    error: str


class ShardEnd(NamedTuple):
    """The end of a shard.

    Attributes:
        state: changes with its place and bytes; None: they are not known well enough, or changed.
        images: in it.
        known: whether it was passed over, since it had been read before.
    """

    state: str | None
    images: int
    known: bool = False


StreamItem = ShardImage | Unreadable | ShardEnd
