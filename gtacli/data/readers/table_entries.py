"""The images that the rows of several tables list, each with its split and key."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import LeftOut
from gtacli.data.readers.table_images import ImageFinder, LostImage
from gtacli.data.readers.table_rows import TableRow
from gtacli.errors import GtaError
from gtacli.images.find import prefix_of

_REPEATED = "listed before, and counted once outside of training"


class TableEntry(NamedTuple):
    """A row whose image was found; `first` is the key of the first row of the same image."""

    split: str
    key: str
    path: str
    mask: Path | None
    row: TableRow
    first: str | None


class TableEntries:
    """The rows of all tables with their images.

    Args:
        top: the folder that keys are relative to.

    Attributes:
        found: the rows whose images exist.
    """

    def __init__(self, top: Path) -> None:
        self.found: list[TableEntry] = []
        self._top = top
        self._first: dict[str, TableEntry] = {}
        self._copies: Counter[str] = Counter()
        self._lost: dict[str, list[str]] = {}

    @property
    def left_out(self) -> list[LeftOut]:
        return [
            LeftOut("images", reason, tuple(names), wrong=reason != _REPEATED)
            for reason, names in self._lost.items()
        ]

    def add(
        self,
        rows: Iterable[TableRow],
        finder: ImageFinder,
        default: str | dict[str, str] | None,
    ) -> None:
        """Add the rows of a table, or note why their images are left out.

        Args:
            rows: the rows.
            finder: finds their images.
            default: the split without a column of splits, or the splits by first folder.

        Raises GtaError where a row contradicts itself or another one.
        """
        folder = finder.folder
        below = str(folder.absolute().relative_to(self._top))
        above_key, above_path = prefix_of(below), prefix_of(str(folder))
        for row in rows:
            split = _split(row, default)
            try:
                found = finder.find(row.image, split)
            except LostImage as lost:
                self._lost.setdefault(str(lost), []).append(f"{row.image} ({row.place})")
                continue
            if _is_plain(found):
                key, path = above_key + found, above_path + found
            else:
                key, path = Path(below, found).as_posix(), str(folder / found)
            mask = folder / row.mask.replace("\\", "/") if row.mask else None
            if mask is not None and not os.path.isfile(mask):
                raise GtaError(f"{row.place}: no such mask: {mask}")
            entry = TableEntry(split, key, path, mask, row, None)
            first = self._first.setdefault(key, entry)
            if first is entry:
                self.found.append(entry)
            else:
                self._add_again(entry, first)

    def _add_again(self, entry: TableEntry, first: TableEntry) -> None:
        """Add a further row of an image, if it counts."""
        key, row = entry.key, entry.row
        if row.labels is not None and first.split == entry.split:
            self.found.append(entry._replace(first=key))
        elif (first.split, first.row.label) != (entry.split, row.label):
            raise GtaError(
                f"{row.place}: {key} is listed twice, first in {first.row.place}, with another "
                "split or label"
            )
        elif entry.split != "train":
            self._lost.setdefault(_REPEATED, []).append(f"{key} ({row.place})")
        else:
            self._copies[key] += 1
            self.found.append(entry._replace(key=f"{key}#{self._copies[key] + 1}", first=key))

    def merged(self) -> list[TableEntry]:
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


def _is_plain(path: str) -> bool:
    """Return whether `pathlib`, which takes many times as long, would write a path as it is.

    It may say no for one that is.
    """
    special = "//" in path or "/." in path or "\\" in path or ":" in path
    return not special and path[:1] not in ("", ".", "/") and path[-1] != "/"
