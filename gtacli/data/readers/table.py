"""Reader `csv`: tables `path,label[,split][,mask]`, with paths relative to the table's folder.

A spec is one table, several joined by commas (`train.csv,test.csv`), or a folder with `train.csv`
and optionally `val.csv` and `test.csv`. The `split` column contains the split of a row; without it,
the name of a table does (`train.csv`, `birds_test.csv`); a single table is for training. The
classes are those of all tables together.
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
from gtacli.runtime.regular import open_regular_text


class CsvRow(NamedTuple):
    """A row of a table, with its cells by column."""

    source: Path
    line: int
    cells: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.source}, line {self.line}"


def has_tables(folder: Path) -> bool:
    """Return whether `folder` has a `train.csv` of images and no `train/` of class folders."""
    table, train = folder / "train.csv", folder / "train"
    if not table.is_file() or (train.is_dir() and list_subfolders(train)):
        return False
    with open_regular_text(table, "utf-8-sig", errors="replace") as file:
        header = [name.strip().strip('"').lower() for name in file.readline().split(",")]
    return {"path", "label"} <= set(header)


class Csv(DatasetReader):
    """The reader of tables."""

    help = "a .csv of path,label[,split][,mask]; train.csv,test.csv; or a folder with these"

    def read(self, root: Path | None) -> ImageDataset:
        if root is None:
            raise GtaError("dataset 'csv' needs a file: write csv:FILE.csv")
        return _dataset(root, ("path", "label"))

    def images(self, root: Path) -> ImageDataset:
        """Read all images in a single class, ignoring labels."""
        return _dataset(root, ("path",))


def _dataset(root: Path, columns: tuple[str, ...]) -> ImageDataset:
    """Read the tables; without the label column all images are in a single class."""
    sources = _sources(root)
    rows = {source: list(_rows(source, columns)) for source in sources}
    splits: dict[str, list[Record]] = {}
    names = (row.cells["label"] for table in rows.values() for row in table)
    classes = sorted_labels({*names}) if "label" in columns else NO_CLASS
    labels = {name: label for label, name in enumerate(classes)}
    # An image has the same key in all tables.
    top = Path(os.path.commonpath([source.parent.absolute() for source in sources]))
    seen: dict[str, CsvRow] = {}
    for source, table in rows.items():
        default = "train" if len(sources) == 1 else split_in_name(source.stem)
        for row in table:
            record = _record(row, labels, top)
            if record.key in seen:
                first = seen[record.key].place
                raise GtaError(f"{row.place}: {record.key} is listed twice, first in {first}")
            seen[record.key] = row
            splits.setdefault(_split(row, default), []).append(record)
    _check_classes(splits, seen, classes)
    ordered = {split: tuple(splits[split]) for split in SPLITS if split in splits}
    return ImageDataset(root.stem if len(sources) == 1 else top.name, classes, ordered)


def _sources(root: Path) -> list[Path]:
    if root.is_dir():
        found = [root / f"{name}.csv" for name in SPLIT_NAMES if (root / f"{name}.csv").is_file()]
        if not found:
            raise GtaError(f"{root} contains no train.csv")
        return found
    listed = [root] if root.exists() else [Path(name.strip()) for name in str(root).split(",")]
    sources = [path.expanduser() for path in listed]
    for path in sources:
        if not path.exists():
            raise GtaError(f"no such file: {path}")
    return sources


def _rows(source: Path, columns: tuple[str, ...]) -> Iterator[CsvRow]:
    """Yield the rows of a table, which must have a value in each of `columns`."""
    empty = True
    try:
        with open_regular_text(source, "utf-8-sig", newline="") as file:
            for row in _cells(source, file, columns):
                empty = False
                yield row
    except OSError as error:
        raise GtaError(f"cannot read {source}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise GtaError(f"{source} is not a readable csv file: {error}") from error
    if empty:
        raise GtaError(f"{source} has no row below its header")


def _cells(source: Path, file: Iterable[str], columns: tuple[str, ...]) -> Iterator[CsvRow]:
    """Yield the rows, with column names and values stripped."""
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
        yield CsvRow(source, reader.line_num, clean)


def _record(row: CsvRow, labels: dict[str, int], top: Path) -> Record:
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


def _split(row: CsvRow, default: str | None) -> str:
    given = row.cells.get("split")
    if given is None:
        if default is None:
            raise GtaError(
                f"{row.source}: its split is unclear; add a column 'split' or rename it, e.g. to "
                "train.csv, val.csv or test.csv"
            )
        return default
    if given.lower() not in SPLIT_NAMES:
        raise GtaError(f"{row.place}: split must be train, val or test, got '{given}'")
    return SPLIT_NAMES[given.lower()]


def _check_classes(
    splits: dict[str, list[Record]], rows: dict[str, CsvRow], classes: tuple[str, ...]
) -> None:
    known = {record.label for record in splits.get("train", ())}
    for split in ("val", "test"):
        for record in splits.get(split, ()):
            if known and record.label not in known:
                place, name = rows[record.key].place, classes[record.label]
                raise GtaError(f"{place}: class '{name}' is in {split} but not in train")


def sorted_labels(names: set[str]) -> tuple[str, ...]:
    """Sort labels by value if all are integers (2 before 10), by name otherwise."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
