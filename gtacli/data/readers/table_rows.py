"""The rows of a table, with the labels of each as one class or as any number of them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import LeftOut
from gtacli.data.readers.column_names import EMPTY
from gtacli.data.readers.label_cells import find_separator, split_labels
from gtacli.data.readers.table_columns import Columns, choose_columns
from gtacli.data.readers.table_file import Row, read_rows
from gtacli.data.readers.table_images import ImageFinder
from gtacli.errors import GtaError

log = logging.getLogger(__name__)
_WHOLE = re.compile(r"\d+\.0+")
_LIST = re.compile(r"\[.*,.*\]|\{.*,.*\}")


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
class LabeledTable:
    """The rows of a table with values in all columns that are needed.

    Attributes:
        classes: the names of its columns of zeros and ones, if an image has several labels.
    """

    source: Path
    rows: list[TableRow]
    finder: ImageFinder
    left_out: list[LeftOut] = field(default_factory=list)
    classes: tuple[str, ...] = ()


def read_table(
    source: Path, named: Mapping[str, str], needs_label: bool, several: bool
) -> LabeledTable:
    """Read a table, and leave out the rows without an image or a label.

    Args:
        source: the file.
        named: the columns that the user names, by role.
        needs_label: whether rows without a label are left out.
        several: whether an image has any number of labels.

    Raises GtaError for a table that cannot be read or has no such row.
    """
    rows = read_rows(source)
    finder = ImageFinder(source.parent)
    columns = choose_columns(source, rows, named, finder.exists, needs_label, several)
    rows = rows[columns.header :]
    found = _read_columns(source, rows, columns)
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
    table = LabeledTable(source, whole, finder, classes=tuple(map(normal_form, one_hot)))
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


def _read_columns(source: Path, rows: Sequence[Row], columns: Columns) -> list[TableRow]:
    """Return what the columns say, column by column: half the time of row by row."""
    labels = (
        [columns.one_hot.name(row.cells) for row in rows]
        if columns.one_hot
        else _cells(rows, columns.label)
    )
    forms = {cell: "" if cell.lower() in EMPTY else normal_form(cell) for cell in {*labels}}
    splits: Sequence[str | None] = [None] * len(rows)
    if columns.split is not None:
        given = _cells(rows, columns.split)
        known = {cell: columns.splits.get(cell.lower()) for cell in {*given}}
        splits = [known[cell] for cell in given]
        if None in splits:
            wrong = splits.index(None)
            raise GtaError(
                f"{source}, line {rows[wrong].line}: split must be train, val or test, got "
                f"'{given[wrong]}'"
            )
    images, masks = _cells(rows, columns.image), _cells(rows, columns.mask)
    return [
        TableRow(source, row.line, image, forms[label], split, mask)
        for row, image, label, split, mask in zip(rows, images, labels, splits, masks, strict=True)
    ]


def normal_form(label: str) -> str:
    """Return a label with accents as one code point each, so that two spellings are one class."""
    return label if label.isascii() else unicodedata.normalize("NFC", label)


def _with_labels(
    source: Path, found: Sequence[TableRow], rows: Sequence[Row], columns: Columns
) -> list[TableRow]:
    """Return the rows with all their labels."""
    if columns.one_hot is not None:
        every = [columns.one_hot.every_name(row.cells) for row in rows]
    else:
        cells = _cells(rows, columns.label)
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
    return [row._replace(labels=tuple(dict.fromkeys(map(normal_form, own)))) for row, own in pairs]


def _check_single(source: Path, rows: Sequence[TableRow]) -> None:
    """Raise GtaError for lists of labels, and warn of labels that look like several in one."""
    labels = {row.label for row in rows}
    lists = {label for label in labels if _LIST.fullmatch(label)}
    if lists:
        row = next(row for row in rows if row.label in lists)
        raise GtaError(
            f"{row.place}: {row.label:.80} are several labels, but an image has one class; "
            "read all with `multi_label`, or name a column with one: `columns=label=NAME`"
        )
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


def _cells(rows: Sequence[Row], column: int | None) -> list[str]:
    """Return the cells of a column, empty where a row is too short."""
    if column is None:
        return [""] * len(rows)
    return [row.cells[column] if column < len(row.cells) else "" for row in rows]
