"""Reading of regular files only: a FIFO, a device or a socket could block for ever.

A link counts as what it leads to. The errors are OSErrors, so that callers report them as they do
any file that cannot be read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO, cast

_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # Windows has neither
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_name(path: Path) -> None:
    """Raise OSError for a path that no file can have; Python itself raises another error."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a NUL is in its name", str(path))


def check_regular(path: Path) -> None:
    """Raise OSError for a path that does not exist or is no regular file."""
    check_name(path)
    _check(path, os.stat(path).st_mode)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes. Raises OSError as `check_regular` does."""
    check_name(path)
    return cast(BinaryIO, open(path, "rb", opener=_open))


def open_regular_text(
    path: Path, encoding: str = "utf-8", errors: str | None = None, newline: str | None = None
) -> TextIO:
    """Open a file to read its text. Raises OSError as `check_regular` does."""
    check_name(path)
    return cast(TextIO, open(path, encoding=encoding, errors=errors, newline=newline, opener=_open))


def read_regular(path: Path) -> bytes:
    """Return the bytes of a file. Raises OSError as `check_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_regular_text(path: Path) -> str:
    """Return the text of a UTF-8 file. Raises OSError as `check_regular` does, and for others."""
    with open_regular_text(path) as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise OSError(not_utf8(error)) from None


def not_utf8(error: UnicodeDecodeError) -> str:
    """Describe a text in another encoding."""
    return f"it is not UTF-8 text (byte {error.start})"


def opened_path(file: BinaryIO, path: Path) -> Path:
    """Return a path for libraries that open files themselves, so that they get the opened one.

    Only Linux has such paths. Elsewhere it is `path`, which might lead to another file by then.
    """
    own = Path(f"/proc/self/fd/{file.fileno()}")
    return own if own.exists() else path


def _open(path: str, flags: int) -> int:
    check_regular(Path(path))  # opening a device may have effects
    descriptor = os.open(path, flags | _FLAGS)  # without waiting, should it have become a FIFO
    try:
        _check(Path(path), os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
