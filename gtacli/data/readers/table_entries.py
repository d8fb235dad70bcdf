"""The images that the rows of several tables list, each with its split and key."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import LeftOut
from gtacli.data.readers.table_images import ImageFinder, LostImage
from gtacli.data.readers.table_rows import TableRow
from gtacli.errors import GtaError

_REPEATED = "listed before, and counted once outside of training"


class TableEntry(NamedTuple):
    """A row whose image was found; `first` is the key of the first row of the same image."""

    split: str
    key: str
    path: Path
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
        self._below: dict[Path, str] = {}  # folders of tables in the top one

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
        try:
            found = finder.find(row.image, split)
        except LostImage as lost:
            self._lost.setdefault(str(lost), []).append(f"{row.image} ({row.place})")
            return
        folder = finder.folder
        mask = folder / row.mask.replace("\\", "/") if row.mask else None
        if mask is not None and not os.path.isfile(mask):
            raise GtaError(f"{row.place}: no such mask: {mask}")
        key = self._key(found, folder)
        entry = TableEntry(split, key, folder / found, mask, row, None)
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

    def _key(self, path: str, folder: Path) -> str:
        below = self._below.get(folder)
        if below is None:
            below = str(folder.absolute().relative_to(self._top))
            self._below[folder] = below = "" if below == "." else below
        if below and not os.path.isabs(path):
            path = os.path.join(below, path)
        return path if _is_plain(path) else Path(path).as_posix()


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
