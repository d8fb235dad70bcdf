"""Ground truth of objects: masks and boxes, from files of annotations or the records of a dataset.

The kind of a file is recognized: a black and white mask (one object), a mask of numbers (a palette
or gray PNG of object or class ids, 255 for void, as in VOC's SegmentationClass and
SegmentationObject; in a folder `trimaps` the numbers of Oxford-IIIT Pets), a VOC annotation
(.xml, boxes only), LabelMe's (.json), YOLO's labels (.txt), or one JSON file of all images: COCO's
format, or an export of Label Studio.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from gtacli.data.base import Record
from gtacli.data.objects import GroundTruth
from gtacli.data.readers.annotation_file import read_annotation_file
from gtacli.data.readers.annotations import read_boxes
from gtacli.data.readers.labelme import read_labelme
from gtacli.data.readers.yolo import read_yolo
from gtacli.errors import UsageError
from gtacli.images.decode import ImageError, decode, open_image, read_header
from gtacli.images.find import IMAGE_SUFFIXES
from gtacli.images.packed import PackedImage, PackedMask
from gtacli.images.sizes import Size, clip_boxes
from gtacli.measures.segmentation import VOID

_VOID_IN_FILES = 255
_WHITE_16 = 224 * 257
_MOST_IDS = 200  # photographs and soft maps have more gray levels
_TRIMAPS = "trimaps"
"""The folder of Oxford-IIIT Pets' trimaps; read as ids, their background would be an object."""
_TRIMAP = (1, 0, VOID)
"""The meaning of a trimap's numbers from 1: object, background, border."""
_RACY = 2_000_000_000  # nanoseconds, the coarsest of file systems' clocks
_WORDS = ("mask", "masks", "segmentation", "seg", "gt", "label", "labels", "annotation", "matte")
_ENDINGS = ("", *(f"{mark}{word}" for word in _WORDS for mark in "_-."))
_SUFFIXES = (".png", *sorted(IMAGE_SUFFIXES - {".png"}), ".xml", ".json", ".txt")


def check_truth(path: Path, option: str) -> None:
    """Raise UsageError for what is neither a folder nor a file of annotations."""
    if os.path.isdir(path):
        return
    if not os.path.isfile(path):
        raise UsageError(f"no folder or file {path}", option=option)
    try:
        read_annotation_file(path)
    except ImageError as error:
        raise UsageError(
            f"{error}; give a folder of files named like the images, or a JSON file of COCO's "
            "format or of Label Studio's tasks",
            option=option,
        ) from error


def read_truth(
    where: Path,
    image: PurePath,
    size: Size,
    stem: str | None = None,
    source: Path | PackedImage | None = None,
) -> GroundTruth:
    """Read the ground truth of an image.

    Args:
        where: folder of the masks or annotations, or a file of all images' annotations.
        image: relative path of the image; its file in a folder has the same relative path, or the
            same name in `where` itself, with another suffix and perhaps `_mask`, `_segmentation`
            or the like before it.
        size: (h, w) of the image, upright.
        stem: the path of the image's results, without a suffix; looked for first, as it differs
            between images of equal relative paths.
        source: the image; None: it is not turned by its EXIF orientation.

    Raises ImageError for a file that is missing, unreadable, of another size, or neither black and
    white nor a mask of numbers.
    """
    path = find_truth(where, image, stem, source)
    orientation = partial(_orientation, source)
    if path == where:
        return read_annotation_file(path).read(image, size, orientation)
    if path.suffix.lower() == ".xml":
        return GroundTruth(boxes=read_boxes(path, size, orientation=orientation))
    if path.suffix.lower() == ".json":
        return read_labelme(path, size, orientation)
    if path.suffix.lower() == ".txt":
        return read_yolo(path, size)
    return GroundTruth(read_mask(path, size))


def read_record_truth(record: Record, size: Size) -> GroundTruth | None:
    """Read the ground truth of a dataset's image; None if the dataset has none.

    Raises ImageError as `read_truth` does.
    """
    if record.mask is None and record.boxes is None:
        return None
    labels = None if record.mask is None else read_mask(record.mask, size)
    boxes = None if record.boxes is None else clip_boxes(record.boxes, size)
    return GroundTruth(labels, boxes)


def read_mask(path: Path | PackedMask, size: Size | None = None) -> NDArray[np.int32]:
    """Read a mask as in `GroundTruth.labels`; white becomes object 1. Raises ImageError."""
    labels = path.labels() if isinstance(path, PackedMask) else _labels(path)
    if size is not None and labels.shape != size:
        h, w = labels.shape
        raise ImageError(
            f"ground truth {path} is {w} x {h} pixels, its image is {size[1]} x {size[0]}"
        )
    return labels


