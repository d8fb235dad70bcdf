"""Masks at the image's size, made of objects on the patch grid: refined, scored, written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gtacli.data.inputs import InputImage
from gtacli.data.objects import GroundTruth
from gtacli.data.truth import find_truth, read_record_truth, read_truth
from gtacli.discovery.center import center_confidence
from gtacli.discovery.maps.digests import ImageFile
from gtacli.discovery.masks import MAP_THRESHOLD, box_around, map_on, mask_on
from gtacli.discovery.refine import bilateral, guided, largest_object, working_size
from gtacli.images.decode import ImageError, decode
from gtacli.images.sizes import Size
from gtacli.inference.objects import ImageObjects, ObjectGrids
from gtacli.inference.outputs import result_path, write_result
from gtacli.inference.results import Segmentation, SegmentObject, SegmentSummary
from gtacli.inference.segment.formats.base import AnnotatedImage, AnnotationFormat, FoundObject
from gtacli.measures.segmentation import (
    VOID,
    SegmentationScore,
    SegmentationTotals,
    best_head_jaccard,
    is_located,
    score_segmentation,
)
from gtacli.rendering.masks import highlight_objects

OVERLAY_SUFFIX = ".overlay.jpg"
OVERLAY_QUALITY = 90
OVERLAY_SIDE = 2048  # enough for a screen; a JPEG has at most 65,500 pixels per side

Mask = NDArray[np.bool_]
SoftMap = NDArray[np.float64]


@dataclass(frozen=True)
class MaskOptions:
    """The options of what is made of the objects.

    Attributes:
        folder: for the masks; None: nothing is written.
        refine: see `gtacli.discovery.refine`.
        overlay: also write the image with its masks.
        truth: folder of the ground truth; None: that of the image's dataset, if any.
        void: pixels that the annotators left open are dropped, or count as background, as in
            ports of DINO's evaluation.
        file: the path of a single image's mask; other files are named after it. None: files are
            named after the images, below `folder`.
        min_confidence: confidence below which an object is dropped.
        annotations: written in place of masks.
    """

    folder: Path | None
    refine: Literal["none", "bilateral", "guided"] = "none"
    overlay: bool = False
    truth: Path | None = None
    void: Literal["drop", "keep"] = "drop"
    file: Path | None = None
    min_confidence: float = 0.0
    annotations: AnnotationFormat | None = None


class ImageResult(NamedTuple):
    """One image by one model.

    Attributes:
        line: for JSON.
        score: None without ground truth.
        record: of its annotations, see `AnnotationFormat.add`.
    """

    line: Segmentation
    score: SegmentationScore | None
    record: Any = None


def mask_suffix(k: int = 0) -> str:
    """Return what the mask of an image's k-th object has after the image's stem."""
    return f".object{k + 1}.png" if k else ".png"


class MaskWriter:
    """Makes the masks of one model's objects, scores and writes them; usable in any thread.

    Args:
        input_size: (h, w) of the model's input; the Jaccard index of heads is computed on it
            (DINO's protocol).
        model: its name, which its folder and lines get; None for a single model.
    """

    def __init__(self, options: MaskOptions, input_size: Size, model: str | None = None) -> None:
        self.options, self.input_size = options, input_size
        self.folder = options.folder
        if self.folder is not None and model is not None:
            self.folder = self.folder / model
        self.named = {} if model is None else {"model": model}

    def sources(self, image: InputImage) -> list[ImageFile]:
        """Return the files that an image's result depends on: its own, and its ground truth's."""
        files: list[ImageFile] = [image.source]
        if self.options.truth is not None:
            with suppress(ImageError):
                files.append(
                    find_truth(self.options.truth, image.below, image.result_stem, image.source)
                )
        elif image.record is not None and image.record.mask is not None:
            files.append(image.record.mask)
        return files

    def read(self, found: ImageObjects) -> tuple[GroundTruth | None, Image.Image | None]:
        """Return an image's ground truth, and its pixels if they are needed. Raises ImageError."""
        o, image = self.options, found.image
        if o.truth is not None:
            truth: GroundTruth | None = read_truth(
                o.truth, image.below, found.size, image.result_stem, image.source
            )
        else:
            truth = None if image.record is None else read_record_truth(image.record, found.size)
        return truth, decode(image.source) if o.overlay or o.refine != "none" else None

    def finish(
        self,
        found: ImageObjects,
        grids: ObjectGrids,
        truth: GroundTruth | None,
        pixels: Image.Image | None,
    ) -> tuple[ImageResult, list[Mask]]:
        """Return an image's result and its objects' masks, the main one first.

        The main mask is empty where nothing is found. The masks are large: do not let them wait.

        Raises ImageError, and RunError for a file that cannot be written.
        """
        image = found.image
        sure = [_confidence(each) for each in _one_by_one(grids)]
        kept = [
            (each, confidence)
            for each, confidence in zip(_one_by_one(grids), sure, strict=True)
            if confidence >= self.options.min_confidence
        ] or [(_without_object(grids), max(sure))]
        made = [self._on_pixels(each, found.size, pixels) for each, _ in kept]
        masks = [mask for mask, _ in made]
        objects = [
            self._write_mask(image, k, mask, confidence)
            for k, (mask, (_, confidence)) in enumerate(zip(masks, kept, strict=True))
        ]
        line: dict[str, Any] = {**self.named, "image": image.path, **objects[0]}
        if grids.objects is not None:
            line["objects"] = [each for each in objects if each["box"] is not None]
        boxes = [each["box"] for each in objects if each["box"] is not None]
        if self.options.overlay and pixels is not None:
            drawn = highlight_objects(pixels, masks, boxes)
            drawn.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
            how = {"format": "JPEG", "quality": OVERLAY_QUALITY}
            line["overlay"] = self._write(image, OVERLAY_SUFFIX, drawn, **how)
        record = None
        if self.options.annotations is not None:
            files, record = self._annotate(self.options.annotations, found, masks, objects)
            line |= {"files": files} if files else {}
        one = None
        if truth is not None:
            mask, soft = made[0]
            if soft is None:
                soft = map_on(found.size, grids.map)
            one = self._score(truth, mask, soft, boxes, grids.heads)
            known = {"iou": one.iou, "located": one.located}
            line |= {key: value for key, value in known.items() if value is not None}
        return ImageResult(cast(Segmentation, line), one, record), masks

    def summary(
        self, images: int, failed: int, total: SegmentationTotals, rate: float
    ) -> SegmentSummary:
        """Return the model's summary; the means are there with ground truth."""
        means = total.means() if self.options.truth is not None or total.count else {}
        counts = {"images": images, "failed": failed}
        return cast(SegmentSummary, {**self.named, **counts, **means, "images_per_second": rate})

    def _write_mask(
        self, image: InputImage, k: int, mask: Mask, confidence: float
    ) -> SegmentObject:
        file = None
        if self.options.annotations is None:
            picture = Image.fromarray(mask).convert("L")
            file = self._write(image, mask_suffix(k), picture, format="PNG")
        return {
            "mask": file,
            "box": box_around(mask),
            "area": float(mask.mean()),
            "confidence": confidence,
        }

    def _annotate(
        self,
        annotations: AnnotationFormat,
        found: ImageObjects,
        masks: Sequence[Mask],
        objects: Sequence[SegmentObject],
    ) -> tuple[list[str], Any]:
        given = [
            FoundObject(mask, box, each["confidence"])
            for mask, each in zip(masks, objects, strict=True)
            if (box := each["box"]) is not None
        ]
        image = found.image
        return annotations.add(AnnotatedImage(image.below, image.result_stem, found.size, given))

    def _score(
        self,
        truth: GroundTruth,
        mask: Mask,
        soft: SoftMap,
        boxes: Sequence[list[int]],
        heads: Mask | None,
    ) -> SegmentationScore:
        if truth.labels is None:
            return SegmentationScore(located=is_located(boxes, truth.boxes or ()))
        labels = truth.labels
        if self.options.void == "keep":
            labels = np.where(labels == VOID, 0, labels)
        best = None
        if heads is not None:
            size = self.input_size
            best = best_head_jaccard(mask_on(size, heads), mask_on(size, labels))
        one = score_segmentation(mask, soft, labels, boxes, best)
        if truth.boxes is not None:
            one = replace(one, located=is_located(boxes, truth.boxes))
        return one

    def _on_pixels(
        self, grids: ObjectGrids, whole: Size, pixels: Image.Image | None
    ) -> tuple[Mask, SoftMap | None]:
        """Return the mask at the image's size, and the soft map if one was made for it."""
        mask, soft = _coarse(grids, whole)
        if pixels is None or self.options.refine == "none" or not mask.any():
            return mask, soft
        size = working_size(whole)
        rgb = np.array(pixels.resize(size[::-1], Image.Resampling.BICUBIC))
        target = _coarse(grids, size)[0].astype(np.float64)
        if self.options.refine == "bilateral":
            refined = bilateral(rgb, target)
        else:
            patch = max(-(-h // gh) for h, gh in zip(size, grids.map.shape, strict=True))
            refined = guided(rgb, target, 2 * patch)
        if size != whole:
            refined = map_on(whole, refined.astype(np.float32))
        largest = largest_object(refined)
        # Refinement may leave nothing in an image of noise: then the coarse mask is better.
        return (largest, refined) if largest.any() else (mask, soft)

    def _write(
        self, image: InputImage, suffix: str, picture: Image.Image, **how: Any
    ) -> str | None:
        if (file := self.options.file) is not None:
            path = file if suffix == mask_suffix() else file.with_name(file.stem + suffix)
        elif self.folder is None:
            return None
        else:
            path = result_path(self.folder, image.result_stem, suffix)
        return write_result(path, lambda file: picture.save(file, **how))


def _one_by_one(grids: ObjectGrids) -> list[ObjectGrids]:
    """Return one item per object; at least one."""
    if grids.objects is None:
        return [grids]
    objects = [mask for mask in grids.objects if mask.any()] or [grids.objects[0]]
    return [grids._replace(mask=mask) for mask in objects]


def _without_object(grids: ObjectGrids) -> ObjectGrids:
    return grids._replace(map=np.zeros_like(grids.map), mask=np.zeros(grids.map.shape, bool))


def _confidence(grids: ObjectGrids) -> float:
    mask = grids.map > MAP_THRESHOLD if grids.mask is None else grids.mask
    return center_confidence(mask)


def _coarse(grids: ObjectGrids, size: Size) -> tuple[Mask, SoftMap | None]:
    """Resize to (h, w) pixels: the mask, or of a back-end without masks the map and its mask."""
    if grids.mask is not None:
        return mask_on(size, grids.mask), None
    soft = map_on(size, grids.map)
    return soft > MAP_THRESHOLD, soft
