"""Images of a command line: files, folders, patterns, paths from a stream, or a dataset."""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, takewhile
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from gtacli.data.base import ImageDataset, Record
from gtacli.data.readers.folder import describe_passed
from gtacli.data.unlabeled import load_images
from gtacli.errors import UsageError
from gtacli.images.find import list_image_paths
from gtacli.images.packed import PackedImage
from gtacli.images.sources import ImageList
from gtacli.runtime.interrupts import wait_readable

log = logging.getLogger(__name__)


class InputImage(NamedTuple):
    """An image on which a command runs.

    Attributes:
        path: path as it was given or found.
        below: path relative to what was given; results are written to the same subfolders.
        record: the record of an image of a dataset, which need not be a file.
        stem: path of its results below their folder, without a suffix; None: that of `below`.
    """

    path: str
    below: PurePath
    record: Record | None = None
    stem: str | None = None

    @property
    def source(self) -> Path | PackedImage:
        """The file or packed image to decode."""
        return Path(self.path) if self.record is None else self.record.source

    @property
    def result_stem(self) -> str:
        """The path of its results below their folder, without a suffix."""
        return _stem(self.below) if self.stem is None else self.stem


def iter_dataset_images(dataset: ImageDataset, only: str | None = None) -> Iterator[InputImage]:
    """Yield the images of a dataset, or of one split; their keys are their relative paths."""
    for split, record in dataset.records():
        if only in (None, split) and record.first is None:
            yield InputImage(str(record.path), _without_root(record.key), record)


def list_sources(spec: str) -> ImageList:
    """Return all images of a dataset, with or without labels, split by split.

    Raises GtaError if there is no image.
    """
    dataset = load_images(spec, every_split=True)
    return ImageList(r.path for _, r in dataset.records() if r.first is None)


def iter_inputs(
    arguments: Sequence[str], dataset: ImageDataset | None, stream: BinaryIO, nul: bool = False
) -> Iterator[InputImage]:
    """Yield the images of a command line, then those of a dataset.

    Raises UsageError if there are neither, and as `iter_images` does.
    """
    if dataset is None and not arguments:
        raise UsageError(
            "no images: give files, folders, patterns, - for paths on stdin, or the option `data`"
        )
    images = iter_images(arguments, stream, nul) if arguments else iter(())
    return chain(images, iter_dataset_images(dataset) if dataset is not None else ())


def iter_images(
    arguments: Sequence[str], stream: BinaryIO, nul: bool = False
) -> Iterator[InputImage]:
    """Yield images in the order given; paths from a stream are read one by one.

    A folder stands for all images below it and a pattern for its matches, both sorted; `-` stands
    for the paths in `stream`, one per line, or NUL-separated with `nul`. A path that does not exist
    is yielded too: it is reported when it cannot be read.

    The relative path of an image starts at its folder, at the first wildcard of a pattern, or at
    the common folder of all single files. A path from the stream keeps its folders. Where images of
    several folders have equal relative paths, the results of all lie in the same subfolders of the
    folders' common one: `a/x.jpg` and `b/x.jpg` for the folders `a` and `b`.

    Raises UsageError, before the first image, if there is no argument, or if a folder or pattern
    contains no image.
    """
    groups = _expand_all(arguments, stream, nul)
    singles = [group.paths for group in groups if isinstance(group.paths, str)]
    common = _common_folder({os.path.dirname(os.path.abspath(file)) for file in singles})
    groups = [g._replace(root=common) if isinstance(g.paths, str) else g for g in groups]
    top = _common_folder(roots) if len(roots := _roots(groups)) > 1 and _overlap(groups) else None
    return chain.from_iterable(map(partial(_name_images, top), groups))


def iter_paths(arguments: Sequence[str], stream: BinaryIO, nul: bool = False) -> Iterator[str]:
    """Like `iter_images`, but yield the paths only, for results that are written nowhere."""
    groups = _expand_all(arguments, stream, nul)
    return chain.from_iterable(
        [group.paths] if isinstance(group.paths, str) else group.paths for group in groups
    )


class _GivenPaths(NamedTuple):
    """The images of one argument.

    Attributes:
        paths: a single path is a string.
        root: folder to which they are relative; None: they keep their folders.
    """

    paths: str | Iterable[str]
    root: Path | None = None


