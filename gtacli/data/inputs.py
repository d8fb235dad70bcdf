"""Images named on a command line: files, folders, globs, paths that stream in, or a data set's."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from gtacli.data.base import ImageDataset, Record
from gtacli.data.spec import is_plain_folder, load_dataset
from gtacli.errors import GtaError, UsageError
from gtacli.images.find import find_images
from gtacli.images.packed import Packed

log = logging.getLogger(__name__)


class InputImage(NamedTuple):
    """An image's path as it was given or found, and where it lies below what was given: results
    are written in the same folders. One of a data set knows its record; it need not be a file."""

    path: str
    below: PurePath
    record: Record | None = None

    @property
    def source(self) -> Path | Packed:
        """What is decoded."""
        return Path(self.path) if self.record is None else self.record.path


class OutputNames:
    """The names of results that are taken: no two images share a file."""

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}  # hashes: a stream of a million paths still fits

    def reserve(self, image: InputImage, what: str, names: Sequence[PurePath]) -> str | None:
        """Take `names` for the image's results (`what`), or say why it cannot have them."""
        owner = hash(os.path.abspath(image.path))
        for name in names:
            other = self._owners.get(hash(name))
            if other == owner:
                return f"{image.path}: given a second time; it has its {what} already"
            if other is not None:
                return f"{image.path}: another image has its {what} in {name} already"
        self._owners.update(dict.fromkeys(map(hash, names), owner))
        return None


def iter_dataset_images(dataset: ImageDataset, part: str | None = None) -> Iterator[InputImage]:
    """All images of a data set, part by part, or those of one; each lies where its key says."""
    for split, record in dataset.records():
        if part in (None, split):
            yield InputImage(str(record.path), _without_root(record.key), record)


def list_sources(spec: str) -> list[Path | Packed]:
    """All images of a data set, part by part, for those who need no labels: a folder of images
    without classes will do. Raises GtaError where there is no image."""
    try:
        return [record.path for _, record in load_dataset(spec).records()]
    except GtaError:
        if not is_plain_folder(spec):
            raise
        found = find_images(Path(spec).expanduser())
        if not found:
            raise
        return [*found]


def iter_inputs(
    arguments: Sequence[str], dataset: ImageDataset | None, stream: BinaryIO, nul: bool = False
) -> Iterator[InputImage]:
    """Images named on a command line, and after them those of a data set.

    Raises UsageError where there is neither, and as `iter_images` does.
    """
    if dataset is None:
        if not arguments:
            raise UsageError(
                "no images: give files, folders, patterns, - for paths on stdin, or --data SPEC"
            )
        return iter_images(arguments, stream, nul)
    named = iter_images(arguments, stream, nul) if arguments else iter(())
    return chain(named, iter_dataset_images(dataset))


def iter_paths(arguments: Sequence[str], stream: BinaryIO, nul: bool = False) -> Iterator[str]:
    """Paths in the order given; those of a stream one after the other, never all at once.

    A folder stands for all images below it, sorted; a pattern for what it matches, sorted; `-` for
    the paths in `stream`, one a line or, with `nul`, NUL-separated. A path that does not exist is
    passed on: it is named when it cannot be read, and the others are done.

    Raises UsageError when there is no argument, or a folder or pattern holds no image,
    before the first path is given.
    """
    return (image.path for image in iter_images(arguments, stream, nul))


def iter_images(
    arguments: Sequence[str], stream: BinaryIO, nul: bool = False
) -> Iterator[InputImage]:
    """The same, with the place of each: below its folder, below the part of a pattern before the
    first wildcard, below the folder that all single files have in common. A path from the stream
    keeps the folders that it names."""
    if not arguments:
        raise UsageError("no images: give files, folders, patterns, or - for paths on stdin")
    groups = [_expanded(a, stream, nul) for a in arguments]
    root = _common_folder([group for group in groups if isinstance(group, str)])
    return chain.from_iterable(
        [InputImage(group, _below(group, root))] if isinstance(group, str) else group
        for group in groups
    )


def _expanded(argument: str, stream: BinaryIO, nul: bool) -> str | Iterable[InputImage]:
    if argument == "-":
        return _named_in(stream, b"\0" if nul else b"\n")
    if Path(argument).is_dir():
        root = Path(argument)
        found = [str(path) for path in find_images(root)]
    elif any(c in argument for c in "*?[") and not Path(argument).exists():
        plain = takewhile(lambda part: not any(c in part for c in "*?["), Path(argument).parts)
        root = Path(*plain)
        found = sorted(glob.glob(argument, recursive=True))
    else:
        return argument
    if not found:
        raise UsageError(f"no image in {argument}")
    return [InputImage(path, _below(path, root)) for path in found]


def _named_in(stream: BinaryIO, separator: bytes) -> Iterator[InputImage]:
    """None is no error: `find` may have found nothing."""
    path = None
    for path in _streamed(stream, separator):
        yield InputImage(path, _without_root(path))
    if path is None:
        log.warning("no paths on stdin")


def _common_folder(files: Sequence[str]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.abspath(Path(f).parent) for f in files]))
    except ValueError:  # no file, or files on several drives
        return Path()


def _below(path: str, root: Path) -> PurePath:
    below = PurePath(os.path.relpath(os.path.abspath(path), os.path.abspath(root)))
    return _without_root(str(below))


def _without_root(path: str) -> PurePath:
    """Never outside of where results go."""
    pure = PurePath(os.path.normpath(path))
    return PurePath(*(part for part in pure.parts if part not in (pure.anchor, "..")))


def _streamed(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    # A list from Windows ends its lines in two characters.
    end = b"\r" if separator == b"\n" else b""
    rest = b""
    # read1 hands out what a slow writer has written so far; read would wait for a full block.
    read = getattr(stream, "read1", stream.read)
    while block := read(1 << 16):
        *whole, rest = (rest + block).split(separator)
        paths = (part.removesuffix(end) for part in whole)
        yield from (path.decode(errors="surrogateescape") for path in paths if path)
    if rest.strip():
        yield rest.removesuffix(end).decode(errors="surrogateescape")
