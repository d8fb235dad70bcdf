"""Reader `csv`: tables `path,label[,split][,mask]`, with paths relative to the table's folder.

A spec is one table, several joined by commas (`train.csv,test.csv`), or a folder with `train.csv`
and optionally `val.csv` and `test.csv`, or with `metadata.csv` as the library `datasets` writes it.
Tables are read as programs write them, see `table_file`, `table_columns` and `table_images`;
`birds.csv?image=photo,label=kind` names columns.

The `split` column contains the split of a row; without it, the name of a table does (`train.csv`,
`birds_test.csv`); a single table is for training, unless all its paths begin with the folders of
splits. The classes are those of all tables together. A row that is repeated in the training split
counts as often as it is listed; its images are held out together.

With `multi_label` an image has any number of labels: those of a cell (see `label_cells`), or a
column of zeros and ones for each class; the labels of several rows of an image are put together.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import (
    MOST_LABELS,
    NO_CLASS,
    NO_LABEL,
    SPLIT_NAMES,
    SPLITS,
    DatasetReader,
    ImageDataset,
    LeftOut,
    Record,
    split_in_name,
)
from gtacli.data.readers.label_cells import find_separator, split_labels
from gtacli.data.readers.loose import list_tables
from gtacli.data.readers.split_folders import has_class_folders
from gtacli.data.readers.table_columns import (
    EMPTY,
    Columns,
    choose_columns,
    has_header,
    parse_columns,
)
from gtacli.data.readers.table_file import Row, is_text, read_head, read_rows
from gtacli.data.readers.table_images import ImageFinder
from gtacli.errors import GtaError
from gtacli.images.find import (
    find_images,
    has_images,
    list_folder,
    list_subfolders,
    relative_keys,
)
from gtacli.runtime.paths import user_path

log = logging.getLogger(__name__)
_FILES = (".csv", ".tsv", ".jsonl", ".parquet")
_WHOLE = re.compile(r"\d+\.0+")
_LIST = re.compile(r"\[.*,.*\]|\{.*,.*\}")
_REPEATED = "listed before, and counted once outside of training"
_HERE = Path()


class TableRow(NamedTuple):
    """A row of a table with what its columns say; `labels` where an image has several."""

    source: Path
    line: int
    image: str
    label: str
    split: str | None
    mask: str
    labels: tuple[str, ...] | None = None

    @property
    def place(self) -> str:
        return f"{self.source}, line {self.line}"


@dataclass(frozen=True)
class _Table:
    """The rows of a table with values in all columns that are needed.

    Attributes:
        classes: the names of its columns of zeros and ones, if an image has several labels.
    """

    source: Path
    rows: list[TableRow]
    finder: ImageFinder
    left_out: list[LeftOut] = field(default_factory=list)
    classes: tuple[str, ...] = ()


def has_tables(folder: Path) -> bool:
    """Return whether `folder` has tables of labeled images and no folders of classes.

    These are `train.csv`, or `metadata.csv` in it or in the folders of its splits, or the only
    table beside images without class folders, in it or in each of its splits.
    """
    for one in list_subfolders(folder):
        if SPLIT_NAMES.get(one.name.lower()) == "train" and has_class_folders(one):
            return False
    try:
        tables = _sources(folder)
        stems = [table.stem.lower() for table in tables]
        trains = any(SPLIT_NAMES.get(stem, "train") == "train" for stem in stems)
        return trains and any(_has_header(table) for table in tables)
    except GtaError:
        return False


def _only_table(folder: Path, several: bool = False) -> list[Path]:
    """Return the only table of labeled images in a folder that has no class folders."""
    filled = [one for one in list_subfolders(folder) if has_images(one)]
    loose = [one for one in filled if split_in_name(one.name) is None]
    if len(loose) > 1 or any(map(has_class_folders, filled)):
        return []
    tables = [table for table in list_tables(folder) if _has_header(table, several)]
    return tables if len(tables) == 1 else []


def _has_header(table: Path, several: bool = False) -> bool:
    rows = read_head(table) if is_text(table) else read_rows(table)
    return has_header(rows, several)


class Csv(DatasetReader):
    """The reader of tables.

    Args:
        multi_label: whether an image has any number of labels.
    """

    help = "a .csv, .tsv or .parquet of path,label[,split][,mask]; train.csv,test.csv; or a folder"

    def __init__(self, multi_label: bool = False) -> None:
        self.multi_label = multi_label

    def read(self, root: Path | None) -> ImageDataset:
        if root is None:
            raise GtaError("dataset 'csv' needs a file: write csv:FILE.csv")
        return _read(root, needs_label=True, several=self.multi_label)

    def images(self, root: Path) -> ImageDataset:
        """Like `read`, but in a single class unless all rows have labels."""
        try:
            found = _read(root, needs_label=True)
        except GtaError:
            found = None
        if found is None or any(one.kind == "rows" and one.wrong for one in found.left_out):
            found = _read(root, needs_label=False)
        return found


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Return the tables of a spec and the columns that it names: `birds.csv?image=photo`."""
    tables, mark, columns = spec.rpartition("?")
    if not mark or "=" not in columns or os.path.exists(spec):
        return spec, {}
    return tables, parse_columns(columns)


