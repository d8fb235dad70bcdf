"""From paths of images to objects on the patch grid, by one model or by several at once.

Reading is apart from looking, so that threads decode ahead of the model. Of an image no more than
the models' input waits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.data.inputs import InputImage
from gtacli.discovery import Discovery, Found
from gtacli.images.decode import ImageError, decode
from gtacli.images.sizes import Size
from gtacli.models.loading import LoadedModel
from gtacli.runtime.batching import a_core_each, chunk_size, chunks, thread_count
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead
from gtacli.runtime.threads import one_thread


class View(NamedTuple):
    """An image as models see it: the whole of it, stretched to their size.

    Attributes:
        size: (h, w) of the upright image.
        pixels: uint8 (3, *what the models see).
    """

    image: InputImage
    size: Size
    pixels: Tensor


class Failed(NamedTuple):
    """An image that cannot be done, and the line that says why."""

    image: InputImage
    error: str


class Grids(NamedTuple):
    """What a back-end finds in one image; see `gtacli.discovery.Found`."""

    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    heads: NDArray[np.bool_] | None
    objects: NDArray[np.bool_] | None


class Seen(NamedTuple):
    """An image and what each model found in it, in their order."""

    image: InputImage
    size: Size
    grids: tuple[Grids, ...]


class Reader:
    """Reads images as a model sees them: the whole of each, stretched to its size."""

    def __init__(self, model: LoadedModel) -> None:
        self.size, self.interpolation = model.image_size, InterpolationMode(model.interpolation)

    def read(self, image: InputImage | Failed) -> View | Failed:
        """The view of an image, on the CPU."""
        if isinstance(image, Failed):
            return image
        try:
            picture = decode(image.source)
        except ImageError as error:
            return Failed(image, str(error))
        return View(image, (picture.height, picture.width), self.view(picture))

    def view(self, picture: Image.Image) -> Tensor:
        """What the model sees of an upright RGB image: uint8 (3, *size), on the CPU."""
        pixels = F.pil_to_tensor(picture)
        return F.resize(pixels, list(self.size), self.interpolation, antialias=True)


class Finder(Reader):
    """A model and the back-end that reads it.

    Args:
        model: that `backend` was made with; moved to the device.
        name: of the model, for people.
    """

    def __init__(
        self, model: LoadedModel, backend: Discovery[Any], compute: Compute, name: str = ""
    ) -> None:
        super().__init__(model)
        model.model.to(compute.device)
        self.grid = model.grid
        self.backend, self.compute, self.name = backend, compute, name or model.spec
        self.as_input = model.view(compute.device)

    def find(self, views: Sequence[View]) -> list[Grids]:
        """The objects of one batch of at least one view."""
        found = self.look([view.pixels for view in views])
        columns = (
            [None] * len(views) if values is None else list(values.cpu().numpy())
            for values in (found.maps, found.masks, found.head_masks, found.objects)
        )
        return [Grids(*grids) for grids in zip(*columns, strict=True)]

    def look(self, views: Sequence[Tensor]) -> Found:
        """What the back-end finds in at least one image of `view`, on the model's device."""
        pixels = torch.stack([*views])
        if self.compute.device.type == "cuda":
            # Pinned, the copy runs beside what the device computes.
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.compute.device, non_blocking=True)
        with torch.no_grad(), self.compute.autocast():
            return self.backend.find(self.as_input(pixels))


def find_all(
    finders: Sequence[Finder],
    images: Iterable[InputImage | Failed],
    batch_size: int = 32,
    threads: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Seen | Failed]:
    """What every finder finds in each image, in the order of `images`, in constant memory.

    Each image is read once, as the first finder reads it.

    Args:
        finders: of models of one input size, on one device.
        batch_size: images at a time; on a CPU at most.
        threads: for reading, on a CPU for looking too; 0: none; default: by the machine.
        stop: asked before each batch; the rest of the images is left.
    """
    first = finders[0]
    patches = first.grid[0] * first.grid[1]
    if a_core_each(first.compute.device.type == "cpu", patches, threads):
        batches = _a_core_each(finders, chunks(images, chunk_size(batch_size, patches)), threads)
    else:
        views = ahead(first.read, images, 2 * batch_size, threads)
        batches = (_find(finders, batch) for batch in chunks(views, batch_size))
    for found in batches:
        yield from found
        if stop():
            return


def _a_core_each(
    finders: Sequence[Finder], batches: Iterable[list[InputImage | Failed]], threads: int | None
) -> Iterator[list[Seen | Failed]]:
    def work(images: list[InputImage | Failed]) -> list[Seen | Failed]:
        return _find(finders, [finders[0].read(image) for image in images])

    workers = thread_count(threads)
    with one_thread():
        yield from ahead(work, batches, workers + 1, workers)


def _find(finders: Sequence[Finder], batch: Sequence[View | Failed]) -> list[Seen | Failed]:
    """What every finder finds in one batch."""
    good = [view for view in batch if isinstance(view, View)]
    by_image = zip(*(finder.find(good) if good else [] for finder in finders), strict=True)
    return [
        view if isinstance(view, Failed) else Seen(view.image, view.size, next(by_image))
        for view in batch
    ]
