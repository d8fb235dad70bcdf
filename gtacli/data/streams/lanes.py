"""Endless streams of shuffled images for training, each of which can begin where another one ended.

The shards are dealt to L lanes like cards: the pack is shuffled anew for every pass, by (seed,
pass), and dealt on where the pass before has ended. So a lane's t-th shard is number l + t L of all
passes: no list of shards is made, and lanes never differ by more than a shard. A lane reads one
shard after the other. Its images are cut into blocks, by their number and bytes and where a pass
ends, and each block is shuffled by (seed, lane, its first image).

Whoever has read up to some image needs four numbers to go on exactly: the shard of the block, where
the block begins in it, and how many of its images were taken. The block is read again. A digest of
its images tells whether they still are what they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np

from gtacli.data.streams.names import ShardName, is_for_training
from gtacli.data.streams.permutation import permutation
from gtacli.data.streams.samples import ShardEnd, ShardImage, StreamItem, Unreadable
from gtacli.data.streams.stream import ImageStream, size_in_memory
from gtacli.errors import GtaError
from gtacli.images.decode import EncodedImage
from gtacli.runtime.prefetch import read_ahead
from gtacli.runtime.secrets import mask_secrets

MOST_LANES = 64
SHUFFLED, SHUFFLED_BYTES = 2048, 1 << 28
"""Images and bytes of the blocks of all lanes; as many are read ahead."""
_EVEN = 16
"""Shards of a lane from which on it does not matter that others may have one more."""
_PASSES, _MOST_EMPTY = 8, 1000
"""Passes, and shards, in a row from which a lane gets no image: then there is none."""
_WORD = (1 << 64) - 1


class LanePlace(NamedTuple):
    """A place in a lane.

    Attributes:
        shard: of the block's first image, counted over all lanes and passes.
        start: of this image in the shard, see `ShardImage`.
        state: a digest of the shard's state; "": unknown.
        block: a digest of the block; "" before the first one.
        taken: images of the block that were taken.
    """

    shard: int
    start: int = 0
    state: str = ""
    block: str = ""
    taken: int = 0


def count_lanes(images: int, shards: int) -> int:
    """Return the number of lanes for batches of so many images.

    It divides a batch, so that each has equally many images of every lane, and deals the shards
    evenly.
    """
    fitting = (
        lanes
        for lanes in range(min(MOST_LANES, images, shards), 1, -1)
        if images % lanes == 0 and (shards % lanes == 0 or shards >= _EVEN * lanes)
    )
    return next(fitting, 1)


class Lane:
    """A lane, which is read ahead by a thread.

    Args:
        stream: the shards.
        seed: of the order.
        number, lanes: the number of this lane, and of all.
        place: where it begins; None: at its first shard.

    Attributes:
        place: after the image that was taken last.
        unreadable: what could not be read since this list was emptied.

    What cannot be read is passed over, and so are shards whose names say that they are for
    validation or test.
    """

    def __init__(
        self,
        stream: ImageStream,
        seed: int,
        number: int,
        lanes: int,
        place: LanePlace | None = None,
    ) -> None:
        self._stream, self._seed, self._number, self._lanes = stream, seed & _WORD, number, lanes
        self.place = LanePlace(number) if place is None else place
        self.unreadable: list[Unreadable] = []
        self._images = self._shuffled()

    def take(self) -> EncodedImage:
        """Return the next image.

        Raises GtaError where there is none, and where the block that is read again has changed.
        """
        return next(self._images)

    def close(self) -> None:
        """End the reading."""
        self._images.close()

    def _shuffled(self) -> Generator[EncodedImage, None, None]:
        before = self.place if self.place.block else None
        for place, block in self._blocks():
            skipped = 0 if before is None else before.taken
            if before is not None:
                self._require_same(before, place)
                before = None
            rng = np.random.default_rng((self._seed, self._number, place.shard, place.start))
            for taken, chosen in enumerate(rng.permutation(len(block)).tolist()):
                image, block[chosen] = block[chosen], None  # its bytes may go
                if taken >= skipped and image is not None:
                    self.place = place._replace(taken=taken + 1)
                    yield image

    def _blocks(self) -> Iterator[tuple[LanePlace, list[EncodedImage | None]]]:
        """Yield the blocks from the current place on, each with its place."""
        most, most_bytes = block_size(self._lanes)
        items = read_ahead(
            self._items(self.place), most, most_bytes, lambda one: size_in_memory(one[1]), _never
        )
        block, empty = _Block(most, most_bytes), 0
        for shard, item in items:
            if isinstance(item, Unreadable):
                self.unreadable.append(item)
            elif isinstance(item, ShardEnd):
                empty = 0 if item.images else empty + 1
                if empty >= min(_PASSES * len(self._stream), _MOST_EMPTY):
                    raise self._nothing(shard, empty)
                if block.images and self._pass(shard) != self._pass(shard + self._lanes):
                    yield block.take()
            else:
                if not block.has_room(len(item.image.data)):
                    yield block.take()
                block.add(shard, item)
                if block.is_full:
                    yield block.take()

    def _items(self, place: LanePlace) -> Iterator[tuple[int, StreamItem]]:
        """Yield the items of the lane's shards without an end, each with its shard."""
        shard, start = place.shard, place.start
        while True:
            name = self._name(shard)
            if is_for_training(name):
                found = self._stream.read(name, labels=False, start=start)
            else:
                found = iter([ShardEnd(None, 0)])
            yield from ((shard, item) for item in found)
            shard, start = shard + self._lanes, 0

    def _pass(self, shard: int) -> int:
        return shard // len(self._stream)

    def _name(self, shard: int) -> ShardName:
        count = len(self._stream)
        return self._stream.names[permutation(count, self._seed, self._pass(shard))[shard % count]]

    def _require_same(self, before: LanePlace, now: LanePlace) -> None:
        """Raise GtaError unless the block that was read again is the one that it was."""
        same = (before.shard, before.start, before.block) == (now.shard, now.start, now.block)
        if same and (before.state == now.state or not before.state):
            return
        shown = mask_secrets(self._name(before.shard).place)
        text = f"{shown}, or a shard after it, is no longer what it was when the run was stopped"
        raise GtaError(f"{text}; restore it, or begin a new run", option="resume")

    def _nothing(self, shard: int, empty: int) -> GtaError:
        why = f"; {self.unreadable[-1].error}" if self.unreadable else ""
        if not is_for_training(self._name(shard)):
            why = "; those that are named for validation or test are passed over"
        return GtaError(f"{empty} shards in a row have no image that can be read{why}")


