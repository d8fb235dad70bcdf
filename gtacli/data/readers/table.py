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
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

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
from gtacli.data.readers.loose import list_tables
from gtacli.data.readers.split_folders import has_class_folders
from gtacli.data.readers.table_columns import (
    has_header,
    parse_columns,
)
from gtacli.data.readers.table_entries import TableEntries, TableEntry
from gtacli.data.readers.table_file import is_text, read_head, read_rows
from gtacli.data.readers.table_rows import LabeledTable, read_table
from gtacli.errors import GtaError
from gtacli.images.find import (
    has_images,
    list_folder,
    list_image_paths,
    list_subfolders,
    relative_keys,
)
from gtacli.runtime.paths import user_path

log = logging.getLogger(__name__)
_FILES = (".csv", ".tsv", ".jsonl", ".parquet")


def has_tables(folder: Path, needs_label: bool = True) -> bool:
    """Return whether `folder` has tables of images and no folders of classes.

    Args:
        needs_label: whether the images must have labels; else masks will do, too.

    These are `train.csv`, or `metadata.csv` in it or in the folders of its splits, or the only
    table beside images without class folders, in it or in each of its splits.
    """
    for one in list_subfolders(folder):
        if SPLIT_NAMES.get(one.name.lower()) == "train" and has_class_folders(one):
            return False
    try:
        tables = _sources(folder, needs_label=needs_label)
        stems = [table.stem.lower() for table in tables]
        trains = any(SPLIT_NAMES.get(stem, "train") == "train" for stem in stems)
        return trains and any(_has_header(table, needs_label=needs_label) for table in tables)
    except GtaError:
        return False


def _only_table(folder: Path, several: bool, needs_label: bool) -> list[Path]:
    """Return the only table of images in a folder that has no class folders."""
    filled = [one for one in list_subfolders(folder) if has_images(one)]
    loose = [one for one in filled if split_in_name(one.name) is None]
    # Without labels two of them are images and masks rather than classes.
    if (len(loose) > 1 and needs_label) or any(map(has_class_folders, filled)):
        return []
    tables = [table for table in list_tables(folder) if _has_header(table, several, needs_label)]
    return tables if len(tables) == 1 else []


def _has_header(table: Path, several: bool = False, needs_label: bool = True) -> bool:
    rows = read_head(table) if is_text(table) else read_rows(table)
    return has_header(rows, several, needs_label)


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
    sources = _sources(root, several, needs_label)
    tables = [read_table(source, named, needs_label, several) for source in sources]
    # An image has the same key in all tables.
    top = Path(os.path.commonpath([source.parent.absolute() for source in sources]))
    entries = TableEntries(top)
    for table in tables:
        default = _default_split(table, single=len(sources) == 1)
        entries.add(table.rows, table.finder, default)
    if not entries.found:
        row = tables[0].rows[0]
        raise GtaError(f"{row.place}: no such image: {row.source.parent / row.image}")
    found = entries.merged() if several else entries.found
    classes = _classes(found, tables, several) if needs_label else NO_CLASS
    numbers = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[Record]] = {}
    for entry in found:
        splits.setdefault(entry.split, []).append(_record(entry, numbers))
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


def _classes(
    found: Sequence[TableEntry], tables: Sequence[LabeledTable], several: bool
) -> tuple[str, ...]:
    """Return the classes of all rows; of columns of zeros and ones in their order."""
    if not several:
        return sorted_labels({entry.row.label for entry in found})
    named = {name for entry in found for name in entry.row.labels or ()}
    columns = dict.fromkeys(name for table in tables for name in table.classes)
    if not named and not columns:
        raise GtaError(f"{tables[0].source}: no row has a label")
    return tuple(columns) if columns.keys() >= named else sorted_labels(named | columns.keys())


def _record(entry: TableEntry, numbers: Mapping[str, int]) -> Record:
    row = entry.row
    if row.labels is None:
        label = numbers.get(row.label, 0)
        return Record(entry.key, label, entry.path, entry.mask, first=entry.first)
    if len(row.labels) > MOST_LABELS:
        text = f"{len(row.labels):,} labels of one image; at most {MOST_LABELS:,} are read"
        raise GtaError(f"{row.place}: {text}")
    labels = tuple(sorted(numbers[name] for name in row.labels))
    return Record(entry.key, NO_LABEL, entry.path, entry.mask, labels=labels)


def _find_unlisted(root: Path, listed: Sequence[TableEntry]) -> Iterator[LeftOut]:
    """Yield the images in a folder of tables that none of them lists, masks aside."""
    used = {os.path.normpath(path) for one in listed for path in (one.path, one.mask) if path}
    images = [path for path in list_image_paths(root) if os.path.normpath(path) not in used]
    if images:
        yield LeftOut("images", "listed in no table", tuple(relative_keys(images, root)))


def _sources(root: Path, several: bool = False, needs_label: bool = True) -> list[Path]:
    if os.path.isdir(root):
        found = [*_named(root, [*SPLIT_NAMES])] or [*_named(root, ["metadata"])]
        for folder in () if found else list_subfolders(root):
            if split_in_name(folder.name):
                found += [*_named(folder, ["metadata"])] or _only_table(
                    folder, several, needs_label
                )
        found = found or _only_table(root, several, needs_label)
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


def _default_split(table: LabeledTable, single: bool) -> str | dict[str, str] | None:
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


def sorted_labels(names: set[str]) -> tuple[str, ...]:
    """Sort labels by value if all are integers (2 before 10), by name otherwise."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
