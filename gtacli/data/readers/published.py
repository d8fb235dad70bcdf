"""What readers of published layouts share: recognition, and errors that say where the set is.

The lists of a set are read in full; whether its photographs are there is asked once for the whole
set (`require_images`), so that `gta data check` can name every one that is missing.
"""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from gtacli.data.base import DatasetReader, ImageDataset, Publication, Record, require_folder
from gtacli.errors import GtaError


class PublishedReader(DatasetReader):
    """A set whose folder looks as its authors' archives unpack."""

    name: ClassVar[str]
    published: ClassVar[Publication]
    tops: ClassVar[tuple[str, ...]] = ()
    """Top folders of its archives: the set may lie in one of them below the given folder."""
    layouts: ClassVar[tuple[tuple[str, ...], ...]]
    """Each the files and folders, all of which mark one known layout."""

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Whether `root` itself is laid out so."""
        return any(all((root / mark).exists() for mark in marks) for marks in cls.layouts)

    def read(self, root: Path | None) -> ImageDataset:
        root = require_folder(root, self.name)
        places = [root, *(root / top for top in self.tops if (root / top).is_dir())]
        for place in places:
            if self.recognizes(place):
                return self.read_layout(place)
        place = places[-1]
        nearest = min(self.layouts, key=lambda marks: len(_absent(place, marks)))
        absent = ", ".join(_absent(place, nearest))
        title, home = self.published.title, self.published.home
        raise GtaError(f"{place} is not a {title} folder: no {absent} in it; published at {home}")

    @abstractmethod
    def read_layout(self, root: Path) -> ImageDataset:
        """The set at `root`, which is recognised."""

    def dataset(
        self, root: Path, classes: tuple[str, ...], splits: dict[str, list[Record]]
    ) -> ImageDataset:
        """Its parts, those without a record left out."""
        parts = {split: tuple(records) for split, records in splits.items() if records}
        return ImageDataset(root.resolve().name, classes, parts, self.published)


def require_images(dataset: ImageDataset) -> None:
    """Raise GtaError that names the first missing photograph of a published set."""
    missing = [record for _, record in dataset.records() if is_missing(record)]
    if missing and dataset.published is not None:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GtaError(
            f"{missing[0].path}{more} of {dataset.published.title} missing; "
            f"published at {dataset.published.home}"
        )


def is_missing(record: Record) -> bool:
    return isinstance(record.path, Path) and not record.path.is_file()


def list_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a list that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GtaError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.strip()


def list_fields(path: Path, names: str) -> Iterator[tuple[int, list[str]]]:
    """(number, fields) of a list's lines, one field for each of the `names`."""
    count = len(names.split())
    for number, line in list_lines(path):
        fields = line.split(maxsplit=count - 1)
        if len(fields) != count:
            raise GtaError(f"{path}, line {number}: expected '{names}', got '{line}'")
        yield number, fields


def read_mat(path: Path, *names: str) -> list[list[Any]]:
    """The variables `names` of a MATLAB file, each as a flat list."""
    import numpy as np
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises almost anything for a broken file
        raise GtaError(f"cannot read {path}: not a readable MATLAB file ({error})") from error
    for name in names:
        if name not in content:
            raise GtaError(f"{path} has no variable '{name}'")
    return [list(np.atleast_1d(content[name]).ravel()) for name in names]


def _absent(root: Path, marks: tuple[str, ...]) -> list[str]:
    return [mark for mark in marks if not (root / mark).exists()]
