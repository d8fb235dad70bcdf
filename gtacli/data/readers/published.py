"""The base class of readers of published layouts, and functions that read their lists.

A reader does not check that the images exist; `require_images` checks the whole dataset once, so
that `gta data check` can report all that are missing.
"""

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from gtacli.data.base import DatasetReader, ImageDataset, Publication, Record, require_folder
from gtacli.errors import GtaError, reason_of_library
from gtacli.images.packed import PackedImage
from gtacli.runtime.regular import read_regular_text

ClassId = TypeVar("ClassId", int, str)


class PublishedReader(DatasetReader):
    """Base class of readers of a dataset in the layout of its authors' archives."""

    name: ClassVar[str]
    published: ClassVar[Publication]
    tops: ClassVar[tuple[str, ...]] = ()
    """Top folders of its archives, in which the dataset may be below the given folder."""
    layouts: ClassVar[tuple[tuple[str, ...], ...]]
    """Known layouts, each with the files and folders that it must contain."""

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether `root` itself has one of the layouts."""
        return any(all((root / mark).exists() for mark in marks) for marks in cls.layouts)

    def read(self, root: Path | None) -> ImageDataset:
        root = require_folder(root, self.name)
        places = [root, *(root / top for top in self.tops if (root / top).is_dir())]
        for place in places:
            if self.recognizes(place):
                return self.read_layout(place)
        place = places[-1]
        nearest = min(self.layouts, key=lambda marks: len(_absent(place, marks)))
        absent = ", ".join(_absent(place, nearest))
        title, home = self.published.title, self.published.home
        raise GtaError(f"{place} is not a {title} folder, it lacks {absent}; published at {home}")

    @abstractmethod
    def read_layout(self, root: Path) -> ImageDataset:
        """Read the dataset at `root`, which has one of the layouts."""

    def dataset(
        self,
        root: Path,
        names: Mapping[ClassId, str],
        rows: Mapping[str, Sequence[tuple[str, ClassId]]],
        images: Path,
        masks: Path | None = None,
    ) -> ImageDataset:
        """Create the dataset from its lists.

        Args:
            root: folder of the dataset.
            names: class names by id, in the order of the labels.
            rows: keys and class ids of the images by split; empty splits are omitted.
            images: folder of the images; a key is the path in it.
            masks: folder of the masks (.png), which need not exist.
        """
        labels = {class_id: label for label, class_id in enumerate(names)}

        def record(key: str, class_id: ClassId) -> Record:
            mask = (masks / key).with_suffix(".png") if masks else None
            mask = mask if mask and mask.exists() else None
            return Record(key, labels[class_id], images / key, mask)

        splits = {s: tuple(record(*row) for row in part) for s, part in rows.items() if part}
        return ImageDataset(root.resolve().name, tuple(names.values()), splits, self.published)


def require_images(dataset: ImageDataset) -> None:
    """Raise GtaError if an image of a published dataset is missing."""
    if dataset.published is None:  # what its reader has just found is there
        return
    missing = [record for _, record in dataset.records() if is_missing(record)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GtaError(
            f"{missing[0].path}{more} of {dataset.published.title} missing; "
            f"published at {dataset.published.home}"
        )


def is_missing(record: Record) -> bool:
    """Return whether the record is a file that does not exist."""
    return not isinstance(record.path, PackedImage) and not os.path.isfile(record.path)


def list_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the nonempty lines of a list."""
    try:
        lines = read_regular_text(path).splitlines()
    except OSError as error:
        raise GtaError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.strip()


def list_fields(path: Path, names: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number, fields) of the lines of a list, with one field for each of `names`."""
    count = len(names.split())
    for number, line in list_lines(path):
        fields = line.split(maxsplit=count - 1)
        if len(fields) != count:
            raise GtaError(f"{path}, line {number}: expected '{names}', got '{line}'")
        yield number, fields


def read_mat(path: Path, *names: str) -> list[list[Any]]:
    """Read the variables `names` of a MATLAB file, each as a flat list."""
    import numpy as np
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises many types of errors for a broken file
        reason = reason_of_library(error)
        raise GtaError(f"cannot read {path}: not a readable MATLAB file ({reason})") from error
    for name in names:
        if name not in content:
            raise GtaError(f"{path} has no variable '{name}'")
    return [list(np.atleast_1d(content[name]).ravel()) for name in names]


def _absent(root: Path, marks: tuple[str, ...]) -> list[str]:
    return [mark for mark in marks if not (root / mark).exists()]