def _read(root: Path, needs_label: bool, several: bool = False) -> ImageDataset:
    """Read the tables; without the label column all images are in a single class."""
    spec, named = split_spec(str(root))
    root = Path(spec)
    sources = _sources(root, several)
    tables = [_read_table(source, named, needs_label, several) for source in sources]
    # An image has the same key in all tables.
    top = Path(os.path.commonpath([source.parent.absolute() for source in sources]))
    entries = _Entries(top)
    for table in tables:
        default = _default_split(table, single=len(sources) == 1)
        for row in table.rows:
            entries.add(row, table.finder, default)
    if not entries.found:
        row = tables[0].rows[0]
        raise GtaError(f"{row.place}: no such image: {row.source.parent / row.image}")
    found = entries.merged() if several else entries.found
    classes = _classes(found, tables, several) if needs_label else NO_CLASS
    numbers = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[Record]] = {}
    for entry in found:
        record = _record(entry, numbers)
        splits.setdefault(entry.split, []).append(record)
    return ImageDataset(
        root.stem if len(sources) == 1 and not os.path.isdir(root) else top.name,
        classes,
        {split: tuple(splits[split]) for split in SPLITS if split in splits},
        left_out=(
            *(one for table in tables for one in table.left_out),
            *entries.left_out,
            *(_find_unlisted(root, found) if os.path.isdir(root) else ()),
        ),
    )


def _classes(found: Sequence[_Entry], tables: Sequence[_Table], several: bool) -> tuple[str, ...]:
    """Return the classes of all rows; of columns of zeros and ones in their order."""
    if not several:
        return sorted_labels({entry.row.label for entry in found})
    named = {name for entry in found for name in entry.row.labels or ()}
    columns = dict.fromkeys(name for table in tables for name in table.classes)
    if not named and not columns:
        raise GtaError(f"{tables[0].source}: no row has a label")
    return tuple(columns) if columns.keys() >= named else sorted_labels(named | columns.keys())


def _record(entry: _Entry, numbers: Mapping[str, int]) -> Record:
    row = entry.row
    if row.labels is None:
        label = numbers.get(row.label, 0)
        return Record(entry.key, label, entry.path, entry.mask, first=entry.first)
    if len(row.labels) > MOST_LABELS:
        text = f"{len(row.labels):,} labels of one image; at most {MOST_LABELS:,} are read"
        raise GtaError(f"{row.place}: {text}")
    labels = tuple(sorted(numbers[name] for name in row.labels))
    return Record(entry.key, NO_LABEL, entry.path, entry.mask, labels=labels)


def _find_unlisted(root: Path, listed: Sequence[_Entry]) -> Iterator[LeftOut]:
    """Yield the images in a folder of tables that none of them lists, masks aside."""
    used = {os.path.normpath(path) for one in listed for path in (one.path, one.mask) if path}
    images = [path for path in find_images(root) if os.path.normpath(path) not in used]
    if images:
        yield LeftOut("images", "listed in no table", tuple(relative_keys(images, root)))


def _sources(root: Path, several: bool = False) -> list[Path]:
    if os.path.isdir(root):
        found = [*_named(root, [*SPLIT_NAMES])] or [*_named(root, ["metadata"])]
        for folder in () if found else list_subfolders(root):
            if split_in_name(folder.name):
                found += [*_named(folder, ["metadata"])] or _only_table(folder, several)
        found = found or _only_table(root, several)
        if not found:
            raise GtaError(f"{root} contains no train.csv")
        return found
    listed = (
        [root] if os.path.exists(root) else [Path(name.strip()) for name in str(root).split(",")]
    )
    sources = [user_path(path) for path in listed]
    for path in sources:
        if not os.path.exists(path):
            raise GtaError(f"no such file: {path}")
    return sources


