r"""The image files that the cells of a table name.

A cell is a path relative to the table's folder, or absolute. Where no image of a table is found so,
its cells are looked up among the images below the table's folder: with `\` for `/`, without the
folders of another machine in front, without a suffix, as a name alone. All rows lose equally many
folders, so that a missing image is never replaced by another one of its name.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PureWindowsPath

from gtacli.data.base import split_in_name
from gtacli.images.find import is_image, list_image_paths

SAMPLE = 200
"""Rows from which it is decided how the cells are read."""
LISTED = 16
"""Images of a folder from which on it is listed, and how many of its files for each of them."""
MASKS = frozenset({"mask", "masks", "segmentation", "segmentations", "annotations", "trimaps"})
"""Folders of pictures that are named like the images."""


class LostImage(Exception):
    """No image, or more than one, for a cell; the text says which."""


class ImageFinder:
    """The images that the cells of a table name.

    Args:
        folder: the table's folder.
        within: find no image outside of the folder, for names that strangers have written.
    """

    def __init__(self, folder: Path, within: bool = False) -> None:
        self.folder = folder
        self._within = within
        self._prefix = str(folder)
        self._direct = True
        self._strip: int | None = None
        self._index: dict[str, list[str]] | None = None
        self._listed: set[str] = set()

    def prepare(self, cells: Iterable[str]) -> None:
        """Decide from some cells how all are read."""
        cells = [cell for cell in cells if cell]
        some = cells[:: max(1, len(cells) // SAMPLE)]
        self._direct = any(self._direct_path(cell) for cell in some)
        if self._direct and not self._within:
            self._listed = _find_listed(self._prefix, cells)
        if not self._direct:
            strips = Counter(
                strip for cell in some if (strip := self._least_strip(cell)) is not None
            )
            self._strip = strips.most_common(1)[0][0] if strips else None

    def exists(self, cell: str) -> bool:
        """Return whether a cell names an image in any way, before `prepare`."""
        return self._direct_path(cell) is not None or self._least_strip(cell) is not None

    def find(self, cell: str, split: str | None = None) -> str:
        """Return the path of a cell's image in `folder`, or an absolute one.

        It is text: a path object for each row would cost more than the rest of a long table.

        Args:
            cell: a cell of the table.
            split: the row's split; of several images that whose folder is named after it counts.

        Raises LostImage.
        """
        if self._direct and (direct := self._direct_path(cell)) is not None:
            return direct
        if self._direct or self._strip is None:
            raise LostImage("no such image")
        found = self._lookup(_parts(cell)[self._strip :])
        if len(found) > 1:
            found = [one for one in found if not MASKS & {*one.lower().split("/")}] or found
        if len(found) > 1 and split is not None:
            found = [one for one in found if _folder_split(one) == split] or found
        if len(found) > 1:
            raise LostImage(f"both {found[0]} and {found[1]} could be meant")
        if not found:
            raise LostImage("no such image")
        return found[0]

    def _direct_path(self, cell: str) -> str | None:
        if cell in self._listed:
            return cell
        if self._within and not _stays_below(cell):
            return None
        if os.path.isfile(os.path.join(self._prefix, cell)):
            return cell
        if "\\" not in cell:
            return None
        text = cell.replace("\\", "/")
        return text if os.path.isfile(os.path.join(self._prefix, text)) else None

    def _least_strip(self, cell: str) -> int | None:
        """Return how many folders in front of the cell have to go until it is found."""
        parts = _parts(cell)
        return next((k for k in range(len(parts)) if self._lookup(parts[k:])), None)

    def _lookup(self, parts: list[str]) -> list[str]:
        """Return the images whose paths end with `parts`, their suffix aside if it has none."""
        if not parts:
            return []
        if self._index is None:
            self._index = _make_index(self.folder)
        end = "/" + "/".join(parts)
        by_stem = not is_image(parts[-1])
        return [
            one
            for one in self._index.get(parts[-1], ())
            if _fold("/" + (os.path.splitext(one)[0] if by_stem else one)).endswith(end)
        ]


def _find_listed(folder: str, cells: Iterable[str]) -> set[str]:
    """Return cells whose files are found by listing their folders, where a table names many.

    To look at each file takes longer, on a network much longer. A file that is not found so may
    still exist: in a folder of many others, or by a name in another case.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        named[cell[: cell.rfind("/") + 1]].append(cell)
    found: set[str] = set()
    for below, own in named.items():
        if len(own) < LISTED:
            continue
        try:
            with os.scandir(os.path.join(folder, below)) as entries:
                some = islice(entries, LISTED * len(own))
                names = {below + entry.name for entry in some if entry.is_file()}
        except (OSError, ValueError):  # a folder that is missing; no name of a folder
            continue
        found.update(names.intersection(own))
    return found


def _stays_below(cell: str) -> bool:
    """Return whether a path of any system is relative and has no `..`."""
    path = PureWindowsPath(cell)  # whose parts are separated by both slashes
    return not path.anchor and ".." not in path.parts and "\0" not in cell


def _parts(cell: str) -> list[str]:
    """Return the parts of a path of any system, in lower case, without drive, root and dots."""
    text = re.sub(r"^[a-z]:", "", _fold(cell.replace("\\", "/")))
    return [part for part in text.split("/") if part not in ("", ".")]


def _fold(text: str) -> str:
    """Return a name in lower case, its accents composed: macOS takes them apart."""
    return unicodedata.normalize("NFC", text).lower()


def _folder_split(path: str) -> str | None:
    folders = path.split("/")[:-1]
    return next((split for name in folders if (split := split_in_name(name))), None)


def _make_index(folder: Path) -> dict[str, list[str]]:
    """Return the relative paths of all images by their names with and without suffix."""
    index: dict[str, list[str]] = defaultdict(list)
    start = len(os.path.join(folder, ""))
    for path in list_image_paths(folder):
        relative = path[start:] if str(folder) != os.curdir else path
        relative = relative.replace(os.sep, "/")
        name = _fold(relative.rpartition("/")[2])
        for key in {name, os.path.splitext(name)[0]}:
            index[key].append(relative)
    return index
