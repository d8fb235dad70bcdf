"""What a data set is: records in up to three parts, and the contract of a reader.

A record need not be a file: whatever can be opened by itself (a member of a shard, a row of a
table, an array) is `Packed`. So sampling, hold-out, caching, shuffling and resuming are the same
for every source. A stream without labels and without a length would be no ImageDataset.

A plug-in of the group `gta.datasets` subclasses `DatasetReader`; everything it returns is checked
here once, so that a mistake in any layout ends in the same clear line.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from gtacli.errors import GtaError
from gtacli.images.packed import Packed

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def split_in_name(name: str) -> str | None:
    """The part that the words of a file's name say (`birds-train-000.tar`), if they say one."""
    words = re.split(r"[^a-z]+", name.lower())
    parts = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return parts.pop() if len(parts) == 1 else None


Box = tuple[int, int, int, int]
"""[x0, y0, x1, y1) in pixels."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image. `key` names it for ever (its path relative to the data set, with `/`).

    `mask` shows its objects and `boxes` are around them, where the set has them; no box at all
    (`()`) says that there is no object.
    """

    key: str
    label: int
    path: Path | Packed
    mask: Path | None = None
    boxes: tuple[Box, ...] | None = None

    def open(self) -> BinaryIO:
        """The encoded image. Raises OSError, or what the image's container raises."""
        return self.path.open("rb") if isinstance(self.path, Path) else self.path.open()


NO_CLASS = ("",)
"""The classes of a set without labels."""


@dataclass(frozen=True)
class Publication:
    """A set as its authors publish it: its name, its page, images a part, number of classes."""

    title: str
    home: str
    counts: Mapping[str, int]
    classes: int


@dataclass(frozen=True)
class ImageDataset:
    """A labelled image set; `splits` holds only the parts that exist (train, val, test)."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Record, ...]]
    published: Publication | None = None
    """What it should be, where that is known."""

    def __post_init__(self) -> None:
        _check(self)

    def __getitem__(self, split: str) -> tuple[Record, ...]:
        """The records of a part, none where the data set lacks it."""
        return self.splits.get(split, ())

    def records(self) -> Iterator[tuple[str, Record]]:
        """Every (split, record), the parts in the order train, val, test."""
        for split in SPLITS:
            for record in self[split]:
                yield split, record

    def fingerprint(self) -> str:
        """SHA-256 over class names, keys, labels, parts and sizes; not over their order."""
        lines = [
            f"{record.key}\0{record.label}\0{split}\0{_stamp(record.path)}"
            for split, record in self.records()
        ]
        digest = hashlib.sha256()
        for line in (*self.classes, "", *sorted(lines)):
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


class DatasetReader(ABC):
    """Base of the `gta.datasets` entries: one layout on disk, or one set by name."""

    help: ClassVar[str] = ""
    """One line for listings."""
    needs_root: ClassVar[bool] = True
    """False: the reader knows where its data lies, so a bare `--data NAME` is enough."""

    @abstractmethod
    def read(self, root: Path | None) -> ImageDataset:
        """The data set at `root` (None: none was given). Raises GtaError with one clear line."""


class DatasetFamily(DatasetReader):
    """Base of readers of many sets: `--data FAMILY/REST`, such as `torch/pets:ROOT`."""

    usage: ClassVar[str]
    """How it is written, for messages."""

    @abstractmethod
    def open(self, rest: str) -> ImageDataset:
        """The data set that `rest` names. Raises GtaError with one clear line."""

    def read(self, root: Path | None) -> ImageDataset:
        raise GtaError(f"these data sets have names of their own: write {self.usage}")


def require_folder(root: Path | None, reader: str) -> Path:
    """`root` if it is a folder; the reader's error line otherwise."""
    if root is None:
        raise GtaError(f"data set '{reader}' needs a folder: write {reader}:FOLDER")
    if not root.exists():
        raise GtaError(f"no such folder: {root}")
    if not root.is_dir():
        raise GtaError(f"{root} is a file, not a folder")
    return root


def _stamp(path: Path | Packed) -> int:
    if isinstance(path, Packed):
        return path.stamp()
    try:
        return path.stat().st_size
    except OSError:
        return -1  # a broken link is named when it is decoded; it must not break the fingerprint


def _check(dataset: ImageDataset) -> None:
    unknown = set(dataset.splits) - set(SPLITS)
    if unknown:
        raise GtaError(f"data set {dataset.name}: unknown part '{min(unknown)}'")
    if not any(dataset.splits.values()):
        raise GtaError(f"data set {dataset.name}: no image in it")
    seen: dict[str, str] = {}
    present: dict[str, set[int]] = {split: set() for split in SPLITS}
    for split, record in dataset.records():
        if not 0 <= record.label < len(dataset.classes):
            raise GtaError(
                f"data set {dataset.name}: {record.key} has label {record.label}, "
                f"outside the {len(dataset.classes)} classes"
            )
        if record.key in seen:
            where = {seen[record.key], split}
            parts = "twice" if len(where) == 1 else f"in both {' and '.join(sorted(where))}"
            raise GtaError(f"data set {dataset.name}: {record.key} is listed {parts}")
        seen[record.key] = split
        present[split].add(record.label)
    if dataset["train"]:
        for split in ("val", "test"):
            missing = present[split] - present["train"]
            if missing:
                name = dataset.classes[min(missing)]
                raise GtaError(
                    f"data set {dataset.name}: class '{name}' is in {split} but not in train"
                )
