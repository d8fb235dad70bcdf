"""Object discovery on batches of images, by one model or by several.

Reading is separate from running the models, so that threads decode ahead of them. Of an image no
more than the models' input waits in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.data.inputs import InputImage
from gtacli.discovery import Discovery, ObjectMaps
from gtacli.images.decode import decode
from gtacli.images.sizes import Size
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.models.packed_linear import pack
from gtacli.models.registers import describe_registers
from gtacli.runtime.devices import Compute


class ImageView(NamedTuple):
    """A model's input of one image: all of the image, stretched to the model's size.

    Attributes:
        image: its name.
        size: (h, w) of the upright image.
        pixels: uint8 (3, h, w) at the model's size.
    """

    image: InputImage
    size: Size
    pixels: Tensor


class ObjectGrids(NamedTuple):
    """A back-end's maps and masks of one image; see `gtacli.discovery.ObjectMaps`."""

    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    heads: NDArray[np.bool_] | None
    objects: NDArray[np.bool_] | None


class ImageObjects(NamedTuple):
    """One image's objects by each model, in the order of the models."""

    image: InputImage
    size: Size
    grids: tuple[ObjectGrids, ...]


class ViewReader:
    """Reads images as inputs of a model: all of each image, stretched to the model's size."""

    def __init__(self, model: LoadedModel) -> None:
        self.size, self.interpolation = model.image_size, InterpolationMode(model.interpolation)

    def read(self, image: InputImage) -> ImageView:
        """Return the model's input of an image, on the CPU. Raises ImageError."""
        picture = decode(image.source)
        return ImageView(image, (picture.height, picture.width), self.view(picture))

    def view(self, picture: Image.Image) -> Tensor:
        """Return the model's input of an upright RGB image: uint8 (3, *size), on the CPU."""
        pixels = F.pil_to_tensor(picture)
        return F.resize(pixels, list(self.size), self.interpolation, antialias=True)


class Finder(ViewReader):
    """A model and the discovery back-end that reads it.

    Args:
        model: that `backend` was made with; moved to the device, where the back-end computes no
            gradients packed for it: the network can then run, no more.
        name: of the model in results; default: its spec.
    """

    def __init__(
        self, model: LoadedModel, backend: Discovery[Any], compute: Compute, name: str = ""
    ) -> None:
        super().__init__(model)
        model.model.to(compute.device)
        self.fingerprint = fingerprint(model.model)
        if not backend.needs_gradients:
            pack(model.model, compute.dtype)
        self.model, self.grid = model, model.grid
        self.backend, self.compute, self.name = backend, compute, name or model.spec
        self.as_input = model.view(compute.device)

    def describe(self) -> dict[str, Any]:
        """Return the model's spec, fingerprint and test-time registers, for run.json."""
        about = {"spec": self.model.spec, "fingerprint": self.fingerprint}
        return {**about, **describe_registers(self.model.model)}

    def find(self, views: Sequence[ImageView]) -> list[ObjectGrids]:
        """Find the objects in a batch of at least one image."""
        found = self.run([view.pixels for view in views])
        columns = (
            [None] * len(views) if values is None else list(values.cpu().numpy())
            for values in (found.maps, found.masks, found.head_masks, found.objects)
        )
        return [ObjectGrids(*grids) for grids in zip(*columns, strict=True)]

    def run(self, views: Sequence[Tensor], size: int = 1) -> ObjectMaps:
        """Run the back-end on at least one input of `view`; return tensors on the device.

        Args:
            size: of the other batches of a dataset; see `Compute.stack`.
        """
        pixels = self.compute.stack(views, size)
        if self.compute.device.type == "cuda":
            # Pinned, the copy runs beside what the device computes.
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.compute.device, non_blocking=True)
        with torch.no_grad(), self.compute.autocast():
            return self.backend.find(self.as_input(pixels)).first(len(views))


def find_objects(finders: Sequence[Finder], views: Sequence[ImageView]) -> list[ImageObjects]:
    """Find the objects in a batch of at least one image, by every finder.

    Args:
        finders: of models of one input size, on one device.
        views: as the first finder reads them.
    """
    by_image = zip(*(finder.find(views) for finder in finders), strict=True)
    return [
        ImageObjects(view.image, view.size, grids)
        for view, grids in zip(views, by_image, strict=True)
    ]
