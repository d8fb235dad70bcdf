"""Family `torch`: torchvision's labeled datasets with the spec `torch/NAME:ROOT`.

ROOT is torchvision's root, or the dataset's own folder in it. Nothing is downloaded. Pets, Aircraft
and Cars use the readers of their published layouts, which do not depend on the folder's name; the
others use the lists of torchvision's classes, without decoding images. torchvision verifies the MD5
of the files of CIFAR, STL-10, SVHN and Flowers; errors name a modified file. Arrays become records
that are encoded as PPM when they are opened, so that they are processed like other images.

The published val split remains the validation split (Flowers, DTD's first partition, Country211);
Aircraft's train and val are one split (see `aircraft`). STL-10's unlabeled split is not read.
"""

import difflib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gtacli.data.base import DatasetFamily, DatasetReader, ImageDataset, Record, require_folder
from gtacli.data.readers.aircraft import Aircraft
from gtacli.data.readers.cars import Cars
from gtacli.data.readers.pets import Pets
from gtacli.data.readers.torch_table import SETS, TorchSet
from gtacli.errors import GtaError, reason_of_library
from gtacli.images.packed import PackedImage
from gtacli.runtime.paths import user_path

PUBLISHED: dict[str, type[DatasetReader]] = {
    "oxfordiiitpet": Pets,
    "fgvcaircraft": Aircraft,
    "stanfordcars": Cars,
}
ALIASES = {
    "pets": "oxfordiiitpet",
    "aircraft": "fgvcaircraft",
    "cars": "stanfordcars",
    "flowers": "flowers102",
    "food": "food101",
}


class TorchSets(DatasetFamily):
    """The reader of torchvision's datasets."""

    help = "torchvision's datasets in its folders: torch/pets:ROOT, flowers, cars, cifar10, …"
    usage = "torch/NAME:ROOT"

    def open(self, rest: str) -> ImageDataset:
        name, _, place = rest.partition(":")
        plain = "".join(c for c in name.lower() if c.isalnum())
        plain = ALIASES.get(plain, plain)
        if plain not in PUBLISHED and plain not in SETS:
            known = [*ALIASES, *PUBLISHED, *SETS]
            near = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
            hint = f"; did you mean 'torch/{near[0]}'?" if near else ";"
            names = ", ".join(sorted({*ALIASES, *SETS} - set(ALIASES.values())))
            raise GtaError(f"torchvision has no labeled dataset '{name}'{hint} known: {names}")
        root = require_folder(user_path(place) if place else None, f"torch/{name}")
        return PUBLISHED[plain]().read(root) if plain in PUBLISHED else _read(SETS[plain], root)


def _read(each: TorchSet, root: Path) -> ImageDataset:
    from torchvision import datasets

    if root.name == each.folder and not (root / each.folder / each.needs[0]).exists():
        root = root.parent
    base = root / each.folder
    title, home = each.published.title, each.published.home
    for need in each.needs:
        if not (base / need).exists():
            raise GtaError(f"{base / need} is missing: {title} is published at {home}")
    cls = getattr(datasets, each.cls)
    splits: dict[str, tuple[Record, ...]] = {}
    classes: list[str] = []
    for split, word in each.splits:
        try:
            part = cls(root, train=split == "train") if each.flag else cls(root, split=word)
        except Exception as error:  # broken lists raise errors of many types
            raise GtaError(_reason(each, cls, base, error)) from error
        names = [str(name) for name in getattr(part, "classes", range(each.published.classes))]
        classes = classes or names
        if names != classes:
            raise GtaError(f"{base}: its {split} and train splits have different classes")
        splits[split] = tuple(_records(part, split, base))
    return ImageDataset(base.resolve().name, tuple(classes), splits, each.published)


def _records(part: Any, split: str, base: Path) -> Iterator[Record]:
    """Yield the records of a torchvision dataset, from its lists (under three names) or arrays."""
    samples = getattr(part, "_samples", None) or getattr(part, "samples", None)
    if samples is None and hasattr(part, "_image_files"):
        samples = zip(part._image_files, part._labels, strict=True)
    if samples is not None:
        for file, label in samples:
            path = Path(file)
            yield Record(path.relative_to(base).as_posix(), int(label), path)
        return
    images = np.asarray(part.data)
    if images.ndim == 4 and images.shape[1] == 3 != images.shape[3]:
        images = images.transpose(0, 2, 3, 1)
    for index, label in enumerate(getattr(part, "targets", getattr(part, "labels", ()))):
        key = f"{split}/{index}"
        yield Record(key, int(label), ArrayImage(images, index, f"{base.name}/{key}"))


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImage(PackedImage):
    """An image in an array, uint8 (N, H, W) or (N, H, W, 3), that all records share."""

    images: NDArray[np.uint8]
    index: int
    name: str

    def open(self) -> BinaryIO:
        image = self.images[self.index]
        kind = "P5" if image.ndim == 2 else "P6"
        header = f"{kind} {image.shape[1]} {image.shape[0]} 255\n"
        return BytesIO(header.encode() + image.tobytes())

    def stamp(self) -> int:
        return zlib.crc32(self.images[self.index].tobytes())

    def __str__(self) -> str:
        return self.name


def _reason(each: TorchSet, cls: Any, base: Path, error: Exception) -> str:
    from torchvision.datasets.utils import check_integrity

    for name, md5 in _checksums(cls):
        if (base / name).exists() and not check_integrity(base / name, md5):
            return (
                f"{base / name} is not the published file (its MD5 is not {md5}): "
                f"get it again from {each.published.home}"
            )
    what = reason_of_library(error)
    return f"torchvision cannot read {each.published.title} in {base} ({what})"


def _checksums(cls: Any) -> Iterator[tuple[str, str]]:
    """Yield (file, MD5) from the attributes of a torchvision class."""
    for listed in ("train_list", "test_list"):
        yield from getattr(cls, listed, ())
    for _, file, md5 in getattr(cls, "split_list", {}).values():
        yield file, md5
    if hasattr(cls, "_file_dict"):
        yield from (cls._file_dict[what] for what in ("label", "setid"))
    if hasattr(cls, "meta"):
        yield cls.meta["filename"], cls.meta["md5"]
