"""From an object on the patch grid to its mask on the image: refined, scored, written."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.data.images import ImageError, decode
from gtacli.data.inputs import Named
from gtacli.data.truth import VOID, Truth, read_truth, record_truth
from gtacli.discovery.masks import MAP_THRESHOLD, box_around, map_on, mask_on
from gtacli.discovery.metrics import Score, best_heads, located, score
from gtacli.discovery.refine import bilateral, guided, largest_object, working_size
from gtacli.errors import RunError
from gtacli.finding import Failed, Grids, Seen
from gtacli.models.pixels import Size
from gtacli.rendering.overlay import mask_overlay

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
        truth: folder of the ground truth; None: what an image's data set says of it.
        void: pixels that the annotators left open are dropped, or kept as background, as ports of
            DINO's evaluation do.
        input_size: (h, w) that the model sees; on it the Jaccard index of heads is counted (DINO's
            protocol). None: on the image itself.
    """

    folder: Path | None
    refine: Literal["none", "bilateral", "guided"] = "none"
    overlay: bool = False
    truth: Path | None = None
    void: Literal["drop", "keep"] = "drop"
    input_size: Size | None = None


def mask_name(below: PurePath) -> PurePath:
    return below.with_suffix(".png")


class Finisher:
    """Does one image after the other, in any thread."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def finish(self, seen: Seen | Failed) -> tuple[dict[str, Any], Score | None]:
        if isinstance(seen, Failed):
            return {"image": seen.image.path, "error": seen.error}, None
        try:
            return self._finish(seen)
        except ImageError as error:
            return {"image": seen.image.path, "error": str(error)}, None

    def _finish(self, seen: Seen) -> tuple[dict[str, Any], Score | None]:
        o, image = self.output, seen.image
        truth = self._truth(image, seen.size)
        pixels = decode(image.source) if o.overlay or o.refine != "none" else None
        (grids,) = seen.grids
        mask, soft = self._on_pixels(grids, seen.size, pixels)
        box = box_around(mask)
        result: dict[str, Any] = {
            "image": image.path,
            "mask": self._write(
                mask_name(image.below), Image.fromarray(mask).convert("L"), format="PNG"
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
            soft = map_on(seen.size, grids.map)
        one = self._score(truth, mask, soft, box, grids.heads)
        said = {"iou": one.iou, "located": one.located}
        return {**result, **{k: v for k, v in said.items() if v is not None}}, one

    def _truth(self, image: Named, size: Size) -> Truth | None:
        if self.output.truth is not None:
            return read_truth(self.output.truth, image.below, size)
        return None if image.record is None else record_truth(image.record, size)

    def _score(
        self,
        truth: Truth,
        mask: NDArray[np.bool_],
        soft: NDArray[np.float64],
        box: list[int] | None,
        heads: NDArray[np.bool_] | None,
    ) -> Score:
        boxes = [] if box is None else [box]
        if truth.labels is None:
            return Score(located=located(boxes, truth.boxes or ()))
        labels = truth.labels
        if self.output.void == "keep":
            labels = np.where(labels == VOID, 0, labels)
        best = None
        if heads is not None:
            size = self.output.input_size or labels.shape
            best = best_heads(mask_on(size, heads), mask_on(size, labels))
        one = score(mask, soft, labels, boxes, best)
        if truth.boxes is not None:
            one = replace(one, located=located(boxes, truth.boxes))
        return one

    def _on_pixels(
        self, grids: Grids, whole: Size, pixels: Image.Image | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64] | None]:
        """The mask, and the soft map where one was made for it."""
        mask, soft = _coarse(grids, whole)
        if pixels is None or self.output.refine == "none" or not mask.any():
            return mask, soft
        size = working_size(whole)
        rgb = np.array(pixels.resize(size[::-1], Image.Resampling.BICUBIC))
        target = _coarse(grids, size)[0].astype(np.float64)
        if self.output.refine == "bilateral":
            refined = bilateral(rgb, target)
        else:
            patch = max(-(-h // gh) for h, gh in zip(size, grids.map.shape, strict=True))
            refined = guided(rgb, target, 2 * patch)
        if size != whole:
            refined = map_on(whole, refined.astype(np.float32))
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


def _coarse(grids: Grids, size: Size) -> tuple[NDArray[np.bool_], NDArray[np.float64] | None]:
    """Mask and, of a back-end without masks, soft map on (h, w) pixels, as the patches have it."""
    if grids.mask is not None:
        return mask_on(size, grids.mask), None
    soft = map_on(size, grids.map)
    return soft > MAP_THRESHOLD, soft