def _labels(path: Path) -> NDArray[np.int32]:
    numbers: NDArray[np.integer[Any]] | None = _numbers(path)
    if numbers is None:
        numbers = np.asarray(decode(path).convert("L"))
    top = numbers.max(initial=0)
    if path.parent.name == _TRIMAPS and numbers.size and numbers.min() > 0 and top <= len(_TRIMAP):
        return np.array((0, *_TRIMAP), np.int32)[numbers]
    if top <= 1:
        return (numbers > 0).astype(np.int32)
    black_white = _black_and_white(numbers) if top <= 255 else None
    if black_white is not None:
        return black_white
    if len(np.unique(numbers)) > _MOST_IDS:
        raise ImageError(f"ground truth {path} is not black and white, nor a mask of object ids")
    labels = numbers.astype(np.int32)
    labels[numbers == _VOID_IN_FILES] = VOID
    return labels


def _numbers(path: Path) -> NDArray[np.integer[Any]] | None:
    """Return the indices of a palette of ids, or 16 bit numbers too small for white, else None."""
    try:
        with open_image(path) as image:
            if image.mode != "P" and not image.mode.startswith("I"):
                return None
            colors = np.array(image.getpalette("RGB") or ()).reshape(-1, 3)
            indices = np.asarray(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ImageError(f"no such image: {path}") from error
    except Exception:  # decoding reports it better
        return None
    if not len(colors):
        return indices if indices.max(initial=0) < _WHITE_16 else None
    used = colors[np.unique(indices[indices < len(colors)])]
    gray = (colors == colors[:, :1]).all()
    two = np.isin(used, (0, 255)).all() and (used == used[:, :1]).all() and used.any()
    return None if gray or two else indices


def _black_and_white(gray: NDArray[np.integer[Any]]) -> NDArray[np.int32] | None:
    """Return the white pixels, or None if the values between black and white seem to be ids."""
    between = np.count_nonzero((gray > 0) & (gray < 224))
    white = np.count_nonzero(gray >= 224)
    only_ids = between and not ((gray > 31) & (gray < _VOID_IN_FILES)).any()
    if between > white or only_ids:
        return None
    return (gray > 127).astype(np.int32)


def _orientation(source: Path | PackedImage | None) -> int:
    return 1 if source is None else read_header(source)[2]


def find_truth(
    where: Path,
    image: PurePath,
    first: str | None = None,
    source: Path | PackedImage | None = None,
) -> Path:
    """Return the file of an image's ground truth, see `read_truth`. Raises ImageError."""
    if not os.path.isdir(where):
        return where
    stems = [image.with_suffix(""), PurePath(image.stem)]
    for stem in dict.fromkeys(stems if first is None else [PurePath(first), *stems]):
        parent = where / stem.parent
        names = _names(parent)
        for ending in _ENDINGS:
            for name in names.get(f"{stem.name}{ending}", ()):
                # Some tools write annotations beside the images, which are no truth of their own.
                if name != image.name or not _is_same(parent / name, source):
                    return parent / name
    raise ImageError(f"no ground truth for {image} in {where}")


def _is_same(path: Path, source: Path | PackedImage | None) -> bool:
    try:
        return isinstance(source, Path) and path.samefile(source)
    except OSError:
        return False


def _names(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the files of ground truth in a folder by stem; the list is kept until it changes."""
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return {}
    if time.time_ns() - changed < _RACY:  # its time may not tell the next change
        return _list_names(str(folder))
    return _kept_names(str(folder), changed)


@lru_cache(maxsize=256)
def _kept_names(folder: str, changed: int) -> dict[str, tuple[str, ...]]:
    return _list_names(folder)


def _list_names(folder: str) -> dict[str, tuple[str, ...]]:
    """List a folder; of equal stems the first by suffix comes first."""
    try:
        found = [os.path.splitext(name) for name in os.listdir(folder)]
    except OSError:
        return {}
    rank = {suffix: number for number, suffix in enumerate(_SUFFIXES)}
    usable = [(stem, suffix) for stem, suffix in found if suffix.lower() in rank]
    usable.sort(key=lambda one: (rank[one[1].lower()], not one[1].islower()))
    names: dict[str, tuple[str, ...]] = {}
    for stem, suffix in usable:
        names[stem] = (*names.get(stem, ()), stem + suffix)
    return names
