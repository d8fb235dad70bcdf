"""Labels of images that lie loose in a split's folder, from a table beside them.

ImageNet's `val/` comes with `LOC_val_solution.csv`, Tiny ImageNet's with `val_annotations.txt`. A
table counts if it has a column with names of at least half of the images, and one whose first words
are classes of the other splits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gtacli.data.readers.table_columns import is_label
from gtacli.data.readers.table_file import Row, is_table, read_head, read_rows
from gtacli.errors import GtaError
from gtacli.images.find import list_folder

_SAMPLES = ("sample", "submission")
"""Words in the names of tables with made-up labels."""


class LooseLabels(NamedTuple):
    """The labels of loose images.

    Attributes:
        table: where they come from.
        images: images by class.
        rest: images without a class.
        labeled: number of images with a class.
    """

    table: Path
    images: dict[str, list[str]]
    rest: list[str]
    labeled: int


def list_tables(folder: Path) -> list[Path]:
    """List the tables directly in a folder, without samples of submissions."""
    names = (Path(name) for name in list_folder(folder).others if is_table(name))
    return [path for path in names if not any(word in path.name.lower() for word in _SAMPLES)]


def label_loose(
    images: Sequence[str], tables: Sequence[Path], classes: set[str]
) -> LooseLabels | None:
    """Return the labels from the first table that has them; None if none does."""
    by_name: dict[str, str] = {}
    for image in images:
        name = os.path.basename(image)
        by_name[name] = by_name[os.path.splitext(name)[0]] = image
    for table in tables:
        columns = _find_columns(read_head(table), by_name, classes)
        if columns is None:
            continue
        try:
            rows = read_rows(table)
        except GtaError:
            continue
        found = _label(rows, columns, by_name, classes)
        if len(found) * 2 >= len(images):
            labeled: dict[str, list[str]] = {}
            for image in images:
                if image in found:
                    labeled.setdefault(found[image], []).append(image)
            rest = [image for image in images if image not in found]
            return LooseLabels(table, labeled, rest, len(found))
    return None


def _find_columns(
    rows: Sequence[Row], images: dict[str, str], classes: set[str]
) -> tuple[int, int] | None:
    """Return the columns of names and of classes, by what most of their cells are."""
    width = max((len(row.cells) for row in rows), default=0)
    named = [sum(_image(row, c, images) is not None for row in rows) for c in range(width)]
    labeled = [sum(_word(row, c) in classes for row in rows) for c in range(width)]
    if width < 2 or not max(named) or not max(labeled):
        return None
    image = named.index(max(named))
    best = max(labeled[:image] + labeled[image + 1 :])
    labels = [c for c, count in enumerate(labeled) if count == best and c != image]
    if len(labels) > 1:  # a box's corners may have the numbers of classes
        labels = [c for c in labels if c < len(rows[0].cells) and is_label(rows[0].cells[c])]
    return (image, labels[0]) if len(labels) == 1 else None


def _label(
    rows: Sequence[Row], columns: tuple[int, int], images: dict[str, str], classes: set[str]
) -> dict[str, str]:
    image, label = columns
    return {
        path: word
        for row in rows
        if (path := _image(row, image, images)) is not None
        and (word := _word(row, label)) in classes
    }


def _image(row: Row, column: int, images: dict[str, str]) -> str | None:
    if column >= len(row.cells):
        return None
    return images.get(row.cells[column].replace("\\", "/").rpartition("/")[2])


def _word(row: Row, column: int) -> str:
    """Return the cell, or its first word where boxes follow it: `n01440764 13 42 350 241`."""
    words = row.cells[column].split() if column < len(row.cells) else []
    boxed = len(words) > 1 and all(word.lstrip("-").isdecimal() for word in words[1:])
    return words[0] if boxed else " ".join(words)
