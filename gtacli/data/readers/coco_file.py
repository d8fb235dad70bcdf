"""Objects in a file of COCO's format: outlines, run lengths or boxes of many images in one JSON.

Format: cocodataset.org/#format-data; run lengths plain or as text (`gtacli.data.run_lengths`).
Crowds are unlabeled pixels, as COCO's evaluation ignores them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.data.objects import GroundTruth, fill_outline, find_turn, stated_size
from gtacli.data.readers.coco20k import read_box
from gtacli.data.run_lengths import decode_runs
from gtacli.images.decode import ImageError
from gtacli.images.sizes import Size, clip_boxes
from gtacli.measures.segmentation import VOID


@dataclass(frozen=True)
class CocoFile:
    """The annotations of a file.

    Attributes:
        path: the file.
        images: (h, w) of each image as stated, None if it is not, and its number, by `file_name`.
        names: the `file_name`s by the last part of each, where only one image has it.
        annotations: of each image, by its number.
        outlined: whether any annotation has more than a box.
    """

    path: Path
    images: Mapping[str, tuple[Size | None, int | str]]
    names: Mapping[str, str]
    annotations: Mapping[int | str, Sequence[Mapping[str, Any]]]
    outlined: bool

    def read(
        self, image: PurePath, size: Size, orientation: Callable[[], int] = lambda: 1
    ) -> GroundTruth:
        """Return the ground truth of an image; without labels if an object has only a box.

        Args:
            image: relative path of the image; its name is enough if only one image has it.
            size: (h, w) of the image, upright.
            orientation: returns EXIF's orientation of the image, 1 to 8, for annotations of the
                stored pixels, which are turned.

        Raises ImageError.
        """
        found = self.images.get(image.as_posix()) or self.images.get(self.names.get(image.name, ""))
        if found is None:
            raise ImageError(f"no ground truth for {image} in {self.path}")
        stated, number = found
        stored = stated or size
        try:
            turn = find_turn(stored, size, orientation)
            truth = self._truth(self.annotations.get(number, ()), stored)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, ValueError) else "it is no annotation of COCO"
            raise ImageError(f"{self.path}, image {image.name}: {reason}") from error
        return truth.turned(stored, turn)

    def _truth(self, annotations: Sequence[Mapping[str, Any]], size: Size) -> GroundTruth:
        crowds = [one for one in annotations if one.get("iscrowd") == 1]
        objects = [one for one in annotations if one.get("iscrowd") != 1]
        boxes = [read_box(one["bbox"], size) for one in objects if one.get("bbox")]
        known = clip_boxes((box for box in boxes if box), size)
        truth = GroundTruth(boxes=known if len(boxes) == len(objects) else None)
        if not self.outlined or not all(one.get("segmentation") for one in objects):
            return truth
        labels = np.zeros(size, np.int32)
        for one in crowds:
            if one.get("segmentation"):
                draw_segmentation(one["segmentation"], labels, VOID)
        for number, one in enumerate(objects, 1):
            draw_segmentation(one["segmentation"], labels, number)
        return GroundTruth(labels, truth.boxes)


def parse_coco(path: Path, content: Any) -> CocoFile:
    """Return the annotations in the content of a file.

    Raises ValueError, KeyError, TypeError or AttributeError for what is none.
    """
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError("it is no file of COCO's format: it needs `images` and `annotations`")
    images = {
        PurePath(one["file_name"].replace("\\", "/")).as_posix(): (
            stated_size(one.get("height"), one.get("width")),
            one["id"],
        )
        for one in content["images"]
    }
    names: dict[str, list[str]] = defaultdict(list)
    for name in images:
        names[PurePath(name).name].append(name)
    annotations = defaultdict(list)
    for one in content["annotations"]:
        annotations[one["image_id"]].append(one)
    return CocoFile(
        path,
        images,
        {name: alike[0] for name, alike in names.items() if len(alike) == 1},
        dict(annotations),
        any(one.get("segmentation") for one in content["annotations"]),
    )


def draw_segmentation(segmentation: Any, labels: NDArray[np.int32], number: int) -> None:
    """Draw outlines [[x, y, x, y, …], …], or run lengths {"size": [h, w], "counts": …}."""
    if isinstance(segmentation, dict):
        if segmentation["size"] != [*labels.shape]:
            raise ValueError("run lengths are of another size than the image")
        labels[decode_runs(segmentation["counts"], labels.shape)] = number
        return
    for outline in segmentation:
        if (
            len(outline) < 6
            or len(outline) % 2
            or any(type(n) not in (int, float) for n in outline)
        ):
            raise ValueError("an outline is not [x, y, x, y, …] of three corners or more")
        fill_outline(labels, np.array(outline, np.float64).reshape(-1, 2), number)
