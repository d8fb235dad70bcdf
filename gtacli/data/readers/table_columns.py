"""Which columns of a table have the images, labels, splits and masks."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import SPLIT_NAMES, split_in_name
from gtacli.data.readers.table_file import Row
from gtacli.errors import GtaError

log = logging.getLogger(__name__)
ROLES = ("image", "label", "split", "mask")
# The first name that a table has counts. Letters and digits only, in lower case.
NAMES = {
    "image": (
        *("path", "image", "imagepath", "imagefile", "imgpath", "img", "file", "filename"),
        *("filepath", "imagename", "imgname", "imagefilename", "photo", "picture"),
        *("imageid", "imgid", "id", "name"),
    ),
    "label": (
        *("label", "class", "category", "target", "species", "breed", "classname", "labelname"),
        *("categoryname", "labels", "diagnosis", "dx", "classid", "labelid", "categoryid"),
        *("title", "choice"),  # the latter of Label Studio
    ),
    "split": ("split", "set", "subset", "partition", "part", "phase", "usage"),
    "mask": ("mask", "maskpath"),
}
SEVERAL = (
    *("labels", "tags", "findinglabels", "attributeids", "attributes", "categories", "classes"),
    *("annotations", "keywords"),
)
"""Usual names of a column with several labels, which come before those of one."""
FLAGS = {
    **dict.fromkeys(("istrain", "istraining", "istrainingimage"), ("train", "test")),
    **dict.fromkeys(("isval", "isvalid", "isvalidation"), ("val", "train")),
    **dict.fromkeys(("istest",), ("test", "train")),
}
"""Columns of yes and no, with the split of either."""
YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
EMPTY = frozenset({"", "nan", "<na>", "#n/a"})
"""Empty cells in lower case, as pandas and Excel write them, too; None may be a class."""
TRIED = 50
"""Rows that are looked up on disk to find the column of images."""


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
    names = [_plain(cell) for cell in rows[0].cells]
    given = {role: _find_named(source, rows[0].cells, names, name) for role, name in named.items()}
    image = given.get("image", _find_image(names, rows, exists))
    if image is None:
        return _without_header(source, rows, given, exists, needs_label)
    header = not (image in given.values() and _has(rows[0], image, exists))
    label, one_hot = given.get("label"), None
    if several:
        label, one_hot = _find_several(source, names, rows, image, given)
    else:
        label = _find(names, "label", taken=image) if label is None else label
        if label is None and needs_label:
            label = _find_other(rows, image)
        one_hot = None if label is not None else _find_one_hot(rows, image)
    if label is None and one_hot is None and needs_label and several:
        raise _unknown(source, rows[0], "labels")
    if label is None and one_hot is None and needs_label:
        raise _several_ones(source, rows, image) or _unknown(source, rows[0], "labels")
    split, splits = _find_split(source, names, rows[header:], given.get("split"))
    mask = given.get("mask", _find(names, "mask", taken=image))
    if not needs_label:
        label = one_hot = None
    found = Columns(image, label, split, mask, splits, header, one_hot)
    _log_choice(source, rows[0].cells, names, found)
    return found


def is_label(name: str) -> bool:
    """Return whether a column of this name usually has labels."""
    return _plain(name) in NAMES["label"]


def has_header(rows: Sequence[Row], several: bool = False) -> bool:
    """Return whether the first row of a table names a column of images, and labels or classes.

    Args:
        several: whether an image has any number of labels.
    """
    names = [_plain(cell) for cell in rows[0].cells] if rows else []
    image = next((column for column, name in enumerate(names) if name in NAMES["image"]), None)
    if image is None:
        return False
    if several:
        known = {*NAMES["label"], *SEVERAL}
        return not known.isdisjoint(names) or _find_binary(rows, image) is not None
    return not {*names}.isdisjoint(NAMES["label"]) or _find_one_hot(rows, image) is not None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


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
    values = _values(rows[1:], others[0]) if len(others) == 1 else Counter[str]()
    return others[0] if 0 < 2 * len(values) <= len(rows) - 1 else None


def _find_one_hot(rows: Sequence[Row], image: int) -> OneHot | None:
    """Return the columns of zeros and ones, if nine rows of ten have a single one."""
    found = _find_binary(rows, image)
    if found is None:
        return None
    named = sum(found.name(row.cells) != "" for row in rows[1:])
    return found if named * 10 >= 9 * (len(rows) - 1) else None


def _find_several(
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


def _plain_number(cells: Sequence[str], column: int) -> str:
    return _number(cells, column).lower()


def _find_binary(rows: Sequence[Row], image: int) -> OneHot | None:
    """Return the columns of zeros and ones, if there are several."""
    binary = tuple(
        column
        for column in range(len(rows[0].cells))
        if column != image
        and len(rows) > 1
        and all(_number(row.cells, column) in ("0", "1") for row in rows[1:])
    )
    return OneHot(binary, tuple(rows[0].cells[i] for i in binary)) if len(binary) > 1 else None


def _several_ones(source: Path, rows: Sequence[Row], image: int) -> GtaError | None:
    """Return the error of columns of zeros and ones with several ones in a row, if it has such."""
    found = _find_binary(rows, image)
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


def _number(cells: Sequence[str], column: int) -> str:
    return cells[column].removesuffix(".0") if column < len(cells) else ""


def _is_one(cells: Sequence[str], column: int) -> bool:
    return YES_NO.get(_plain_number(cells, column), False)


def _has(row: Row, column: int, exists: Callable[[str], bool]) -> bool:
    return column < len(row.cells) and bool(row.cells[column]) and exists(row.cells[column])


def _find_split(
    source: Path, names: Sequence[str], rows: Sequence[Row], given: int | None
) -> tuple[int | None, dict[str, str]]:
    """Return the column of splits and the split of each of its values in lower case.

    A column of another name than `split` counts only if all its values are splits.
    """
    for name, (yes, no) in FLAGS.items():
        if given is None and name in names:
            column = names.index(name)
            values = _values(rows, column)
            if values.keys() <= YES_NO.keys():
                return column, {value: yes if YES_NO[value] else no for value in values}
    known = [given] if given is not None else [names.index(n) for n in NAMES["split"] if n in names]
    for column in known:
        values = _values(rows, column)
        splits = _read_splits(source, values)
        if splits.keys() >= values.keys() or column == given or names[column] == "split":
            return column, splits
    return None, {}


def _values(rows: Sequence[Row], column: int) -> Counter[str]:
    return Counter(row.cells[column].lower() if column < len(row.cells) else "" for row in rows)


def _read_splits(source: Path, values: Counter[str]) -> dict[str, str]:
    numbers = {value.removesuffix(".0"): value for value in values}
    if numbers.keys() <= {"0", "1", "2"} and "0" in numbers:
        if "2" in numbers:
            order = ("train", "val", "test")  # as in CelebA and WILDS
        else:
            order = ("train", "test", "test")
            if values[numbers["0"]] < values[numbers.get("1", "1")]:
                raise GtaError(
                    f"{source}: most rows have split 1, so that it is unclear whether 0 or 1 is "
                    "train; write train and test"
                )
        said = ", ".join(f"{number} is {order[int(number)]}" for number in sorted(numbers))
        log.info("%s: in its column of splits %s", source, said)
        return {value: order[int(number)] for number, value in numbers.items()}
    splits = {value: SPLIT_NAMES.get(value) or split_in_name(value) for value in values}
    return {value: split for value, split in splits.items() if split is not None}


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
        values = _values(rows, column)
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