class _Block:
    """Images of a lane that follow each other, at least one and as many as fit."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._clear()

    def _clear(self) -> None:
        self.images: list[EncodedImage | None] = []
        self._bytes = 0
        self._place = LanePlace(0)
        self._digest = hashlib.blake2b(digest_size=16)

    def has_room(self, size: int) -> bool:
        return not self.images or self._bytes + size <= self._most_bytes

    @property
    def is_full(self) -> bool:
        return len(self.images) >= self._most or self._bytes >= self._most_bytes

    def add(self, shard: int, item: ShardImage) -> None:
        if not self.images:
            self._place = LanePlace(shard, item.start, _digest(item.state))
        size = len(item.image.data)
        self.images.append(item.image)
        self._bytes += size
        self._digest.update(f"{shard} {item.start} {size}\n".encode())

    def take(self) -> tuple[LanePlace, list[EncodedImage | None]]:
        """Return the place and the images, and begin the next block."""
        taken = self._place._replace(block=self._digest.hexdigest()), self.images
        self._clear()
        return taken


def block_size(lanes: int) -> tuple[int, int]:
    """Return the most images and bytes of a block; it has one image in any case."""
    return max(1, SHUFFLED // lanes), SHUFFLED_BYTES // lanes


def _digest(state: str | None) -> str:
    if state is None:
        return ""
    text = state.encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _never() -> bool:
    return False
