"""Datasets as records in up to three splits, and the base classes of dataset readers.

A record is a file, or a `PackedImage` (a member of a shard, a row of a table, an array), so that
sampling, hold-out, caching, shuffling and resuming work the same for every source.

A plug-in of the group `gta.datasets` subclasses `DatasetReader`. Everything that a reader returns
is validated here.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from gtacli.errors import GtaError
from gtacli.images.packed import PackedImage, PackedMask
from gtacli.images.sources import Source, to_file
from gtacli.runtime.collection import without_collection
from gtacli.runtime.prefetch import ahead_in_blocks
from gtacli.runtime.regular import open_regular

if TYPE_CHECKING:
    from gtacli.data.streams.stream import ImageStream
    from gtacli.images.sizes import Box

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout"), "test"),
}
"""Splits by the names that people give them; `dev` and `eval` as in the library `datasets`."""


def split_in_name(name: str) -> str | None:
    """Return the split that a file's name contains (`birds-train-000.tar`), else None."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)  # TrainImages
    words = [word.removesuffix("set") for word in re.split(r"[^a-z]+", parted.lower())]
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a dataset.

    Attributes:
        key: permanent name, the path relative to the dataset with `/`.
        label: index of the class; `NO_LABEL` where an image has several.
        path: the image: the path of a file, or packed. Of a million images, paths as text save
            seconds and hundreds of megabytes.
        mask: mask of its objects, if the dataset has one: a file, or drawn from annotations.
        boxes: boxes of its objects, if the dataset has them; `()` means that there is no object.
        first: the key of its first row, if a table repeats an image.
        labels: ascending indices of its classes, in a dataset whose images have any number of them
            (also none); None: the image has the one class `label`.
    """

    key: str
    label: int
    path: Source
    mask: Path | PackedMask | None = None
    boxes: tuple[Box, ...] | None = None
    first: str | None = None
    labels: tuple[int, ...] | None = None

    @property
    def source(self) -> Path | PackedImage:
        """The file or packed image to decode."""
        return to_file(self.path)

    @property
    def image(self) -> str:
        """The key that all repeated rows of an image share."""
        return self.key if self.first is None else self.first

    @property
    def every_label(self) -> tuple[int, ...]:
        """The indices of all its classes."""
        return (self.label,) if self.labels is None else self.labels

    def open(self) -> BinaryIO:
        """Open the encoded image. Raises OSError, or what the image's container raises."""
        source = self.source
        return source.open() if isinstance(source, PackedImage) else open_regular(source)


NO_LABEL = -1
"""The `label` of an image with several; what expects one class fails on it."""
MOST_LABELS = 10_000
"""Labels of an image at most."""
NO_CLASS = ("",)
"""The classes of a dataset without labels."""


@dataclass(frozen=True)
class Publication:
    """A dataset as its authors publish it: title, home page, images by split, number of classes."""

    title: str
    home: str
    counts: Mapping[str, int]
    classes: int


@dataclass(frozen=True)
class LeftOut:
    """Files, rows or folders that a dataset does not use, all for the same reason.

    Attributes:
        kind: what they are, in the plural: files, images, folders, rows.
        reason: why, as the end of "left out: 3 files, ...".
        names: their names within the dataset.
        wrong: whether the dataset promises them: a table lists an image that does not exist.
        harmless: whether nothing is lost: they are no images.
    """

    kind: str
    reason: str
    names: tuple[str, ...]
    wrong: bool = False
    harmless: bool = False

    @property
    def suffixes(self) -> dict[str, int]:
        """The numbers of files by suffix, most frequent first; none of rows and folders."""
        if self.kind not in ("files", "images") or self.wrong:
            return {}
        return dict(Counter(os.path.splitext(n)[1].lower() for n in self.names).most_common())

    def __str__(self) -> str:
        count = len(self.names)
        kind = self.kind.removesuffix("s") if count == 1 else self.kind
        listed = [f"{n:,} {suffix or 'without suffix'}" for suffix, n in self.suffixes.items()]
        more = f", {len(listed) - 5} more suffixes" if len(listed) > 5 else ""
        kinds = f" ({', '.join(listed[:5])}{more})" if self.kind == "files" else ""
        names = ", ".join(self.names[: 5 if self.wrong else 1])
        return f"{count:,} {kind}{kinds}: {self.reason}, first {names}"


@dataclass(frozen=True)
class ImageDataset:
    """A labeled set of images; `splits` holds only the splits that exist (train, val, test).

    All its images have one class each, or all any number of them (`multi_label`).
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Record, ...]]
    published: Publication | None = None
    """The expected content, if it is known."""
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)
    """What its reader has passed over."""
    hint: str = field(default="", compare=False)
    """Where its classes may be instead, for a dataset with a single class."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(_as_text, self.classes)))
        _check(self)

    def __getitem__(self, split: str) -> tuple[Record, ...]:
        """Return the records of a split; none if the dataset lacks it."""
        return self.splits.get(split, ())

    @property
    def multi_label(self) -> bool:
        """True if an image has any number of classes."""
        return next(self.records())[1].labels is not None

    def describe_label(self, record: Record) -> str:
        """Return the name of a record's class, or the names of all of them."""
        return ", ".join(self.classes[label] for label in record.every_label)

    def records(self) -> Iterator[tuple[str, Record]]:
        """Yield every (split, record) in the order train, val, test."""
        for split in SPLITS:
            for record in self[split]:
                yield split, record

    @without_collection()
    def fingerprint(self) -> str:
        """Return a SHA-256 of class names, keys, labels, splits and sizes, independent of order."""
        records = [*self.records()]
        stamps = ahead_in_blocks(_stamp, (record.path for _, record in records))
        lines = [
            f"{record.key}\0{label_text(record)}\0{split}\0{stamp}"
            for (split, record), stamp in zip(records, stamps, strict=True)
        ]
        digest = hashlib.sha256()
        for line in (*self.classes, "", *sorted(lines)):
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def label_text(record: Record) -> str:
    """Return the label or the labels of a record, for digests."""
    return str(record.label) if record.labels is None else f"[{','.join(map(str, record.labels))}]"


