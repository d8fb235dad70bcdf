"""Images named on a command line: files, folders, globs, or paths that stream in."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from gtacli.data.files import find_images
from gtacli.errors import UsageError


def image_paths(arguments: Sequence[str], stream: BinaryIO, nul: bool = False) -> Iterator[str]:
    """Paths in the order given; those of a stream one after the other, never all at once.

    A folder stands for all images below it, sorted; a pattern for what it matches, sorted; `-` for
    the paths in `stream`, one a line or, with `nul`, NUL-separated. A path that does not exist is
    passed on: it is named when it cannot be read, and the others are done.

    Raises UsageError when there is no argument, or a folder or pattern holds no image,
    before the first path is given.
    """
    if not arguments:
        raise UsageError("no images: give files, folders, patterns, or - for paths on stdin")
    return chain.from_iterable([_expanded(a, stream, nul) for a in arguments])


def _expanded(argument: str, stream: BinaryIO, nul: bool) -> Iterable[str]:
    if argument == "-":
        return _streamed(stream, b"\0" if nul else b"\n")
    if Path(argument).is_dir():
        found = [str(path) for path in find_images(Path(argument))]
    elif any(c in argument for c in "*?[") and not Path(argument).exists():
        found = sorted(glob.glob(argument, recursive=True))
    else:
        return [argument]
    if not found:
        raise UsageError(f"no image in {argument}")
    return found


def _streamed(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    rest = b""
    # read1 hands out what a slow writer has written so far; read would wait for a full block.
    read = getattr(stream, "read1", stream.read)
    while block := read(1 << 16):
        *whole, rest = (rest + block).split(separator)
        yield from (part.decode(errors="surrogateescape") for part in whole if part)
    if rest.strip():
        yield rest.decode(errors="surrogateescape")
