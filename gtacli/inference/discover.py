"""Fill a cache with the object maps of images.

Threads read, hash and decode ahead of the model. Of an image no more than the model's input waits
in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    done = False
    try:
        done = yield from _CacheFiller(finder, cache, batch_size).run(images, threads, stop)
    finally:
        cache.close(done)


class _NewImage(NamedTuple):
    image: ImageFile
    digest: bytes
    stamp: bytes | None
    view: Tensor | None  # None: there is a map already


class _EndOfBlock(NamedTuple):
    known: int  # images that did not have to be read
    last: bool


_Item = ImageFile | _EndOfBlock
_Steps = Iterator[CacheStep | Failure]


class _MapBatch(NamedTuple):
    images: list[_NewImage]
    maps: Tensor  # uint8 (B, gh, gw), being computed
    finite: Tensor  # (B,) bool


class _CacheFiller:
    """Runs the model on batches of images without a map.

    Batches are not simply the next images: they consist of new ones, and end where the cache
    writes a file.
    """

    def __init__(self, finder: Finder, cache: MapWriter, batch_size: int) -> None:
        self.finder, self.cache, self.batch_size = finder, cache, batch_size
        self.waiting: list[_NewImage] = []
        self.running: _MapBatch | None = None

    def run(
        self, images: Sequence[ImageFile], threads: int | None, stop: Stop
    ) -> Generator[CacheStep | Failure, None, bool]:
        """Yield the steps; return whether all are done."""
        read: Callable[[Any], _NewImage | _EndOfBlock] = self._read
        for item in map_ahead(self._items(images), read, 2 * self.batch_size, threads):
            if stop():
                return False
            if isinstance(item, Failure):
                yield item
            elif isinstance(item, _EndOfBlock):
                if self.cache.due(item.last):
                    yield from self._finish_all()
                self.cache.end_block(item.last)
                yield CacheStep(images=item.known)
            elif not self.cache.enter(item.digest, item.stamp):
                yield CacheStep(images=1)
            else:
                self.waiting.append(item)
                if len(self.waiting) == self.batch_size:
                    yield from self._start()
        return True

    def _items(self, images: Sequence[ImageFile]) -> Iterator[_Item]:
        blocks = self.cache.blocks(len(images))
        for block in blocks:
            unknown = self.cache.unknown([images[i] for i in block])
            yield from unknown
            yield _EndOfBlock(len(block) - len(unknown), block is blocks[-1])

    def _read(self, item: _Item) -> _NewImage | _EndOfBlock:
        if isinstance(item, _EndOfBlock):
            return item
        # Before the bytes: a change in between must not be taken for what was read.
        stamp = file_stamp(item)
        data = read_bytes(item)
        content = digest(data)
        if self.cache.has(content):
            return _NewImage(item, content, stamp, None)
        view = self.finder.view(decode(EncodedImage(str(item), data)))
        return _NewImage(item, content, stamp, view)

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
        if good:
            self.cache.add(good, maps[finite])
        yield CacheStep(len(good), len(good))
        for one in bad:
            yield Failure(str(one.image), f"{one.image}: the map is not finite")
