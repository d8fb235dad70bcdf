"""Fill a cache with the object maps of images.

Threads read, hash and decode ahead of the model. Of an image no more than the model's input waits
in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtacli.data.streams.samples import ShardEnd, Unreadable
from gtacli.data.streams.stream import ImageStream
from gtacli.discovery import Discovery
from gtacli.discovery.maps.digests import ImageFile, digest, file_stamp
from gtacli.discovery.maps.manifest import MapManifest
from gtacli.discovery.maps.writer import MapWriter
from gtacli.errors import GtaError
from gtacli.images.decode import EncodedImage, decode, read_bytes
from gtacli.inference.objects import Finder
from gtacli.inference.stream import Failure, Stop, map_ahead, never
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import Compute

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class CacheStep(NamedTuple):
    """Progress since the last step.

    Attributes:
        images: that were processed.
        new: maps that were computed.
    """

    images: int = 0
    new: int = 0


def manifest_of(
    model: LoadedModel, name: str, backend: Discovery[Any], compute: Compute
) -> MapManifest:
    """Return the manifest of a back-end's maps for a model.

    Args:
        name: of the back-end.
    """
    return MapManifest(
        model=model.spec,
        fingerprint=fingerprint(model.model),
        backend=name,
        backend_version=backend.version,
        options=backend.options.model_dump(mode="json"),
        image_size=model.image_size,
        interpolation=model.interpolation,
        mean=tuple(model.mean),
        std=tuple(model.std),
        precision=PRECISIONS[compute.dtype],
        grid=model.grid,
    )


def fill_cache(
    finder: Finder,
    images: Sequence[ImageFile],
    cache: MapWriter,
    batch_size: int = 32,
    threads: int | None = None,
    stop: Stop = never,
) -> Iterator[CacheStep | Failure]:
    """Compute the maps that the cache lacks, of this run's share of the images.

    Args:
        threads: for reading; default: one per core; 0: none.
        stop: checked between images. What is in the cache by then stays there.

    Raises RunError for a file that cannot be written, GtaError for a back-end whose maps are not
    on the patch grid. What was done is kept in any case.
    """
    filler = _CacheFiller(finder, cache, batch_size)
    yield from _fill(cache, filler.run(filler.items_of(images), threads, stop))


def fill_cache_from_stream(
    finder: Finder,
    images: ImageStream,
    cache: MapWriter,
    batch_size: int = 32,
    threads: int | None = None,
    stop: Stop = never,
    most: int | None = None,
) -> Iterator[CacheStep | Failure]:
    """Like `fill_cache`, for the images of shards; this run's share are whole shards.

    A shard of an earlier run is not read again if all its images had maps and it has not changed.

    Args:
        most: images at most, for a dry run; default: all.
    """
    filler = _CacheFiller(finder, cache, batch_size)
    last = _EndOfPart(0, last=True)
    items = chain(islice(filler.items_of_stream(images), most), [last])
    yield from _fill(cache, filler.run(items, threads, stop))


def _fill(cache: MapWriter, steps: Generator[CacheStep | Failure, None, bool]) -> _Steps:
    done = False
    try:
        done = yield from steps
    finally:
        cache.close(done)


class _NewImage(NamedTuple):
    name: str
    digest: bytes
    stamp: bytes | None
    view: Tensor | None  # None: there is a map already


class _EndOfBlock(NamedTuple):
    known: int  # images that did not have to be read
    last: bool


class _EndOfPart(NamedTuple):
    """Some images of a shard were read, or all (`end`); after the last shard `last` is true."""

    images: int
    end: ShardEnd | None = None
    last: bool = False


_Mark = _EndOfBlock | _EndOfPart
_Item = ImageFile | _Mark | Failure
_Steps = Iterator[CacheStep | Failure]


class _MapBatch(NamedTuple):
    images: list[_NewImage]
    maps: Tensor  # uint8 (B, gh, gw), being computed
    finite: Tensor  # (B,) bool


class _CacheFiller:
    """Runs the model on batches of images without a map.

    Batches are not simply the next images: they consist of new ones, whatever the blocks and shards
    that these are in, since only full batches are worth their time.
    """

    def __init__(self, finder: Finder, cache: MapWriter, batch_size: int) -> None:
        self.finder, self.cache, self.batch_size = finder, cache, batch_size
        self.waiting: list[_NewImage] = []
        self.running: _MapBatch | None = None
        self.failed = False  # an image of the current shard

    def run(
        self, items: Iterable[_Item], threads: int | None, stop: Stop
    ) -> Generator[CacheStep | Failure, None, bool]:
        """Yield the steps; return whether all are done."""
        read: Callable[[Any], _NewImage | _Mark] = self._read
        for item in map_ahead(items, read, 2 * self.batch_size, threads):
            if stop():
                return False
            if isinstance(item, Failure):
                self.failed = True
                yield item
            elif isinstance(item, _EndOfBlock):
                if self.cache.end_block(item.last):
                    yield from self._finish_all()
                yield CacheStep(images=item.known)
            elif isinstance(item, _EndOfPart):
                yield from self._end_part(item)
            elif not self.cache.enter(item.digest, item.stamp):
                yield CacheStep(images=1)
            else:
                self.waiting.append(item)
                if len(self.waiting) == self.batch_size:
                    yield from self._start()
        return not stop()

    def _end_part(self, part: _EndOfPart) -> _Steps:
        end = part.end
        state = None if end is None or end.known or self.failed else end.state
        size = 0 if end is None else end.images
        if end is not None:
            self.failed = False
        if self.cache.end_part(part.images, part.last, state, size):
            yield from self._finish_all()
        if end is not None:
            yield CacheStep(images=end.images if end.known else 0)

    def items_of_stream(self, images: ImageStream) -> Iterator[_Item]:
        """Yield the images of this run's shards, marks after each block, and failures."""
        block, count = self.cache.block, 0
        own = images.part(*self.cache.share)
        for item in own.items(labels=False, known=self.cache.ledger.find):
            if isinstance(item, Unreadable):
                yield Failure(item.name, item.error)
            elif isinstance(item, ShardEnd):
                yield _EndOfPart(count, item)
                count = 0
            else:
                yield item.image
                count += 1
                if count == block:
                    yield _EndOfPart(count)
                    count = 0

    def items_of(self, images: Sequence[ImageFile]) -> Iterator[_Item]:
        """Yield the images of this run's blocks that must be read, and the ends of the blocks."""
        blocks = self.cache.blocks(len(images))
        for block in blocks:
            unknown = self.cache.unknown([images[i] for i in block])
            yield from unknown
            yield _EndOfBlock(len(block) - len(unknown), block is blocks[-1])

    def _read(self, item: ImageFile | _Mark) -> _NewImage | _Mark:
        if isinstance(item, _EndOfBlock | _EndOfPart):
            return item
        # Before the bytes: a change in between must not be taken for what was read.
        stamp = file_stamp(item)
        data = read_bytes(item)
        content = digest(data)
        if self.cache.has(content):
            return _NewImage(str(item), content, stamp, None)
        view = self.finder.view(decode(EncodedImage(str(item), data)))
        return _NewImage(str(item), content, stamp, view)

    def _start(self) -> _Steps:
        """Run the model on the waiting images.

        On a GPU the previous batch is stored meanwhile; a CPU has nothing to gain from that.
        """
        images, self.waiting = self.waiting, []
        views = [one.view for one in images if one.view is not None]
        maps = self.finder.run(views, self.batch_size).maps
        if maps.shape[1:] != self.finder.grid:
            got, wanted = ("x".join(map(str, s)) for s in (maps.shape[1:], self.finder.grid))
            raise GtaError(f"the maps are {got}, not on the model's patch grid {wanted}")
        finite = maps.isfinite().flatten(1).all(1)
        levels = maps.nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
        previous, self.running = self.running, _MapBatch(images, levels, finite)
        if previous is not None:
            yield from self._store(previous)
        if levels.device.type == "cpu":
            yield from self._finish_all()

    def _finish_all(self) -> _Steps:
        if self.waiting:
            yield from self._start()
        if self.running is not None:
            batch, self.running = self.running, None
            yield from self._store(batch)

    def _store(self, batch: _MapBatch) -> _Steps:
        maps, finite = batch.maps.cpu().numpy(), batch.finite.cpu().numpy()
        good = [one.digest for one, fine in zip(batch.images, finite, strict=True) if fine]
        bad = [one for one, fine in zip(batch.images, finite, strict=True) if not fine]
        for one in bad:
            self.cache.drop(one.digest)
            self.failed = True  # of which shard is not known here
        if good:
            self.cache.add(good, maps[finite])
        yield CacheStep(len(good), len(good))
        for one in bad:
            yield Failure(one.name, f"{one.name}: the map is not finite")