def _named(folder: Path, stems: Sequence[str]) -> Iterator[Path]:
    """Yield a folder's tables of these names, in any case, one of each name."""
    files = {file.lower(): Path(file) for file in list_folder(folder).others}
    for stem in stems:
        paths = (files.get(os.path.join(folder, stem + suffix).lower()) for suffix in _FILES)
        yield from islice((path for path in paths if path is not None), 1)


def _read_table(source: Path, named: Mapping[str, str], needs_label: bool, several: bool) -> _Table:
    rows = read_rows(source)
    finder = ImageFinder(source.parent)
    columns = choose_columns(source, rows, named, finder.exists, needs_label, several)
    rows = rows[columns.header :]
    found = [_read_row(source, row.line, row.cells, columns) for row in rows]
    if several:
        found, needs_label = _with_labels(source, found, rows, columns), False
    elif all(_WHOLE.fullmatch(row.label) for row in found if row.label):  # of a column with gaps
        found = [row._replace(label=row.label.partition(".")[0]) for row in found]
    if not found:
        raise GtaError(f"{source} has no row below its header")
    if columns.label is not None and not several:
        _check_single(source, found)
    whole = [row for row in found if row.image and (row.label or not needs_label)]
    one_hot = columns.one_hot.names if several and columns.one_hot else ()
    table = _Table(source, whole, finder, classes=tuple(map(_normal, one_hot)))
    for what, lost in (
        ("image", [row for row in found if not row.image]),
        ("label", [row for row in found if row.image and not row.label and needs_label]),
    ):
        if lost:
            names = tuple(f"line {row.line}" for row in lost)
            table.left_out.append(LeftOut("rows", f"no {what} in {source.name}", names, wrong=True))
    if not whole:
        raise GtaError(f"{source}: " + "; ".join(map(str, table.left_out)))
    finder.prepare(row.image for row in whole)
    return table


def _read_row(source: Path, line: int, cells: Sequence[str], columns: Columns) -> TableRow:
    split: str | None = None
    if columns.split is not None:
        given = _cell(cells, columns.split)
        split = columns.splits.get(given.lower())
        if split is None:
            raise GtaError(
                f"{source}, line {line}: split must be train, val or test, got '{given}'"
            )
    label = columns.one_hot.name(cells) if columns.one_hot else _cell(cells, columns.label)
    if label.lower() in EMPTY:
        label = ""
    label = _normal(label)
    image, mask = _cell(cells, columns.image), _cell(cells, columns.mask)
    return TableRow(source, line, image, label, split, mask)


def _normal(label: str) -> str:
    return label if label.isascii() else unicodedata.normalize("NFC", label)


def _with_labels(
    source: Path, found: Sequence[TableRow], rows: Sequence[Row], columns: Columns
) -> list[TableRow]:
    """Return the rows with all their labels."""
    if columns.one_hot is not None:
        every = [columns.one_hot.every_name(row.cells) for row in rows]
    else:
        cells = [_cell(row.cells, columns.label) for row in rows]
        every = split_labels(cells)
        if any(len(labels) > 1 for labels in every):
            between = find_separator(cells)
            mark = {" ": "separated by spaces", "": "lists"}.get(
                between, f"separated by '{between}'"
            )
            log.info("%s: labels are %s", source, mark)
    if all(_WHOLE.fullmatch(label) for labels in every for label in labels):
        every = [tuple(label.partition(".")[0] for label in labels) for labels in every]
    pairs = zip(found, every, strict=True)
    return [row._replace(labels=tuple(dict.fromkeys(map(_normal, own)))) for row, own in pairs]


def _check_single(source: Path, rows: Sequence[TableRow]) -> None:
    """Raise GtaError for lists of labels, and warn of labels that look like several in one."""
    for row in rows:
        if _LIST.fullmatch(row.label):
            raise GtaError(
                f"{row.place}: {row.label:.80} are several labels, but an image has one class; "
                "read all with `multi_label`, or name a column with one: `columns=label=NAME`"
            )
    labels = {row.label for row in rows}
    for mark in "|;, ":
        joined = {label for label in labels if mark in label}
        counts = Counter(part.strip() for label in labels for part in {*label.split(mark)})
        shared = [one for one in joined if any(counts[p.strip()] > 1 for p in one.split(mark))]
        # Names have commas and spaces; but seldom are there twice as many names as words in them.
        if shared and (mark in "|;" or 2 * len(counts) <= len(labels)):
            log.warning(
                "%s: labels such as %s look like several ones; each such text is a class by "
                "itself, unless `multi_label` says that they are several",
                *(source, min(shared)),
            )
            return


