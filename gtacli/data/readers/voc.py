"""Family `voc`: PASCAL VOC 2007 and 2012 as published (Everingham et al., 2010), for object
discovery and segmentation.

    voc/YEAR[-seg|-instances][-PART][-nohard]:ROOT

- Without -seg: images of ImageSets/Main with the boxes of their Annotations. PART is trainval, on
  which LOST (arXiv 2109.14279) and TokenCut report CorLoc over all objects; -nohard leaves out
  truncated and difficult ones and images that have no other, as LOST's `--no_hard` does.
- -seg: images of ImageSets/Segmentation with SegmentationClass, -instances: with
  SegmentationObject. PART is val, on which DINO's attention is evaluated on VOC 2012.

PART may also be train, val, trainval or, of 2007, test. ROOT is the folder of VOCdevkit, that
folder itself, or VOC2012 in it. An image may show several classes, so all have the one class
`image`: these sets are for looking, not for training a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gtacli.data.base import DatasetFamily, ImageDataset, Publication, Record, require_folder
from gtacli.data.readers.annotations import read_boxes
from gtacli.data.readers.published import list_lines
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError
from gtacli.images.sizes import Box

CLASSES = ("image",)


@dataclass(frozen=True)
class Archive:
    """What its authors' site served; MD5 as torchvision lists it."""

    name: str
    size: int
    md5: str

    def __str__(self) -> str:
        return f"{self.name} ({self.size:,} bytes, MD5 {self.md5})"


TRAINVAL = {
    "2007": Archive("VOCtrainval_06-Nov-2007.tar", 460_032_000, "c52e279531787c972589f7e41ab4ae64"),
    "2012": Archive(
        "VOCtrainval_11-May-2012.tar", 1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd"
    ),
}
TEST = Archive("VOCtest_06-Nov-2007.tar", 451_020_800, "b6e924de25625d8de591ea690078ad9f")
TRUTHS = {"seg": "SegmentationClass", "instances": "SegmentationObject"}
PARTS = {
    "train": ("train",),
    "val": ("val",),
    "trainval": ("train", "val"),
    "test": ("test",),
}
COUNTS = {
    ("2007", "Main"): {"train": 2501, "val": 2510, "test": 4952},
    ("2012", "Main"): {"train": 5717, "val": 5823},
    ("2007", "Segmentation"): {"train": 209, "val": 213, "test": 210},
    ("2012", "Segmentation"): {"train": 1464, "val": 1449},
}


class VOC(DatasetFamily):
    help = "PASCAL VOC for gta segment: voc/2012:ROOT (boxes), voc/2012-seg:ROOT (classes), 2007"
    usage = "voc/2012:ROOT or voc/2007:ROOT, with -seg or -instances after the year for masks"

    def open(self, rest: str) -> ImageDataset:
        name, _, place = rest.partition(":")
        which = _read_name(name)
        root = require_folder(Path(place).expanduser() if place else None, f"voc/{name}")
        base = _base(root, which)
        splits = {split: tuple(_records(base, split, which)) for split in PARTS[which.part]}
        return ImageDataset(f"voc/{name}", CLASSES, splits, _published(which))


@dataclass(frozen=True)
class _Which:
    """A sub-set as its name says it."""

    year: str
    truth: str | None
    part: str
    hard: bool

    @property
    def lists(self) -> str:
        return "Main" if self.truth is None else "Segmentation"

    @property
    def archive(self) -> Archive:
        return TEST if self.part == "test" else TRAINVAL[self.year]


def _read_name(name: str) -> _Which:
    year, *words = name.split("-")
    if year not in TRAINVAL:
        raise GtaError(f"voc/{name}: the years are 2007 and 2012; write {VOC.usage}")
    truths = [word for word in words if word in TRUTHS]
    parts = [word for word in words if word in PARTS]
    odd = [word for word in words if word not in (*TRUTHS, *PARTS, "nohard")]
    if odd or len(words) != len(set(words)) or len(truths) > 1 or len(parts) > 1:
        raise GtaError(
            f"voc/{name}: after the year may stand -seg or -instances, one of "
            f"{', '.join('-' + part for part in PARTS)}, and -nohard"
        )
    which = _Which(
        year,
        truths[0] if truths else None,
        parts[0] if parts else "val" if truths else "trainval",
        "nohard" not in words,
    )
    if which.truth and not which.hard:
        raise GtaError(f"voc/{name}: -nohard is about boxes; leave out -{which.truth}")
    if which.part == "test" and year != "2007":
        raise GtaError(f"voc/{name}: the truth of the test part is published for 2007 alone")
    return which


def _base(root: Path, which: _Which) -> Path:
    """The folder VOC2007 or VOC2012."""
    own = f"VOC{which.year}"
    places = [root, root / own, root / "VOCdevkit" / own]
    others = {f"VOC{year}" for year in TRAINVAL} - {own}
    for place in places:
        if (place / "ImageSets").is_dir() and place.resolve().name not in others:
            return place
    raise _lacks(root / "VOCdevkit" / own, which)


def _records(base: Path, split: str, which: _Which) -> list[Record]:
    lines = base / "ImageSets" / which.lists / f"{split}.txt"
    if not lines.is_file():
        raise _lacks(lines, which)
    records = []
    for _, line in list_lines(lines):
        image = line.split()[0]
        photo = base / "JPEGImages" / f"{image}.jpg"
        if which.truth is not None:
            mask = base / TRUTHS[which.truth] / f"{image}.png"
            if not mask.is_file():
                raise _lacks(mask, which)
            records.append(Record(photo.name, 0, photo, mask))
            continue
        boxes = _boxes(base / "Annotations" / f"{image}.xml", which)
        if boxes or which.hard:
            records.append(Record(photo.name, 0, photo, boxes=boxes))
    return records


def _boxes(path: Path, which: _Which) -> tuple[Box, ...]:
    if not path.is_file():
        raise _lacks(path, which)
    try:
        return read_boxes(path, hard=which.hard)
    except ImageError as error:
        raise GtaError(f"{error}; compare {which.archive}") from error


def _lacks(path: Path, which: _Which) -> GtaError:
    return GtaError(
        f"{path} is missing: it is in {which.archive}. VOC's own host no longer serves it: take a "
        "mirror's copy, compare its MD5, and unpack it in ROOT"
    )


def _published(which: _Which) -> Publication | None:
    """What photographs there should be; -nohard leaves a number out that nobody published."""
    if not which.hard:
        return None
    counts = COUNTS[which.year, which.lists]
    home = f"http://host.robots.ox.ac.uk/pascal/VOC/ as {which.archive}; take a mirror's copy"
    title = f"PASCAL VOC {which.year}"
    return Publication(title, home, {s: counts[s] for s in PARTS[which.part]}, len(CLASSES))
