"""From objects on the patch grid to masks on the image: refined, scored, written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.data.inputs import InputImage
from gtacli.data.truth import GroundTruth, read_record_truth, read_truth
from gtacli.discovery.masks import MAP_THRESHOLD, box_around, map_on, mask_on
from gtacli.discovery.refine import bilateral, guided, largest_object, working_size
from gtacli.images.decode import decode
from gtacli.images.sizes import Size
from gtacli.inference.objects import Grids, Seen
from gtacli.measures.segmentation import VOID, Score, best_heads, located, score
from gtacli.rendering.masks import highlight_objects
from gtacli.runtime.atomic import write_atomic

OVERLAY_SUFFIX = ".overlay.jpg"
OVERLAY_QUALITY = 90
OVERLAY_SIDE = 2048  # for looking at; a JPEG cannot have more than 65,500 pixels a side

Mask = NDArray[np.bool_]
Soft = NDArray[np.float64]


@dataclass(frozen=True)
class Output:
    """What is made of the objects that one model finds.

    Attributes:
        folder: for the masks; None: nothing is written.
        refine: see `gtacli.discovery.refine`.
        overlay: also write the image with its masks.
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

    @property
    def needs_pixels(self) -> bool:
        return self.overlay or self.refine != "none"


class Finished(NamedTuple):
    """One image by one model: the line about it, and its score where there is a truth."""

    result: dict[str, Any]
    score: Score | None


def mask_name(below: PurePath, k: int = 0) -> PurePath:
    """Where the mask of an image's k-th object goes: STEM.png, STEM.object2.png, ..."""
    return below.with_name(below.stem + (f".object{k + 1}" if k else "") + ".png")


def truth_of(folder: Path | None, image: InputImage, size: Size) -> GroundTruth | None:
    """What is truly in an image. Raises ImageError."""
    if folder is not None:
        return read_truth(folder, image.below, size)
    return None if image.record is None else read_record_truth(image.record, size)


class Finisher:
    """Does one image after the other, in any thread."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def read(self, seen: Seen) -> tuple[GroundTruth | None, Image.Image | None]:
        """An image's truth, and its pixels where they are needed. Raises ImageError."""
        o = self.output
        truth = truth_of(o.truth, seen.image, seen.size)
        return truth, decode(seen.image.source) if o.needs_pixels else None

    def finish(
        self, seen: Seen, grids: Grids, truth: GroundTruth | None, pixels: Image.Image | None
    ) -> tuple[Finished, list[Mask]]:
        """What is said of an image, and the masks of its objects, the main one first; that one is
        empty where nothing is found. The masks are large: they are not to wait in memory.

        Raises ImageError, and RunError for a file that cannot be written.
        """
        o, image = self.output, seen.image
        found = [self._on_pixels(each, seen.size, pixels) for each in _one_by_one(grids)]
        masks = [mask for mask, _ in found]
        objects = [self._object(image, k, mask) for k, mask in enumerate(masks)]
        result: dict[str, Any] = {"image": image.path, **objects[0]}
        if grids.objects is not None:
            result["objects"] = [each for each in objects if each["box"] is not None]
        boxes = [each["box"] for each in objects if each["box"] is not None]
        if o.overlay and pixels is not None:
            drawn = highlight_objects(pixels, masks, boxes)
            drawn.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
            name = image.below.with_suffix(OVERLAY_SUFFIX)
            result["overlay"] = self._write(name, drawn, format="JPEG", quality=OVERLAY_QUALITY)
        if truth is None:
            return Finished(result, None), masks
        mask, soft = found[0]
        if soft is None:
            soft = map_on(seen.size, grids.map)
        one = self._score(truth, mask, soft, boxes, grids.heads)
        said = {"iou": one.iou, "located": one.located}
        known = {key: value for key, value in said.items() if value is not None}
        return Finished({**result, **known}, one), masks

    def _object(self, image: InputImage, k: int, mask: Mask) -> dict[str, Any]:
        picture = Image.fromarray(mask).convert("L")
        return {
            "mask": self._write(mask_name(image.below, k), picture, format="PNG"),
            "box": box_around(mask),
            "area": float(mask.mean()),
        }

    def _score(
        self,
        truth: GroundTruth,
        mask: Mask,
        soft: Soft,
        boxes: Sequence[list[int]],
        heads: Mask | None,
    ) -> Score:
        if truth.labels is None:
            return Score(located=located(boxes, truth.boxes or ()))
        labels = truth.labels
        if self.output.void == "keep":
            labels = np.where(labels == VOID, 0, labels)
        best = None
        if heads is not None:
            size = self.output.input_size or (labels.shape[0], labels.shape[1])
            best = best_heads(mask_on(size, heads), mask_on(size, labels))
        one = score(mask, soft, labels, boxes, best)
        if truth.boxes is not None:
            one = replace(one, located=located(boxes, truth.boxes))
        return one

    def _on_pixels(
        self, grids: Grids, whole: Size, pixels: Image.Image | None
    ) -> tuple[Mask, Soft | None]:
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
        if self.output.folder is None:
            return None
        path = self.output.folder / name
        return write_atomic(path, lambda file: picture.save(file, **how))


def _one_by_one(grids: Grids) -> list[Grids]:
    """Each object's own; at least one."""
    if grids.objects is None:
        return [grids]
    objects = [mask for mask in grids.objects if mask.any()] or [grids.objects[0]]
    return [grids._replace(mask=mask) for mask in objects]


def _coarse(grids: Grids, size: Size) -> tuple[Mask, Soft | None]:
    """Mask and, of a back-end without masks, soft map on (h, w) pixels, as the patches have it."""
    if grids.mask is not None:
        return mask_on(size, grids.mask), None
    soft = map_on(size, grids.map)
    return soft > MAP_THRESHOLD, soft