def _expand_all(arguments: Sequence[str], stream: BinaryIO, nul: bool) -> list[_GivenPaths]:
    if not arguments:
        raise UsageError("no images: give files, folders, patterns, or - for paths on stdin")
    return [_expand(argument, stream, nul) for argument in arguments]


def _expand(argument: str, stream: BinaryIO, nul: bool) -> _GivenPaths:
    """Find the images of an argument.

    All are listed before the first one is processed, since results may be written into the same
    folders. What else an image needs is made when its turn comes.
    """
    if argument == "-":
        return _GivenPaths(_read_stream(stream, b"\0" if nul else b"\n"))
    if os.path.isdir(argument):
        root = Path(argument)
        found = _list_images(root)
    elif any(c in argument for c in "*?[") and not os.path.exists(argument):
        plain = takewhile(lambda part: not any(c in part for c in "*?["), Path(argument).parts)
        root = Path(*plain)
        found = sorted(glob.glob(argument, recursive=True))
    else:
        return _GivenPaths(argument)
    if not found:
        raise UsageError(f"no image in {argument}")
    return _GivenPaths(found, root)


def _list_images(root: Path) -> list[str]:
    passed: list[str] = []
    found = list_image_paths(root, passed)
    for one in describe_passed(passed, root):
        log.info("%s: left out: %s", root, one)
    return found


def _name_images(top: Path | None, group: _GivenPaths) -> Iterator[InputImage]:
    """Yield the images of an argument.

    Args:
        top: folder below whose subfolders the results lie; None: that of the argument.
    """
    paths = [group.paths] if isinstance(group.paths, str) else group.paths
    if group.root is None:
        return (InputImage(path, _without_root(path)) for path in paths)
    start = os.path.abspath(group.root)
    images = (InputImage(path, _without_root(os.path.relpath(path, start))) for path in paths)
    if top is None:
        return images
    above = _without_root(os.path.relpath(start, top))
    return (image._replace(stem=_stem(above / image.below)) for image in images)


def _roots(groups: Iterable[_GivenPaths]) -> set[str]:
    return {os.path.abspath(root) for root in {g.root for g in groups} if root is not None}


def _overlap(groups: Iterable[_GivenPaths]) -> bool:
    """Return whether images below several folders have equal relative paths, but for suffixes.

    Case counts for nothing, since it may not where the results are written.
    """
    starts: dict[Path, str] = {}
    owners: dict[str, str] = {}
    for paths, root in groups:
        if root is None:
            continue
        start = starts.setdefault(root, os.path.abspath(root))
        prefix = os.path.join(root, "")
        for path in [paths] if isinstance(paths, str) else paths:
            inside = path.startswith(prefix)
            below = path[len(prefix) :] if inside else os.path.relpath(path, start)
            key = os.path.splitext(below)[0].casefold()
            if owners.setdefault(key, start) != start:
                return True
    return False


def _stem(below: PurePath) -> str:
    """Return a path without its suffix; never an empty one."""
    return str(below).removesuffix(below.suffix) if below.name else "image"


_NAMES = sys.getfilesystemencoding()
_ENCODED = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
"""Beginnings of image files that no path has, or hardly any."""


def _read_stream(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    path = None
    for path in _split_stream(stream, separator):
        yield path
    if path is None:  # no error: `find` may have found nothing
        log.warning("no paths on stdin")


def _common_folder(folders: set[str]) -> Path:
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # none, or folders on several drives
        return Path()


def _without_root(path: str) -> PurePath:
    """Remove the root and "..", so that results stay within their folder."""
    pure = PurePath(os.path.normpath(path))
    return PurePath(*(part for part in pure.parts if part not in (pure.anchor, "..")))


def _split_stream(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    # Lines of a list from Windows end with two characters.
    end = b"\r" if separator == b"\n" else b""
    rest = b""
    # read1 returns what a slow writer has written so far; read would wait for a full block.
    read = getattr(stream, "read1", stream.read)
    started = False
    while wait_readable(stream) and (block := read(1 << 16)):
        if not started and (block.startswith(_ENCODED) or block[4:8] == b"ftyp"):
            raise UsageError("stdin is an image, and - reads the paths of images; give its name")
        started = True
        *whole, rest = (rest + block).split(separator)
        paths = (part.removesuffix(end) for part in whole)
        yield from (path.decode(_NAMES, "surrogateescape") for path in paths if path)
    if rest.strip():
        yield rest.removesuffix(end).decode(_NAMES, "surrogateescape")
