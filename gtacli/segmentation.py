"""Masks of the objects in images, as a stream: threads decode ahead of the model, others refine,
score and write behind it. Of an image no more than the model's input waits in memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from gtacli.data.ahead import ahead
from gtacli.data.images import ImageError, decode
from gtacli.data.inputs import Named
from gtacli.data.truth import read_truth
from gtacli.discovery import Discovery
from gtacli.discovery.masks import MAP_THRESHOLD, box_around, map_on, mask_on
from gtacli.discovery.metrics import Score, Totals, score
from gtacli.discovery.refine import bilateral, guided, largest_object, working_size
from gtacli.errors import RunError
from gtacli.models.loading import LoadedModel
from gtacli.models.pixels import Size
from gtacli.rendering.overlay import mask_overlay
from gtacli.training.devices import Compute

OVERLAY_SUFFIX = ".overlay.jpg"
OVERLAY_QUALITY = 90
OVERLAY_SIDE = 2048  # for looking at; a JPEG cannot have more than 65,500 pixels a side


@dataclass(frozen=True)
class Output:
    """What is made of each found object.

    Attributes:
        folder: for the masks; None: nothing is written.
        refine: see `gtacli.discovery.refine`.
        overlay: also write the image with its mask.
        truth: folder of true masks.
    """

    folder: Path | None
    refine: Literal["none", "bilateral", "guided"] = "none"
    overlay: bool = False
    truth: Path | None = None


class _View(NamedTuple):
    image: Named
    size: Size
    pixels: Tensor  # uint8 (3, *what the model sees)


class _Object(NamedTuple):
    image: Named
    size: Size
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    heads: NDArray[np.bool_] | None


class _Failed(NamedTuple):
    image: Named
    error: str


def segment(
    model: LoadedModel,
    backend: Discovery[Any],
    images: Iterable[Named],
    compute: Compute,
    output: Output,
    batch_size: int = 32,
    threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The object of each image, in the order of `images`, in constant memory.

    The model sees the whole image, stretched to its own size.

    Args:
        model: that `backend` was made with; moved to the device.
        threads: for reading, and as many for what follows the model; 0: none; default: by the
            machine.

    Yields:
        `{"image", "mask", "box", "area"}`: the mask's file, [x0, y0, x1, y1) in pixels of the
        upright image (None around an empty mask), the mask's share of the image; with ground truth
        "iou". Or `{"image", "error"}` for an image that cannot be done. The last is `{"summary"}`.

    Raises RunError for a file that cannot be written.
    """
    start = time.perf_counter()
    finder = _Finder(model, backend, compute, batch_size)
    finisher = _Finisher(output)
    views = ahead(finder.read, _claimed(images, output), 2 * batch_size, threads)
    totals, done, failed = Totals(), 0, 0
    for result, one in ahead(finisher.finish, finder.find(views), 2 * batch_size, threads):
        done, failed = done + ("error" not in result), failed + ("error" in result)
        if one is not None:
            totals.add(one)
        yield result
    summary: dict[str, Any] = {"images": done, "failed": failed}
    if output.truth is not None:
        summary |= totals.means()
    summary["images_per_second"] = done / (time.perf_counter() - start)
    yield {"summary": summary}


def _claimed(images: Iterable[Named], output: Output) -> Iterator[Named | _Failed]:
    """A mask overwrites neither another one nor its own image."""
    taken: set[int] = set()  # of numbers: a stream of a million paths still fits
    for image in images:
        name = _mask_name(image.below)
        key = hash(name)
        if key in taken:
            yield _Failed(image, f"{image.path}: another image has its mask in {name} already")
        elif output.folder is not None and _same(output.folder / name, Path(image.path)):
            yield _Failed(image, f"{image.path}: its mask would overwrite it; choose another --out")
        else:
            taken.add(key)
            yield image


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _mask_name(below: PurePath) -> PurePath:
    return below.with_suffix(".png")