def _as_text(name: str) -> str:
    r"""Return a class's name without the bytes of a folder's name that are no text here.

    A model's file, which is JSON, could not be read with them. UTF-8 is read as such in every
    locale; of other encodings nothing is known, so that their bytes become `\xe9`.
    """
    if name.isascii():
        return name
    raw = b"".join(
        bytes([ord(letter) - 0xDC00])  # as os.fsdecode has it
        if "\udc80" <= letter <= "\udcff"
        else letter.encode("utf-8", "backslashreplace")
        for letter in name
    )
    return raw.decode("utf-8", "backslashreplace")


class DatasetReader(ABC):
    """Base class of the `gta.datasets` entries: one layout on disk, or one dataset by name."""

    help: ClassVar[str] = ""
    """One line for listings."""
    needs_root: ClassVar[bool] = True
    """False if the reader finds its data itself, so that the name alone is a data spec."""

    @abstractmethod
    def read(self, root: Path | None) -> ImageDataset:
        """Read the dataset at `root` (None if no root was given). Raises GtaError."""

    def write_example(self, folder: Path) -> str | None:
        """Write a small dataset into a folder, on which the conformance suite checks the reader.

        Returns what stands behind `NAME:` (behind `NAME/` of a family); None: there is no example.
        """
        return None


class DatasetFamily(DatasetReader):
    """Base class of readers of many datasets with specs `FAMILY/REST` (`torch/pets:ROOT`)."""

    usage: ClassVar[str]
    """The form of a data spec, for messages."""

    @abstractmethod
    def open(self, rest: str) -> ImageDataset:
        """Read the dataset that `rest` names. Raises GtaError."""

    def images(self, rest: str, every_split: bool = False) -> ImageDataset | None:
        """Read the images alone, in a single class, for commands that need no labels.

        Args:
            every_split: whether to read validation and test images, too.

        Returns: None if all its datasets have labels.

        Raises GtaError.
        """
        return None

    def read(self, root: Path | None) -> ImageDataset:
        raise GtaError(f"the spec must name one dataset of the family: write {self.usage}")


class StreamedFamily(DatasetFamily):
    """Base class of families whose images can also be read one after the other, without an index.

    Commands that need neither classes nor an order of all images read the stream.
    """

    @abstractmethod
    def stream(self, rest: str) -> ImageStream:
        """Return the images that `rest` names, of all splits. Raises GtaError."""


def require_folder(root: Path | None, reader: str) -> Path:
    """Return `root` if it is a folder. Raises GtaError otherwise."""
    if root is None:
        raise GtaError(f"dataset '{reader}' needs a folder: write {reader}:FOLDER")
    if not os.path.exists(root):
        raise GtaError(f"no such folder: {root}")
    if not os.path.isdir(root):
        raise GtaError(f"{root} is a file, not a folder")
    return root


def _stamp(source: Source) -> int:
    if isinstance(source, PackedImage):
        return source.stamp()
    try:
        return os.stat(source).st_size
    except OSError:
        return -1  # a broken link is reported when it is decoded


def _check(dataset: ImageDataset) -> None:
    unknown = set(dataset.splits) - set(SPLITS)
    if unknown:
        raise GtaError(f"dataset {dataset.name}: unknown split '{min(unknown)}'")
    if not any(dataset.splits.values()):
        raise GtaError(f"dataset {dataset.name}: it has no image")
    seen: dict[str, str] = {}
    multi_label, classes = dataset.multi_label, len(dataset.classes)
    for split, record in dataset.records():
        if (record.labels is not None) != multi_label:
            raise GtaError(
                f"dataset {dataset.name}: {record.key} has one label, but other images several"
                if multi_label
                else f"dataset {dataset.name}: {record.key} has several labels, others have one"
            )
        if record.labels is not None or not 0 <= record.label < classes:
            _check_labels(dataset, record)  # a call for each image would delay large datasets
        if record.key in seen:
            where = {seen[record.key], split}
            splits = "twice" if len(where) == 1 else f"in both {' and '.join(sorted(where))}"
            raise GtaError(f"dataset {dataset.name}: {record.key} is listed {splits}")
        seen[record.key] = split


def _check_labels(dataset: ImageDataset, record: Record) -> None:
    """Raise GtaError unless a record's labels are classes, in order, and not too many."""
    labels = record.every_label
    for label in labels:
        if not 0 <= label < len(dataset.classes):
            raise GtaError(
                f"dataset {dataset.name}: {record.key} has label {label}, "
                f"outside the {len(dataset.classes)} classes"
            )
    if len(labels) > 1 and any(a >= b for a, b in pairwise(labels)):
        raise GtaError(f"dataset {dataset.name}: the labels of {record.key} do not ascend")
    if len(labels) > MOST_LABELS:
        text = f"{record.key} has {len(labels):,} labels; at most {MOST_LABELS:,} are read"
        raise GtaError(f"dataset {dataset.name}: {text}")
