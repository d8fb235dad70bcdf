"""The files of images' results: a name for each image, below one folder.

Results lie in the same subfolders as the images and are called STEM + suffix. Two images share no
file: a later one of an equal stem keeps its own suffix (`x.jpg.png` beside `x.png`), or else gets a
digest of its path (`x~1f2e3d4c.png`). A name that is too long for the file system is shortened and
gets a digest, too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from gtacli.data.inputs import InputImage
from gtacli.errors import RunError, UsageError
from gtacli.images.decode import ImageError
from gtacli.inference.stream import Failure
from gtacli.runtime.atomic import write_atomic
from gtacli.runtime.drafts import LOCK_PREFIX

_MARK = "~"
_DIGEST = 8  # digits
# The file system refuses the name, or has something else in the place of the file or a folder.
_WRONG_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}


def place_images(
    images: Iterable[InputImage], folder: Path | None, suffixes: Sequence[str] | None
) -> Iterator[InputImage | Failure]:
    """Give each image the stem of its result files; an image that is given twice fails.

    Args:
        folder: of the results.
        suffixes: of an image's result files. None: it has none, and the stem is a name for the
            image itself, with its own suffix.
    """
    names = OutputNames(folder)
    for image in images:
        own = image.below.suffix
        stem = names.place(image, [own] if suffixes is None else suffixes)
        if stem is None:
            yield Failure(image.path, f"{image.path}: is given twice")
        else:
            yield image._replace(stem=stem + own if suffixes is None else stem)


class OutputNames:
    """The names of result files that are in use, so that no two images share a file.

    Args:
        folder: of the results; None: nothing is written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._owners: dict[int, int] = {}  # hashes, so that a million paths fit into memory
        self._folders: set[int] = set()
        self._fold = folder is not None and ignores_case(folder)

    def place(self, image: InputImage, suffixes: Sequence[str]) -> str | None:
        """Return the stem of an image's results, without a suffix; None if it is given twice."""
        owner = hash(os.path.abspath(image.path))
        for stem in _candidates(image):
            names = [self._key(stem + suffix) for suffix in suffixes]
            holders = {self._owners.get(hash(name)) for name in names}
            if owner in holders:
                return None
            folders = {hash(folder) for name in names for folder in _folders(name)}
            if holders == {None} and self._is_free(names, folders):
                self._owners.update(dict.fromkeys(map(hash, names), owner))
                self._folders |= folders
                return stem
        raise AssertionError("two paths have one digest")

    def _is_free(self, names: Sequence[str], folders: set[int]) -> bool:
        """Return whether no file is in the place of a folder, nor the reverse."""
        return self._owners.keys().isdisjoint(folders) and not any(
            hash(name) in self._folders for name in names
        )

    def _key(self, name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold() if self._fold else name


def ignores_case(folder: Path) -> bool:
    """Return whether names that differ in case only are one file in a folder."""
    if (folder / LOCK_PREFIX).exists():  # of the command that writes there
        return (folder / LOCK_PREFIX.upper()).exists()
    return sys.platform in ("darwin", "win32")


def result_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return the path of a result file, its name shortened where the file system needs that."""
    parent, name = os.path.split(stem)
    limit, length = _name_limit(folder), _length(name + suffix)
    if length > limit:
        mark = _MARK + _digest(name)
        kept = os.fsencode(name)[: max(0, limit - _length(suffix) - len(mark))]
        name = kept.decode(errors="ignore") + mark
    return folder / parent / (name + suffix)


def single_file(
    out: Path | None, arguments: Sequence[str], suffix: str, overwrite: bool
) -> Path | None:
    """Return `out` if it names the result file of a single image: `-o map.png`; else None.

    Args:
        out: as the user gives it; a folder, even one called map.png, stays one.
        arguments: of the command line.
        suffix: of result files.

    Raises UsageError (option "out") for a file's name with several images, for a file that exists,
    and for the image itself.
    """
    if out is None or out.suffix.lower() != suffix or out.is_dir():
        return None
    path = arguments[0] if len(arguments) == 1 else "-"
    if path == "-" or os.path.isdir(path) or (not os.path.exists(path) and set(path) & set("*?[")):
        text = f"{out} names the file of one image; a folder holds the results of several"
        raise UsageError(text, option="out")
    if out.exists():
        if os.path.exists(path) and out.samefile(path):
            raise UsageError(f"{out} is the image itself", option="out")
        if not overwrite:
            raise UsageError(f"{out} exists; `overwrite` replaces it", option="out")
    return out


def write_result(path: Path, write: Callable[[Path], object]) -> str:
    """Write one image's result; see `write_atomic`.

    Raises ImageError where the file system refuses the name, or where a folder or a file is in the
    way, and RunError for all else.
    """
    try:
        return write_atomic(path, write)
    except RunError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _WRONG_NAME | _IN_THE_WAY:
            raise ImageError(error.message) from error
        raise


def _candidates(image: InputImage) -> Iterator[str]:
    stem = image.result_stem
    yield stem
    yield stem + os.path.splitext(image.path)[1]
    unique = _MARK + _digest(image.path)
    yield stem + unique
    yield os.path.basename(stem) + unique  # where a file is in the place of its folder


def _folders(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:_DIGEST]


def _length(name: str) -> int:
    """Return the length of a name, in the unit of `_name_limit`."""
    return len(name) if sys.platform == "win32" else len(os.fsencode(name))


@lru_cache(maxsize=64)
def _name_limit(folder: Path) -> int:
    """Return how long the name of a file in a folder may be, in bytes; on Windows in characters."""
    for place in (folder, *folder.absolute().parents):
        try:
            return os.pathconf(place, "PC_NAME_MAX")
        except FileNotFoundError:
            continue
        except (AttributeError, OSError, ValueError):
            break
    return 255
