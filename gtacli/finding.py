"""From paths of images to objects on the patch grid, by one model or by several at once.

Reading is apart from looking, so that threads decode ahead of the model. Of an image no more than
the models' input waits in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.data.ahead import ahead
from gtacli.data.images import ImageError, decode
from gtacli.data.inputs import Named
from gtacli.discovery import Discovery
from gtacli.models.loading import LoadedModel
from gtacli.models.pixels import Size
from gtacli.training.devices import Compute


class View(NamedTuple):
    """An image as models see it: the whole of it, stretched to their size.

    Attributes:
        size: (h, w) of the upright image.
        pixels: uint8 (3, *what the models see).
    """

    image: Named
    size: Size
    pixels: Tensor


class Failed(NamedTuple):
    """An image that cannot be done, and the line that says why."""

    image: Named
    error: str


class Grids(NamedTuple):
    """What a back-end finds in one image; see `gtacli.discovery.Found`."""

    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    heads: NDArray[np.bool_] | None
    objects: NDArray[np.bool_] | None


class Seen(NamedTuple):
    """An image and what each model found in it, in their order."""

    image: Named
    size: Size
    grids: tuple[Grids, ...]


class Finder:
    """A model and the back-end that reads it.

    Args:
        model: that `backend` was made with; moved to the device.
        name: of the model, for people.
    """

    def __init__(
        self, model: LoadedModel, backend: Discovery[Any], compute: Compute, name: str = ""
    ) -> None:
        model.model.to(compute.device)
        self.backend, self.compute, self.name = backend, compute, name or model.spec
        self.size, self.interpolation = model.image_size, InterpolationMode(model.interpolation)
        self.as_input = model.view(compute.device)

    def read(self, image: Named | Failed) -> View | Failed:
        """The view of an image, on the CPU."""
        if isinstance(image, Failed):
            return image
        try:
            pixels = F.pil_to_tensor(decode(image.source))
        except ImageError as error:
            return Failed(image, str(error))
        view = F.resize(pixels, list(self.size), self.interpolation, antialias=True)
        return View(image, (pixels.shape[-2], pixels.shape[-1]), view)

    def find(self, views: Sequence[View]) -> list[Grids]:
        """The objects of one batch of at least one view."""
        pixels = torch.stack([view.pixels for view in views]).to(self.compute.device)
        with torch.no_grad(), self.compute.autocast():
            found = self.backend.find(self.as_input(pixels))
        columns = (
            [None] * len(views) if values is None else list(values.cpu().numpy())
            for values in (found.maps, found.masks, found.head_masks, found.objects)
        )
        return [Grids(*grids) for grids in zip(*columns, strict=True)]


def find_all(
    finders: Sequence[Finder],
    images: Iterable[Named | Failed],
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[Seen | Failed]:
    """What every finder finds in each image, in the order of `images`, in constant memory.

    Each image is read once, as the first finder reads it.

    Args:
        finders: of models of one input size.
        threads: for reading; 0: none; default: by the machine.
    """
    views = ahead(finders[0].read, images, 2 * batch_size, threads)
    while batch := list(islice(views, batch_size)):
        good = [view for view in batch if isinstance(view, View)]
        by_finder = [finder.find(good) if good else [] for finder in finders]
        by_image = zip(*by_finder, strict=True)
        for view in batch:
            if isinstance(view, Failed):
                yield view
            else:
                yield Seen(view.image, view.size, next(by_image))
