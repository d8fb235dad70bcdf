"""Reader `coco20k`: the 19,817 images of COCO train2014 that benchmarks of object discovery use.

Vo et al. (2020) drew them; LOST (arXiv 2109.14279) and TokenCut published the list,
coco_20k_filenames.txt, with lines such as `train2014/COCO_train2014_000000560992.jpg`. The boxes
are those of instances_train2014.json without crowds, rounded as in LOST.

ROOT contains train2014/ (or images/train2014/) and annotations/ from COCO's archives, and the list
(which may also be beside ROOT, as in LOST). All images have the single class `image`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gtacli.data.base import DatasetReader, ImageDataset, Publication, Record, require_folder
from gtacli.data.readers.published import list_lines
from gtacli.data.readers.voc import CLASSES, Archive
from gtacli.errors import GtaError
from gtacli.images.sizes import LARGEST_SIDE, Box, Size, check_box
from gtacli.runtime.strict_json import read_json, reason_of

HOME = "http://images.cocodataset.org/"
IMAGES = Archive("train2014.zip", 13_510_573_713, "0da8c0bd3d6becc4dcb32757491aca88")
ANNOTATIONS = Archive(
    "annotations_trainval2014.zip", 252_872_794, "0a379cfc70b0e71301e0f377548639bd"
)
LIST = "coco_20k_filenames.txt"
LIST_HOME = "https://github.com/YangtaoWANG95/TokenCut/tree/master/datasets"


class COCO20k(DatasetReader):
    """The reader of COCO 20k."""

    help = "19,817 images of COCO train2014 for object discovery, with boxes, for gta segment"

    def read(self, root: Path | None) -> ImageDataset:
        root = require_folder(root, "coco20k")
        names = _names(root)
        folder = _image_folder(root)
        boxes = _boxes(root / "annotations" / "instances_train2014.json", set(names))
        records = tuple(
            Record(f"train2014/{name}", 0, folder / name, boxes=boxes[name]) for name in names
        )
        home = f"{HOME}zips/ as {IMAGES}"
        published = Publication("COCO 20k", home, {"train": 19_817}, len(CLASSES))
        return ImageDataset("coco20k", CLASSES, {"train": records}, published)


def _names(root: Path) -> list[str]:
    for path in (root / LIST, root.resolve().parent / LIST):
        if path.is_file():
            return [Path(line).name for _, line in list_lines(path)]
    raise GtaError(f"{root / LIST} is missing: it is published in {LIST_HOME}")


def _image_folder(root: Path) -> Path:
    for folder in (root / "train2014", root / "images" / "train2014"):
        if folder.is_dir():
            return folder
    raise GtaError(f"{root / 'train2014'} is missing: unpack {HOME}zips/{IMAGES} in {root}")


def _boxes(path: Path, names: set[str]) -> dict[str, tuple[Box, ...]]:
    """Read the boxes of the images `names`, by file name."""
    if not path.is_file():
        raise GtaError(
            f"{path} is missing: unpack {HOME}annotations/{ANNOTATIONS} in {path.parent.parent}"
        )
    try:
        content = read_json(path)
        by_id = {i["id"]: i["file_name"] for i in content["images"] if i["file_name"] in names}
        found: dict[str, list[Box]] = {name: [] for name in by_id.values()}
        for one in content["annotations"]:
            name = by_id.get(one["image_id"])
            if name is not None and one["iscrowd"] != 1 and (box := read_box(one["bbox"])):
                found[name].append(box)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = _reason(error)
        raise GtaError(f"cannot read {path}: {reason}; compare {ANNOTATIONS}") from error
    unknown = names - set(found)
    if unknown:
        raise GtaError(f"{path} has no image {min(unknown)}; compare {ANNOTATIONS}")
    return {name: tuple(boxes) for name, boxes in found.items()}


def read_box(xywh: Any, size: Size | None = None) -> Box | None:
    """Return the box of a `bbox` [x, y, width, height], rounded as in LOST.

    None for one that is too thin to cover a pixel, which nothing can match.

    Args:
        size: (h, w) of the image, which it may exceed; None: unknown, it must be in some image.

    Raises ValueError.
    """
    plain = isinstance(xywh, list) and len(xywh) == 4
    if not plain or any(isinstance(n, bool) or not isinstance(n, int | float) for n in xywh):
        raise ValueError(f"a `bbox` is not [x, y, width, height]: {str(xywh)[:60]}")
    x, y, w, h = xywh
    if w < 0 or h < 0 or max(abs(n) for n in xywh) > LARGEST_SIDE:
        raise ValueError(f"a `bbox` is outside of any image: {str(xywh)[:60]}")
    box = round(x), round(y), round(x + w), round(y + h)
    if box[0] == box[2] or box[1] == box[3]:
        return None
    check_box(box, size)
    return box


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    if isinstance(error, OSError | ValueError):
        return reason_of(error)
    return "it is no file of COCO's instances"
