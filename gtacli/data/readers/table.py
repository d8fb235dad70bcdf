"""Reader `csv`: tables `path,label[,split][,mask]`, paths relative to each table's own folder.

One table, several joined by commas (`train.csv,test.csv`), or a folder that holds `train.csv` and
perhaps `val.csv` and `test.csv`. A row's part is what its `split` column says; without the column,
of several tables, what the table's name says (`train.csv`, `birds_test.csv`); one table alone is
all training. The classes are those of all tables together.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import (
    NO_CLASS,
    SPLIT_NAMES,
    SPLITS,
    DatasetReader,
    ImageDataset,
    Record,
    split_in_name,
)
from gtacli.errors import GtaError
from gtacli.images.find import list_subfolders

Columns = tuple[str, ...]


class Row(NamedTuple):
    source: Path
    line: int
    cells: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.source}, line {self.line}"


def has_tables(folder: Path) -> bool:
    """Whether `folder` holds a set as `train.csv`, and not as `train/` of class folders.

    A train.csv without our columns may lie beside class folders for some other purpose.
    """
    table, train = folder / "train.csv", folder / "train"
    if not table.is_file() or (train.is_dir() and list_subfolders(train)):
        return False
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        header = [name.strip().strip('"').lower() for name in file.readline().split(",")]
    return {"path", "label"} <= set(header)


class Csv(DatasetReader):
    help = "a .csv of path,label[,split][,mask]; train.csv,test.csv; or a folder that holds those"

    def read(self, root: Path | None) -> ImageDataset:
        if root is None:
            raise GtaError("data set 'csv' needs a file: write csv:FILE.csv")
        return _dataset(root, ("path", "label"))

    def images(self, root: Path) -> ImageDataset:
        """All images in one class, whatever labels they have or lack."""
        return _dataset(root, ("path",))


def _dataset(root: Path, columns: Columns) -> ImageDataset:
    """Without the column of labels all are in one class."""
    sources = _sources(root)
    rows = {source: list(_rows(source, columns)) for source in sources}
    splits: dict[str, list[Record]] = {}
    named = (row.cells["label"] for part in rows.values() for row in part)
    classes = sorted_labels({*named}) if "label" in columns else NO_CLASS
    labels = {name: label for label, name in enumerate(classes)}
    # One name for an image, whichever table names it.
    top = Path(os.path.commonpath([source.parent.absolute() for source in sources]))
    seen: dict[str, Row] = {}
    for source, part in rows.items():
        default = "train" if len(sources) == 1 else split_in_name(source.stem)
        for row in part:
            record = _record(row, labels, top)
            if record.key in seen:
                first = seen[record.key].place
                raise GtaError(f"{row.place}: {record.key} is listed twice, first in {first}")
            seen[record.key] = row
            splits.setdefault(_split(row, default), []).append(record)
    _check_classes(splits, seen, classes)
    parts = {split: tuple(splits[split]) for split in SPLITS if split in splits}
    return ImageDataset(root.stem if len(sources) == 1 else top.name, classes, parts)


def _sources(root: Path) -> list[Path]:
    if root.is_dir():
        found = [root / f"{name}.csv" for name in SPLIT_NAMES if (root / f"{name}.csv").is_file()]
        if not found:
            raise GtaError(f"{root} holds no train.csv")
        return found
    listed = [root] if root.exists() else [Path(name.strip()) for name in str(root).split(",")]
    sources = [path.expanduser() for path in listed]
    for path in sources:
        if not path.is_file():
            raise GtaError(f"no such file: {path}")
    return sources


def _rows(source: Path, columns: Columns) -> Iterator[Row]:
    """Each has a value in every one of `columns`."""
    empty = True
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            for row in _cells(source, file, columns):
                empty = False
                yield row
    except OSError as error:
        raise GtaError(f"cannot read {source}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise GtaError(f"{source} is not a readable csv file: {error}") from error
    if empty:
        raise GtaError(f"{source} has no row below its header")


def _cells(source: Path, file: Iterable[str], columns: Columns) -> Iterator[Row]:
    """Names of columns and values stripped."""
    reader = csv.DictReader(file)
    header = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    for column in columns:
        if column not in header:
            got = ", ".join(header) or "an empty file"
            raise GtaError(f"{source}: no column '{column}' in its header (found {got})")
    reader.fieldnames = header
    for row in reader:
        clean = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        for column in columns:
            if not clean[column]:
                raise GtaError(f"{source}, line {reader.line_num}: no {column}")
        yield Row(source, reader.line_num, clean)


def _record(row: Row, labels: dict[str, int], top: Path) -> Record:
    folder, cells = row.source.parent, row.cells
    path = folder / cells["path"]
    if not path.is_file():
        raise GtaError(f"{row.place}: no such image: {path}")
    mask = folder / cells["mask"] if cells.get("mask") else None
    if mask is not None and not mask.is_file():
        raise GtaError(f"{row.place}: no such mask: {mask}")
    key = Path(cells["path"])
    if not key.is_absolute() and folder.absolute() != top:
        key = folder.absolute().relative_to(top) / key
    return Record(key.as_posix(), labels.get(cells.get("label", ""), 0), path, mask)


def _split(row: Row, default: str | None) -> str:
    given = row.cells.get("split")
    if given is None:
        if default is None:
            raise GtaError(
                f"{row.source}: which part is it? Give it a column 'split' or a name such as "
                "train.csv, val.csv, test.csv"
            )
        return default
    if given.lower() not in SPLIT_NAMES:
        raise GtaError(f"{row.place}: split must be train, val or test, got '{given}'")
    return SPLIT_NAMES[given.lower()]


def _check_classes(
    splits: dict[str, list[Record]], rows: dict[str, Row], classes: tuple[str, ...]
) -> None:
    known = {record.label for record in splits.get("train", ())}
    for split in ("val", "test"):
        for record in splits.get(split, ()):
            if known and record.label not in known:
                place, name = rows[record.key].place, classes[record.label]
                raise GtaError(f"{place}: class '{name}' is in {split} but not in train")


def sorted_labels(names: set[str]) -> tuple[str, ...]:
    """By value where every label is a whole number (2 before 10), by name otherwise."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
