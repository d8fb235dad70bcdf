"""The journal of maps that are not yet in a file; a killed run loses one batch at most.

A batch is stored as its number of rows, the rows, and their checksum. An incomplete or damaged
batch is dropped together with all that follow.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from gtacli.discovery.maps.files import RowArray, write_error
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.ownership import owned
from gtacli.runtime.regular import check_regular

_NUMBER = struct.Struct("<I")


class Journal:
    """A journal file, owned by one process at a time.

    Args:
        patience: see `owned`.

    Raises UsageError if another process owns it, RunError if it cannot be written.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], patience: float | None = None) -> None:
        self.path, self.dtype = path, dtype
        self._lock = ExitStack()
        self._lock.enter_context(owned(path.parent, "discover", part=path.name, patience=patience))
        try:
            self._file = self._open()
        except OSError as error:
            self._lock.close()
            raise write_error(self.path, error) from error

    def replay(self) -> Iterator[RowArray]:
        """Yield the complete batches of an earlier run, then truncate the journal after them."""
        end, left = 0, self.path.stat().st_size
        self._file.seek(0)
        while head := self._file.read(_NUMBER.size):
            left -= len(head)
            size = (
                self.dtype.itemsize * _NUMBER.unpack(head)[0] if len(head) == _NUMBER.size else -1
            )
            if not 0 <= size + _NUMBER.size <= left:
                break
            data, check = self._file.read(size), self._file.read(_NUMBER.size)
            left -= size + _NUMBER.size
            if check != _NUMBER.pack(zlib.crc32(data)):
                break
            end = self._file.tell()
            yield np.frombuffer(data, self.dtype)
        self._cut(end)

    def append(self, rows: RowArray) -> None:
        whole = _batch(rows)
        try:
            written = self._file.write(whole)
            if written != len(whole):  # the disk is full; only the next call would raise
                raise OSError(f"{written} of {len(whole)} bytes written")
        except OSError as error:
            raise write_error(self.path, error) from error

    def clear(self, rows: RowArray) -> None:
        """Remove all batches; `rows`, which are in some of them, stay as one, if there are any."""
        if not len(rows):
            self._cut(0)
            return
        self._file.close()  # a file that is open cannot be replaced everywhere
        try:
            replace_atomic(self.path, lambda draft: draft.write_bytes(_batch(rows)))
            self._file = self._open()
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise write_error(self.path, error) from error

    def close(self, remove: bool) -> None:
        """Unlock the journal; delete it if `remove`."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()
        self._lock.close()

    def _open(self) -> FileIO:
        file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "rb+", 0)
        check_regular(self.path)
        return file

    def _cut(self, end: int) -> None:
        try:
            self._file.truncate(end)
            self._file.seek(end)
        except OSError as error:
            raise write_error(self.path, error) from error


def _batch(rows: RowArray) -> bytes:
    data = rows.tobytes()
    return _NUMBER.pack(len(rows)) + data + _NUMBER.pack(zlib.crc32(data))
