"""Records of a dataset from annotated images: whole photographs, or a crop of each object."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gta_coco.annotations import AnnotatedImage, AnnotatedObject, AnnotationFile
from gta_coco.drawing import CroppedPhoto, DrawnMask, Photo
from gtacli.data.base import NO_CLASS, SPLIT_NAMES, ImageDataset, LeftOut, Record, split_in_name
from gtacli.data.objects import find_turn
from gtacli.data.readers.table import sorted_labels
from gtacli.data.readers.table_images import ImageFinder, LostImage
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError, read_header
from gtacli.images.sizes import Box, clip_boxes, turn_box
from gtacli.measures.segmentation import VOID

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """The kind of thing that a record of the dataset is.

    Attributes:
        word: images: of the single class of its objects, or its tag; largest: of the largest
            object's class; objects: a crop of each object; scenes: all images, without classes.
        margin: of a crop, in per cent of the box's width and height, at each side.
    """

    word: str = "images"
    margin: int = 0


UNITS = ("images", "largest", "objects", "scenes")


class _Entry(NamedTuple):
    """A record before its class has a number; `split` is None where no file says it."""

    key: str
    name: str
    split: str | None
    source: Path | CroppedPhoto
    mask: DrawnMask | None
    boxes: tuple[Box, ...] | None


def build_dataset(name: str, files: Sequence[AnnotationFile], unit: Unit) -> ImageDataset:
    """Return the dataset of some files. Raises GtaError if it has no record."""
    lost: dict[str, list[str]] = defaultdict(list)
    top = os.path.commonpath([file.folder.absolute() for file in files])
    entries: list[_Entry] = []
    for file in files:
        default = _split_of(file.path) or ("train" if len(files) == 1 else None)
        entries += _entries(file, Path(top), default, unit, lost)
    left_out = tuple(
        LeftOut("images", reason, tuple(names), wrong=reason not in _EXPECTED)
        for reason, names in lost.items()
    )
    if not entries:
        raise GtaError(f"{name} has no image of use: {'; '.join(map(str, left_out)) or 'none'}")
    classes = sorted_labels({entry.name for entry in entries})
    numbers = {one: number for number, one in enumerate(classes)}
    splits: dict[str, list[Record]] = {}
    for key, label, split, source, mask, boxes in entries:
        if split is None:
            paths = ", ".join(str(file.path) for file in files)
            raise GtaError(f"which split each of {paths} is cannot be told: name them train.json …")
        record = Record(key, numbers[label], source, mask, boxes)
        splits.setdefault(split, []).append(record)
    if unit.word == "objects" and "val" not in splits:
        log.warning(
            "without a file of validation images, crops of one photograph may be both in those and "
            "in the training images: name two files, train.json,val.json"
        )
    found = {split: tuple(records) for split, records in splits.items()}
    return ImageDataset(name, classes, found, left_out=left_out)


def _split_of(path: Path) -> str | None:
    return split_in_name(path.stem) or SPLIT_NAMES.get(path.absolute().parent.name.lower())


_NOTHING, _SEVERAL = "no object with a class", "objects of several classes"
_EXPECTED = (_NOTHING, _SEVERAL)


def _entries(
    file: AnnotationFile, top: Path, default: str | None, unit: Unit, lost: dict[str, list[str]]
) -> Iterator[_Entry]:
    """Yield the records of a file; `lost` gets the images without one, by the reason."""
    finder = ImageFinder(file.folder, within=True)
    finder.prepare(name for image in file.images for name in image.names)
    for image in file.images:
        split = image.split or default
        try:
            found = _find(finder, image.names, split)
        except LostImage as error:
            lost[str(error)].append(image.names[0])
            continue
        path = file.folder / found
        key = (file.folder.absolute() / found).relative_to(top).as_posix()
        try:
            photo = _photo(path, image)
        except ImageError as error:
            lost["it cannot be read, or is not the annotated one"].append(f"{key} ({error})")
            continue
        if unit.word == "objects":
            crops = [*_crops(photo, image, key, split, unit.margin)]
            if not crops:
                lost[_NOTHING].append(key)
            yield from crops
            continue
        name, objects = _classify(image, unit)
        if name is None:
            lost[_SEVERAL if any(not one.crowd for one in image.objects) else _NOTHING].append(key)
            continue
        yield _Entry(key, name, split, path, _mask(photo, objects), _boxes(photo, objects))


def _find(finder: ImageFinder, names: Sequence[str], split: str | None) -> str:
    """Return the image of the first name that has one. Raises LostImage about the first name."""
    try:
        return finder.find(names[0], split)
    except LostImage:
        for name in names[1:]:
            with suppress(LostImage):
                return finder.find(name, split)
        raise


def _photo(path: Path, image: AnnotatedImage) -> Photo:
    """Return the photograph with the turn of its annotations. Raises ImageError."""
    height, width, orientation = read_header(path)
    upright = (width, height) if orientation >= 5 else (height, width)
    stored = image.size or upright
    try:
        return Photo(path, stored, find_turn(stored, upright, partial(int, orientation)))
    except ValueError as error:
        raise ImageError(f"the annotation of {path}: {error}") from error


def _classify(image: AnnotatedImage, unit: Unit) -> tuple[str | None, Sequence[AnnotatedObject]]:
    """Return the class of an image, None without one, and the objects that are of it."""
    if unit.word == "scenes":
        return NO_CLASS[0], image.objects
    objects = [one for one in image.objects if not one.crowd]
    names = {one.name for one in objects}
    if unit.word == "largest":
        sized = [one for one in objects if one.box is not None]
        names = {max(sized, key=_area).name} if sized else names
    if len(image.tags) == 1:
        return image.tags[0], image.objects
    if image.tags or len(names) != 1:
        return None, ()
    name = names.pop()
    return name, [one for one in image.objects if one.crowd or one.name == name]


def _area(one: AnnotatedObject) -> int:
    assert one.box is not None
    x0, y0, x1, y1 = one.box
    return (x1 - x0) * (y1 - y0)


def _crops(
    photo: Photo, image: AnnotatedImage, key: str, split: str | None, margin: int
) -> Iterator[_Entry]:
    for number, one in enumerate(image.objects, 1):
        found = _boxes(photo, [one]) if not one.crowd else ()
        if not found:
            continue
        x0, y0, x1, y1 = found[0]
        dx, dy = (x1 - x0) * margin // 100, (y1 - y0) * margin // 100
        crop = clip_boxes([(x0 - dx, y0 - dy, x1 + dx, y1 + dy)], photo.size)[0]
        mask = _mask(photo, [one], crop)
        inner = (x0 - crop[0], y0 - crop[1], x1 - crop[0], y1 - crop[1])
        part = CroppedPhoto(photo, crop)
        yield _Entry(f"{key}#{number}", one.name, split, part, mask, (inner,))


def _mask(
    photo: Photo, objects: Sequence[AnnotatedObject], crop: Box | None = None
) -> DrawnMask | None:
    """Return the mask of objects; None if one has only a box, as then its pixels are not known."""
    real = [one for one in objects if not one.crowd]
    boxes_only = bool(real) and all(one.plain for one in real)
    if boxes_only or not all(one.shapes for one in real) or not any(o.shapes for o in objects):
        return None
    crowds = [(VOID, shape) for one in objects if one.crowd for shape in one.shapes]
    shapes = [(number, shape) for number, one in enumerate(real, 1) for shape in one.shapes]
    return DrawnMask(photo, (*crowds, *shapes), crop)


def _boxes(photo: Photo, objects: Sequence[AnnotatedObject]) -> tuple[Box, ...] | None:
    """Return the boxes of the upright photograph; None if one is known by its pixels alone."""
    boxes = []
    for one in objects:
        if one.crowd:
            continue
        box = one.box or _bounds(photo, one)
        if box is not None:
            boxes.append(turn_box(box, photo.stored, photo.turn) if one.box else box)
    return clip_boxes(boxes, photo.size)


def _bounds(photo: Photo, one: AnnotatedObject) -> Box | None:
    """Return the box of an object's pixels; None if it has none."""
    if not one.shapes:
        return None
    labels = DrawnMask(photo, tuple((1, shape) for shape in one.shapes)).labels()
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
