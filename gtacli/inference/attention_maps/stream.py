"""Maps of a stream of images, in order and in constant memory.

A few images at a time pass through everything, reading, models, drawing and writing, in one
thread, and there is a thread for each core (see `gtacli.runtime.batching`). One model at a time
runs on a GPU, or where one image is work enough for all cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gtacli.data.inputs import InputImage, OutputNames
from gtacli.images.decode import ImageError, decode
from gtacli.inference.attention_maps.extractor import Looker
from gtacli.inference.attention_maps.files import MapFiles
from gtacli.inference.attention_maps.kinds import Seen
from gtacli.runtime.batching import chunk_size, chunks, fits_one_core, thread_count
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead
from gtacli.runtime.threads import one_thread

KEPT_PIXELS = 1 << 20
"""Pixels up to which an image waits decoded for its maps; a larger one is read twice."""


class Looked(NamedTuple):
    """What became of one image.

    Attributes:
        image: its name.
        results: a line of JSON for each of its maps, or one with the error.
        seen: each model's maps, none for an image that could not be read.
    """

    image: InputImage
    results: list[dict[str, Any]]
    seen: list[list[Seen]]


class _View(NamedTuple):
    image: InputImage
    picture: Image.Image | None  # decoded, where it is small enough to wait
    size: tuple[int, int]
    inputs: list[Tensor]  # of each looker


def look(
    lookers: Sequence[Looker],
    images: Iterable[InputImage],
    compute: Compute,
    files: MapFiles,
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[Looked]:
    """The maps of each image, in the order of `images`; a bad one is told and the rest goes on.

    Args:
        lookers: one or more models; moved to the device.
        files: what is drawn and written.
        batch_size: images at a time, on a GPU; on a CPU at most.
        threads: default: one a core; 0: none, everything in the caller's.

    Raises RunError for a file that cannot be written.
    """
    for looker in lookers:
        looker.model.model.to(compute.device)
    patches = max(looker.patches for looker in lookers)
    on_cpu = compute.device.type == "cpu"
    apart = fits_one_core(on_cpu, patches, threads)
    size = chunk_size(batch_size, patches) if on_cpu else batch_size
    work = _Work(lookers, compute, files, nullcontext() if apart else Lock())
    workers = thread_count(threads)
    with one_thread(apart):
        for looked in ahead(work, chunks(_claimed(images), size), workers + 1, workers):
            yield from looked


def _claimed(images: Iterable[InputImage]) -> Iterator[InputImage | Looked]:
    """Two images never share their files."""
    claims = OutputNames()
    for image in images:
        error = claims.reserve(image, "maps", [image.below.with_suffix(".*")])
        yield image if error is None else _failed(image, error)


class _Work:
    """All that is done to a few images."""

    def __init__(
        self,
        lookers: Sequence[Looker],
        compute: Compute,
        files: MapFiles,
        turn: AbstractContextManager[Any],
    ) -> None:
        self.lookers, self.compute, self.files, self.turn = lookers, compute, files, turn

    def __call__(self, chunk: list[InputImage | Looked]) -> list[Looked]:
        read = [self._read(image) for image in chunk]
        views = [view for view in read if isinstance(view, _View)]
        with self.turn:
            seen = [
                looker.look([view.inputs[i] for view in views], self.compute)
                for i, looker in enumerate(self.lookers)
            ]
        maps = iter(list(zip(*seen, strict=True)))
        return [
            self._finish(view, list(next(maps))) if isinstance(view, _View) else view
            for view in read
        ]

    def _read(self, image: InputImage | Looked) -> _View | Looked:
        if isinstance(image, Looked):
            return image
        try:
            picture = decode(image.source)
        except ImageError as error:
            return _failed(image, str(error))
        pixels = F.pil_to_tensor(picture)
        size = (pixels.shape[-2], pixels.shape[-1])
        kept = picture if size[0] * size[1] <= KEPT_PIXELS else None
        return _View(image, kept, size, [looker.view(pixels) for looker in self.lookers])

    def _finish(self, view: _View, seen: list[list[Seen]]) -> Looked:
        try:
            results = self.files.write(view.image, view.size, view.picture, self.lookers, seen)
        except ImageError as error:  # a file that changed since it was read
            return _failed(view.image, str(error))
        return Looked(view.image, results, seen)


def _failed(image: InputImage, error: str) -> Looked:
    return Looked(image, [{"image": image.path, "error": error}], [])
