"""Family `voc`: PASCAL VOC 2007 and 2012 as published, for object discovery and segmentation.

    voc/YEAR[-seg|-instances][-SPLIT][-nohard]:ROOT

- Without -seg: images of ImageSets/Main with the boxes of their Annotations. SPLIT defaults to
  trainval, on subset LOST (arXiv 2109.14279) and TokenCut report CorLoc over all objects; -nohard
  omits truncated and difficult objects, and images without others, like LOST's `--no_hard`.
- -seg: images of ImageSets/Segmentation with SegmentationClass, -instances: with
  SegmentationObject. SPLIT defaults to val, on subset DINO's attention is evaluated on VOC 2012.

SPLIT may also be train, val, trainval, or test (2007 only). ROOT is the folder of VOCdevkit, that
folder itself, or VOC2012 in it. An image may show several classes, so all have the single class
`image`: these datasets are not for training a classifier. See Everingham et al. (2010).
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
from gtacli.runtime.paths import user_path

CLASSES = ("image",)


@dataclass(frozen=True)
class Archive:
    """An archive of the authors; the MD5 is torchvision's."""

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
SPLITS = {
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
    """The reader of PASCAL VOC."""

    help = "PASCAL VOC for gta segment: voc/2012:ROOT (boxes), voc/2012-seg:ROOT (classes), 2007"
    usage = "voc/2012:ROOT or voc/2007:ROOT, with -seg or -instances after the year for masks"

    def open(self, rest: str) -> ImageDataset:
        name, _, place = rest.partition(":")
        subset = _read_name(name)
        root = require_folder(user_path(place) if place else None, f"voc/{name}")
        base = _base(root, subset)
        splits = {split: tuple(_records(base, split, subset)) for split in SPLITS[subset.split]}
        return ImageDataset(f"voc/{name}", CLASSES, splits, _published(subset))


@dataclass(frozen=True)
class _VocSubset:
    """The subset that a spec names."""

    year: str
    truth: str | None
    split: str
    hard: bool

    @property
    def lists(self) -> str:
        return "Main" if self.truth is None else "Segmentation"

    @property
    def archive(self) -> Archive:
        return TEST if self.split == "test" else TRAINVAL[self.year]


def _read_name(name: str) -> _VocSubset:
    year, *words = name.split("-")
    if year not in TRAINVAL:
        raise GtaError(f"voc/{name}: the years are 2007 and 2012; write {VOC.usage}")
    truths = [word for word in words if word in TRUTHS]
    splits = [word for word in words if word in SPLITS]
    odd = [word for word in words if word not in (*TRUTHS, *SPLITS, "nohard")]
    if odd or len(words) != len(set(words)) or len(truths) > 1 or len(splits) > 1:
        raise GtaError(
            f"voc/{name}: the year can be followed by -seg or -instances, one of "
            f"{', '.join('-' + split for split in SPLITS)}, and -nohard"
        )
    subset = _VocSubset(
        year,
        truths[0] if truths else None,
        splits[0] if splits else "val" if truths else "trainval",
        "nohard" not in words,
    )
    if subset.truth and not subset.hard:
        raise GtaError(f"voc/{name}: -nohard applies to boxes only; omit -{subset.truth}")
    if subset.split == "test" and year != "2007":
        raise GtaError(f"voc/{name}: the ground truth of the test split is published for 2007 only")
    return subset


def _base(root: Path, subset: _VocSubset) -> Path:
    """Return the folder VOC2007 or VOC2012."""
    own = f"VOC{subset.year}"
    places = [root, root / own, root / "VOCdevkit" / own]
    others = {f"VOC{year}" for year in TRAINVAL} - {own}
    for place in places:
        if (place / "ImageSets").is_dir() and place.resolve().name not in others:
            return place
    raise _missing(root / "VOCdevkit" / own, subset)


def _records(base: Path, split: str, subset: _VocSubset) -> list[Record]:
    lines = base / "ImageSets" / subset.lists / f"{split}.txt"
    if not lines.is_file():
        raise _missing(lines, subset)
    records = []
    for _, line in list_lines(lines):
        image = line.split()[0]
        photo = base / "JPEGImages" / f"{image}.jpg"
        if subset.truth is not None:
            mask = base / TRUTHS[subset.truth] / f"{image}.png"
            if not mask.is_file():
                raise _missing(mask, subset)
            records.append(Record(photo.name, 0, photo, mask))
            continue
        boxes = _boxes(base / "Annotations" / f"{image}.xml", subset)
        if boxes or subset.hard:
            records.append(Record(photo.name, 0, photo, boxes=boxes))
    return records


def _boxes(path: Path, subset: _VocSubset) -> tuple[Box, ...]:
    if not path.is_file():
        raise _missing(path, subset)
    try:
        return read_boxes(path, hard=subset.hard)
    except ImageError as error:
        raise GtaError(f"{error}; compare {subset.archive}") from error


def _missing(path: Path, subset: _VocSubset) -> GtaError:
    return GtaError(
        f"{path} is missing: it is in {subset.archive}. VOC's own host no longer serves it: "
        "use a mirror's copy, compare its MD5, and unpack it in ROOT"
    )


def _published(subset: _VocSubset) -> Publication | None:
    """Return the published numbers; there are none for -nohard."""
    if not subset.hard:
        return None
    counts = COUNTS[subset.year, subset.lists]
    home = f"http://host.robots.ox.ac.uk/pascal/VOC/ as {subset.archive}; use a mirror's copy"
    title = f"PASCAL VOC {subset.year}"
    return Publication(title, home, {s: counts[s] for s in SPLITS[subset.split]}, len(CLASSES))