class _Finder:
    """From paths to objects on the patch grid."""

    def __init__(
        self, model: LoadedModel, backend: Discovery[Any], compute: Compute, batch_size: int
    ) -> None:
        model.model.to(compute.device)
        self.backend, self.compute, self.batch_size = backend, compute, batch_size
        self.size, self.interpolation = model.image_size, InterpolationMode(model.interpolation)
        self.as_input = model.view(compute.device)

    def read(self, image: Named | _Failed) -> _View | _Failed:
        if isinstance(image, _Failed):
            return image
        try:
            pixels = F.pil_to_tensor(decode(image.source))
        except ImageError as error:
            return _Failed(image, str(error))
        view = F.resize(pixels, list(self.size), self.interpolation, antialias=True)
        return _View(image, (pixels.shape[-2], pixels.shape[-1]), view)

    def find(self, views: Iterator[_View | _Failed]) -> Iterator[_Object | _Failed]:
        while batch := list(islice(views, self.batch_size)):
            objects = iter(self._objects([view for view in batch if isinstance(view, _View)]))
            for view in batch:
                yield view if isinstance(view, _Failed) else next(objects)

    def _objects(self, views: list[_View]) -> list[_Object]:
        if not views:
            return []
        pixels = torch.stack([view.pixels for view in views]).to(self.compute.device)
        with torch.no_grad(), self.compute.autocast():
            found = self.backend.find(self.as_input(pixels))
        maps, masks, heads = (
            [None] * len(views) if values is None else list(values.cpu().numpy())
            for values in (found.maps, found.masks, found.head_masks)
        )
        parts = zip(views, maps, masks, heads, strict=True)
        return [_Object(view.image, view.size, *grids) for view, *grids in parts]


class _Finisher:
    """From an object on the patch grid to its mask on the image."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def finish(self, found: _Object | _Failed) -> tuple[dict[str, Any], Score | None]:
        if isinstance(found, _Failed):
            return {"image": found.image.path, "error": found.error}, None
        try:
            return self._finish(found)
        except ImageError as error:
            return {"image": found.image.path, "error": str(error)}, None

    def _finish(self, found: _Object) -> tuple[dict[str, Any], Score | None]:
        o, image = self.output, found.image
        truth = None if o.truth is None else read_truth(o.truth, image.below, found.size)
        pixels = decode(image.source) if o.overlay or o.refine != "none" else None
        mask, soft = self._on_pixels(found, pixels)
        box = box_around(mask)
        result: dict[str, Any] = {
            "image": image.path,
            "mask": self._write(
                _mask_name(image.below), Image.fromarray(mask).convert("L"), format="PNG"
            ),
            "box": box,
            "area": float(mask.mean()),
        }
        if o.overlay and pixels is not None:
            drawn = mask_overlay(pixels, mask, box)
            drawn.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
            name = image.below.with_suffix(OVERLAY_SUFFIX)
            result["overlay"] = self._write(name, drawn, format="JPEG", quality=OVERLAY_QUALITY)
        if truth is None:
            return result, None
        if soft is None:
            soft = map_on(found.size, found.map)
        heads = None if found.heads is None else mask_on(found.size, found.heads)
        one = score(mask, box, soft, truth, heads)
        return {**result, "iou": one.iou}, one

    def _on_pixels(
        self, found: _Object, pixels: Image.Image | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64] | None]:
        """The mask, and the soft map where one was made for it."""
        mask, soft = _coarse(found, found.size)
        if pixels is None or self.output.refine == "none" or not mask.any():
            return mask, soft
        size = working_size(found.size)
        rgb = np.array(pixels.resize(size[::-1], Image.Resampling.BICUBIC))
        target = _coarse(found, size)[0].astype(np.float64)
        if self.output.refine == "bilateral":
            refined = bilateral(rgb, target)
        else:
            patch = max(-(-h // gh) for h, gh in zip(size, found.map.shape, strict=True))
            refined = guided(rgb, target, 2 * patch)
        if size != found.size:
            refined = map_on(found.size, refined.astype(np.float32))
        largest = largest_object(refined)
        # In an image of noise nothing may be left: then the patches say more.
        return (largest, refined) if largest.any() else (mask, soft)

    def _write(self, name: PurePath, picture: Image.Image, **how: Any) -> str | None:
        """Written whole and renamed: who watches the folder never sees half a mask."""
        if self.output.folder is None:
            return None
        path = self.output.folder / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                picture.save(temporary, **how)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"--out: cannot write {path} ({error.strerror or error})") from error
        return str(path)


def _coarse(found: _Object, size: Size) -> tuple[NDArray[np.bool_], NDArray[np.float64] | None]:
    """Mask and, of a back-end without masks, soft map on (h, w) pixels, as the patches have it."""
    if found.mask is not None:
        return mask_on(size, found.mask), None
    soft = map_on(size, found.map)
    return soft > MAP_THRESHOLD, soft
