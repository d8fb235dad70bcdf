"""Which columns of a table have the images, labels, splits and masks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import SPLIT_NAMES
from gtacli.data.readers.column_names import NAMES, SEVERAL, plain_name
from gtacli.data.readers.column_one_hot import (
    OneHot,
    find_binary,
    find_one_hot,
    find_several,
    several_ones_error,
)
from gtacli.data.readers.column_splits import find_split, values_of
from gtacli.data.readers.table_file import Row
from gtacli.errors import GtaError

log = logging.getLogger(__name__)
ROLES = ("image", "label", "split", "mask")
TRIED = 50
"""Rows that are looked up on disk to find the column of images."""


class Columns(NamedTuple):
    """The columns of a table, counted from 0; None: there is none.

    Attributes:
        splits: the split that each value of the split column stands for.
        header: whether the first row holds the names.
        one_hot: columns of the classes, instead of one of labels.
    """

    image: int
    label: int | None
    split: int | None
    mask: int | None
    splits: Mapping[str, str]
    header: bool
    one_hot: OneHot | None = None


def parse_columns(text: str) -> dict[str, str]:
    """Read `image=photo,label=kind`. Raises GtaError."""
    found: dict[str, str] = {}
    for pair in text.split(","):
        role, equal, name = (part.strip() for part in pair.partition("="))
        if role not in ROLES or not equal or not name:
            known = ", ".join(ROLES)
            text = f"must be like image=photo,label=kind ({known}), got '{pair.strip()}'"
            raise GtaError(text, option="columns")
        found[role] = name
    return found


def choose_columns(
    source: Path,
    rows: Sequence[Row],
    named: Mapping[str, str],
    exists: Callable[[str], bool],
    needs_label: bool = True,
    several: bool = False,
) -> Columns:
    """Choose the columns of a table.

    Args:
        source: the table, for messages.
        rows: all rows.
        named: the columns that the user has named, by role: names, or numbers from 1.
        exists: whether a cell names an image.
        needs_label: whether there must be a column of labels.
        several: whether an image has any number of labels.

    Raises GtaError where a column is not found.
    """
    if not rows:
        raise GtaError(f"{source}: no column of images in its header (found an empty file)")
    names = [plain_name(cell) for cell in rows[0].cells]
    given = {role: _find_named(source, rows[0].cells, names, name) for role, name in named.items()}
    image = given.get("image", _find_image(names, rows, exists))
    if image is None:
        return _without_header(source, rows, given, exists, needs_label)
    header = not (image in given.values() and _has(rows[0], image, exists))
    label, one_hot = given.get("label"), None
    if several:
        label, one_hot = find_several(source, names, rows, image, given)
    else:
        label = _find(names, "label", taken=image) if label is None else label
        if label is None and needs_label:
            label = _find_other(rows, image)
        one_hot = None if label is not None else find_one_hot(rows, image)
    if label is None and one_hot is None and needs_label and several:
        raise _unknown(source, rows[0], "labels")
    if label is None and one_hot is None and needs_label:
        raise several_ones_error(source, rows, image) or _unknown(source, rows[0], "labels")
    split, splits = find_split(source, names, rows[header:], given.get("split"))
    mask = given.get("mask", _find(names, "mask", taken=image))
    if not needs_label:
        label = one_hot = None
    found = Columns(image, label, split, mask, splits, header, one_hot)
    _log_choice(source, rows[0].cells, names, found)
    return found


def is_label(name: str) -> bool:
    """Return whether a column of this name usually has labels."""
    return plain_name(name) in NAMES["label"]


def has_header(rows: Sequence[Row], several: bool = False, needs_label: bool = True) -> bool:
    """Return whether the first row of a table names a column of images, and labels or classes.

    Args:
        several: whether an image has any number of labels.
        needs_label: whether there must be labels; else masks will do, too.
    """
    names = [plain_name(cell) for cell in rows[0].cells] if rows else []
    image = next((column for column, name in enumerate(names) if name in NAMES["image"]), None)
    if image is None:
        return False
    if not needs_label and not {*names}.isdisjoint(NAMES["mask"]):
        return True
    if several:
        known = {*NAMES["label"], *SEVERAL}
        return not known.isdisjoint(names) or find_binary(rows, image) is not None
    return not {*names}.isdisjoint(NAMES["label"]) or find_one_hot(rows, image) is not None


def _find_named(source: Path, header: Sequence[str], names: Sequence[str], name: str) -> int:
    lowered = [cell.lower() for cell in header]
    if name.lower() in lowered:
        return lowered.index(name.lower())
    if name.isdecimal() and 1 <= int(name) <= len(header):
        return int(name) - 1
    raise GtaError(
        f"{source}: no column '{name}' in its header (found {', '.join(header)})", option="columns"
    )


def _find(names: Sequence[str], role: str, taken: int | None = None) -> int | None:
    for name in NAMES[role]:
        for column, other in enumerate(names):
            if other == name and column != taken:
                return column
    return None


def _find_image(
    names: Sequence[str], rows: Sequence[Row], exists: Callable[[str], bool]
) -> int | None:
    """Return the first column of a known name with images on disk, else the first of these."""
    columns = [names.index(name) for name in NAMES["image"] if name in names]
    if len(columns) > 1:
        for column in columns:
            if any(_has(row, column, exists) for row in rows[1 : 1 + TRIED]):
                return column
    return columns[0] if columns else None


def _find_other(rows: Sequence[Row], image: int) -> int | None:
    """Return the other one of two columns, if it has each value twice on average."""
    others = [column for column, name in enumerate(rows[0].cells) if name and column != image]
    values = values_of(rows[1:], others[0]) if len(others) == 1 else Counter[str]()
    return others[0] if 0 < 2 * len(values) <= len(rows) - 1 else None


def _has(row: Row, column: int, exists: Callable[[str], bool]) -> bool:
    return column < len(row.cells) and bool(row.cells[column]) and exists(row.cells[column])


def _without_header(
    source: Path,
    rows: Sequence[Row],
    given: dict[str, int],
    exists: Callable[[str], bool],
    needs_label: bool,
) -> Columns:
    """Choose the columns by what the first row holds, if it names an image."""
    width = len(rows[0].cells)
    image = next((i for i in range(width) if _has(rows[0], i, exists)), None)
    if image is None:
        raise _unknown(source, rows[0], "images")
    split, splits = given.get("split"), dict[str, str]()
    for column in range(width):
        values = values_of(rows, column)
        found = {value: SPLIT_NAMES[value] for value in values if value in SPLIT_NAMES}
        if column != image and split in (None, column) and len(found) == len(values):
            split, splits = column, found
    labels = [column for column in range(width) if column not in (image, split)]
    # Of several, without row numbers.
    if len(labels) > 1:
        labels = [c for c in labels if not _counts_rows([row.cells[c : c + 1] for row in rows])]
    label = given.get("label", labels[0] if len(labels) == 1 else None)
    if label is None and needs_label:
        raise GtaError(
            f"{source} has no header, and it is unclear which of its {width} columns has the "
            f"labels: name them by number, as in `columns=image={image + 1},label=2`",
            option="columns",
        )
    log.info("%s has no header: images are in column %d", source, image + 1)
    return Columns(image, label if needs_label else None, split, given.get("mask"), splits, False)


def _counts_rows(cells: Sequence[Sequence[str]]) -> bool:
    numbers = [cell[0] for cell in cells if cell and cell[0].isdecimal()]
    return len(numbers) == len(cells) == len(set(numbers))


def _unknown(source: Path, header: Row, what: str) -> GtaError:
    found = ", ".join(header.cells)
    return GtaError(
        f"{source}: no column of {what} in its header (found {found}); name it, as in "
        f"`columns=image=NAME,label=NAME`",
        option="columns",
    )


def _log_choice(source: Path, header: Sequence[str], names: Sequence[str], found: Columns) -> None:
    """Log the columns, unless they are called `path` and `label`."""
    chosen = {"images": found.image, "labels": found.label, "splits": found.split}
    used = {what: column for what, column in chosen.items() if column is not None}
    if found.one_hot:
        log.info("%s: a column for each of the classes %s", source, ", ".join(found.one_hot.names))
    if found.header and {names[c] for c in used.values()} - {"path", "label", "split"}:
        said = ", ".join(f"{what} from '{header[column]}'" for what, column in used.items())
        log.info("%s: %s", source, said)
