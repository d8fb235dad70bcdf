"""Columns of a table of zeros and ones, one for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gtacli.data.readers.column_names import EMPTY, FLAGS, NAMES, SEVERAL, YES_NO
from gtacli.data.readers.table_file import Row
from gtacli.errors import GtaError


class OneHot(NamedTuple):
    """Columns of which each row has a one in those of its classes, as in the ISIC challenges."""

    columns: tuple[int, ...]
    names: tuple[str, ...]

    def name(self, cells: Sequence[str]) -> str:
        """Return the class of a row; "" if it has none or several."""
        found = self.every_name(cells)
        return found[0] if len(found) == 1 else ""

    def every_name(self, cells: Sequence[str]) -> tuple[str, ...]:
        """Return all classes of a row."""
        pairs = zip(self.columns, self.names, strict=True)
        return tuple(name for column, name in pairs if _is_one(cells, column))


def find_one_hot(rows: Sequence[Row], image: int) -> OneHot | None:
    """Return the columns of zeros and ones, if nine rows of ten have a single one."""
    found = find_binary(rows, image)
    if found is None:
        return None
    named = sum(found.name(row.cells) != "" for row in rows[1:])
    return found if named * 10 >= 9 * (len(rows) - 1) else None


def find_several(
    source: Path,
    names: Sequence[str],
    rows: Sequence[Row],
    image: int,
    given: Mapping[str, int],
) -> tuple[int | None, OneHot | None]:
    """Return the column of the labels of images with any number of them, or one for each class.

    Columns of zeros and ones (also yes and no) are classes; an empty cell is a zero. A column of a
    usual name for labels comes first, unless it is one of several such.
    """
    if "label" in given:
        return given["label"], None
    known = (names.index(name) for name in (*SEVERAL, *NAMES["label"]) if name in names)
    label = next((column for column in known if column != image), None)
    other = {image, *given.values()}
    other |= {i for i, name in enumerate(names) if name in FLAGS or name in NAMES["split"]}
    values = {
        i: {_plain_number(row.cells, i) for row in rows[1:]}
        for i in range(len(names))
        if i not in other and names[i]
    }
    binary = tuple(
        i for i, found in values.items() if found <= YES_NO.keys() | EMPTY and found - EMPTY
    )
    if label is not None and (label not in binary or len(binary) == 1):
        return label, None
    for column, found in values.items():
        if binary and "-1" in found and found <= YES_NO.keys() | EMPTY | {"-1"}:
            line = next(r.line for r in rows[1:] if _plain_number(r.cells, column) == "-1")
            raise GtaError(
                f"{source}, line {line}: {rows[0].cells[column]} is -1, neither 0 nor 1; write one "
                "of them, or leave the row out"
            )
    return None, OneHot(binary, tuple(rows[0].cells[i] for i in binary)) if binary else None


def find_binary(rows: Sequence[Row], image: int) -> OneHot | None:
    """Return the columns of zeros and ones, if there are several."""
    binary = tuple(
        column
        for column in range(len(rows[0].cells))
        if column != image
        and len(rows) > 1
        and all(_number(row.cells, column) in ("0", "1") for row in rows[1:])
    )
    return OneHot(binary, tuple(rows[0].cells[i] for i in binary)) if len(binary) > 1 else None


def several_ones_error(source: Path, rows: Sequence[Row], image: int) -> GtaError | None:
    """Return the error of columns of zeros and ones with several ones in a row, if it has such."""
    found = find_binary(rows, image)
    if found is None or 2 * len(found.columns) < len(rows[0].cells) - 1:
        return None
    for row in rows[1:]:
        ones = [rows[0].cells[i] for i in found.columns if _is_one(row.cells, i)]
        if len(ones) > 1:
            return GtaError(
                f"{source}, line {row.line}: {' and '.join(ones[:3])} are 1 in one row, but an "
                "image has one class; read several with `multi_label`, or name the column of "
                "labels, as label=NAME",
                option="columns",
            )
    return None


def _plain_number(cells: Sequence[str], column: int) -> str:
    return _number(cells, column).lower()


def _number(cells: Sequence[str], column: int) -> str:
    return cells[column].removesuffix(".0") if column < len(cells) else ""


def _is_one(cells: Sequence[str], column: int) -> bool:
    return YES_NO.get(_plain_number(cells, column), False)