def _cell(cells: Sequence[str], column: int | None) -> str:
    return cells[column] if column is not None and column < len(cells) else ""


def _default_split(table: _Table, single: bool) -> str | dict[str, str] | None:
    """Return the split of a table's rows without one, or the splits by first folder."""
    name = table.source
    folder = name.parent.name
    named = split_in_name(name.stem) or SPLIT_NAMES.get(folder.lower())
    if named is None and name.stem.lower() == "metadata":
        named = split_in_name(folder)
    if not single:
        return named
    first = {row.image.replace("\\", "/").partition("/")[0] for row in table.rows}
    folders = {folder: SPLIT_NAMES.get(folder.lower()) for folder in first}
    splits = {folder: split for folder, split in folders.items() if split is not None}
    if len(splits) == len(first) > 1 and table.rows[0].split is None:
        log.info("%s: the folders %s are its splits", name, ", ".join(sorted(first)))
        return splits
    return "train"


class _Entry(NamedTuple):
    """A row whose image was found; `first` is the key of the first row of the same image."""

    split: str
    key: str
    path: Path
    mask: Path | None
    row: TableRow
    first: str | None


class _Entries:
    """The rows of all tables with their images.

    Args:
        top: the folder that keys are relative to.

    Attributes:
        found: the rows whose images exist.
    """

    def __init__(self, top: Path) -> None:
        self.found: list[_Entry] = []
        self._top = top
        self._first: dict[str, _Entry] = {}
        self._copies: Counter[str] = Counter()
        self._lost: dict[str, list[str]] = {}
        self._below: dict[Path, Path] = {}  # folders of tables in the top one

    @property
    def left_out(self) -> list[LeftOut]:
        return [
            LeftOut("images", reason, tuple(names), wrong=reason != _REPEATED)
            for reason, names in self._lost.items()
        ]

    def add(self, row: TableRow, finder: ImageFinder, default: str | dict[str, str] | None) -> None:
        """Add a row, or note why its image is left out.

        Args:
            row: the row.
            finder: finds its image.
            default: the split without a column of splits, or the splits by first folder.

        Raises GtaError where the row contradicts itself or another one.
        """
        split = _split(row, default)
        found = finder.find(row.image, split)
        if isinstance(found, str):
            self._lost.setdefault(found, []).append(f"{row.image} ({row.place})")
            return
        folder = finder.folder
        mask = folder / row.mask.replace("\\", "/") if row.mask else None
        if mask is not None and not os.path.isfile(mask):
            raise GtaError(f"{row.place}: no such mask: {mask}")
        key = self._key(found, folder)
        entry = _Entry(split, key, folder / found, mask, row, None)
        first = self._first.setdefault(key, entry)
        if first is not entry:
            if row.labels is not None and first.split == split:
                entry = entry._replace(first=key)
            elif (first.split, first.row.label) != (split, row.label):
                raise GtaError(
                    f"{row.place}: {key} is listed twice, first in {first.row.place}, with another "
                    "split or label"
                )
            elif split != "train":
                self._lost.setdefault(_REPEATED, []).append(f"{key} ({row.place})")
                return
            else:
                self._copies[key] += 1
                entry = entry._replace(key=f"{key}#{self._copies[key] + 1}", first=key)
        self.found.append(entry)

    def merged(self) -> list[_Entry]:
        """Return one entry for each image, with the labels of all its rows."""
        labels: dict[str, dict[str, None]] = {}
        for entry in self.found:
            labels.setdefault(entry.first or entry.key, {}).update(
                dict.fromkeys(entry.row.labels or ())
            )
        return [
            entry._replace(row=entry.row._replace(labels=tuple(labels[entry.key])))
            for entry in self.found
            if entry.first is None
        ]

    def _key(self, path: Path, folder: Path) -> str:
        below = self._below.get(folder)
        if below is None:
            below = self._below[folder] = folder.absolute().relative_to(self._top)
        apart = below != _HERE and not path.is_absolute()
        return (below / path if apart else path).as_posix()


def _split(row: TableRow, default: str | dict[str, str] | None) -> str:
    if row.split is not None:
        return row.split
    if isinstance(default, dict):
        return default[row.image.replace("\\", "/").partition("/")[0]]
    if default is None:
        raise GtaError(
            f"{row.source}: its split is unclear; add a column 'split' or rename it, e.g. to "
            "train.csv, val.csv or test.csv"
        )
    return default


def sorted_labels(names: set[str]) -> tuple[str, ...]:
    """Sort labels by value if all are integers (2 before 10), by name otherwise."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
