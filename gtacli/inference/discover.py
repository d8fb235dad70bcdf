"""From images to maps in a cache: threads read, hash and decode ahead of the model. Of an image no
more than the model's input waits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtacli.discovery import Discovery
from gtacli.discovery.maps.digests import ImageFile, digest, file_stamp
from gtacli.discovery.maps.manifest import MapManifest
from gtacli.discovery.maps.writer import MapWriter
from gtacli.errors import GtaError, Interrupted
from gtacli.images.decode import Encoded, ImageError, decode, encoded
from gtacli.inference.objects import Finder
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Step(NamedTuple):
    """What was done since the last one.

    Attributes:
        images: gone through.
        new: maps that were made.
        failed: images that have none, and why.
    """

    images: int = 0
    new: int = 0
    failed: tuple[tuple[ImageFile, str], ...] = ()


class _Read(NamedTuple):
    image: ImageFile
    digest: bytes
    stamp: bytes | None
    view: Tensor | None  # None: there is a map already


class _Failed(NamedTuple):
    image: ImageFile
    error: str


class _EndOfBlock(NamedTuple):
    known: int  # images that did not have to be read
    last: bool


class _Batch(NamedTuple):
    reads: list[_Read]
    maps: Tensor  # uint8 (B, gh, gw), on its way
    finite: Tensor  # (B,) bool


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


def label(
    finder: Finder,
    images: Sequence[ImageFile],
    cache: MapWriter,
    batch_size: int = 32,
    threads: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Find the maps that the cache has not yet; of this run's share of the images.

    Args:
        threads: for reading; 0: none; default: by the machine.
        stop: asked between images.

    Raises Interrupted after `stop`, RunError for a file that cannot be written, GtaError for a
    back-end whose maps are not on the patch grid. What was done is kept in any case.
    """
    done = False
    try:
        yield from _Labelling(finder, cache, batch_size).run(images, threads, stop)
        done = True
    finally:
        cache.close(done)


class _Labelling:
    def __init__(self, finder: Finder, cache: MapWriter, batch_size: int) -> None:
        self.finder, self.cache, self.batch_size = finder, cache, batch_size
        self.waiting: list[_Read] = []
        self.running: _Batch | None = None

    def run(
        self, images: Sequence[ImageFile], threads: int | None, stop: Callable[[], bool]
    ) -> Iterator[Step]:
        for item in ahead(self._read, self._items(images), 2 * self.batch_size, threads):
            if stop():
                raise Interrupted("interrupted; what is done is kept, the same command goes on")
            if isinstance(item, _Failed):
                yield Step(images=1, failed=((item.image, item.error),))
            elif isinstance(item, _EndOfBlock):
                if self.cache.due(item.last):
                    yield from self._finish_all()
                self.cache.end_block(item.last)
                yield Step(images=item.known)
            elif not self.cache.enter(item.digest, item.stamp):
                yield Step(images=1)
            else:
                self.waiting.append(item)
                if len(self.waiting) == self.batch_size:
                    yield from self._start()

    def _items(self, images: Sequence[ImageFile]) -> Iterator[ImageFile | _EndOfBlock]:
        blocks = self.cache.blocks(len(images))
        for block in blocks:
            unknown = self.cache.unknown([images[i] for i in block])
            yield from unknown
            yield _EndOfBlock(len(block) - len(unknown), block is blocks[-1])

    def _read(self, item: ImageFile | _EndOfBlock) -> _Read | _Failed | _EndOfBlock:
        if isinstance(item, _EndOfBlock):
            return item
        # Before the bytes: what changes in between must not be taken for what was read.
        stamp = file_stamp(item)
        try:
            data = encoded(item)
            content = digest(data)
            if self.cache.has(content):
                return _Read(item, content, stamp, None)
            picture = decode(Encoded(str(item), data))
        except ImageError as error:
            return _Failed(item, str(error))
        return _Read(item, content, stamp, self.finder.view(picture))

    def _start(self) -> Iterator[Step]:
        """Give the waiting images to the model. A GPU works at them while the batch before is put
        away; the CPU has nothing to gain."""
        reads, self.waiting = self.waiting, []
        maps = self.finder.run([r.view for r in reads if r.view is not None]).maps
        if maps.shape[1:] != self.finder.grid:
            got, wanted = ("x".join(map(str, s)) for s in (maps.shape[1:], self.finder.grid))
            raise GtaError(f"the maps are {got}, not on the model's patch grid {wanted}")
        finite = maps.isfinite().flatten(1).all(1)
        levels = maps.nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
        before, self.running = self.running, _Batch(reads, levels, finite)
        if before is not None:
            yield self._put_away(before)
        if levels.device.type == "cpu":
            yield from self._finish_all()

    def _finish_all(self) -> Iterator[Step]:
        if self.waiting:
            yield from self._start()
        if self.running is not None:
            batch, self.running = self.running, None
            yield self._put_away(batch)

    def _put_away(self, batch: _Batch) -> Step:
        maps, finite = batch.maps.cpu().numpy(), batch.finite.cpu().numpy()
        good = [read.digest for read, fine in zip(batch.reads, finite, strict=True) if fine]
        bad = [read for read, fine in zip(batch.reads, finite, strict=True) if not fine]
        for read in bad:
            self.cache.drop(read.digest)
        if good:
            self.cache.add(good, maps[finite])
        failed = tuple((r.image, f"{r.image}: the map is not finite") for r in bad)
        return Step(len(batch.reads), len(good), failed)
