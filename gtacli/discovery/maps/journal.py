"""Maps on their way into a file: appended batch by batch, so that a killed run loses one at most.

A batch is its number of rows, the rows, and their checksum. What a kill has cut off at the end, or
a crash of the machine has spoilt, is dropped with all that follows.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gtacli.discovery.maps.files import Rows
from gtacli.errors import RunError, UsageError

_NUMBER = struct.Struct("<I")


class Journal:
    """The journal at `path`, of one process at a time.

    Raises UsageError where another process has it, RunError where it cannot be written.
    """

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self.path, self.kind = path, kind
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb+", 0)
        except OSError as error:
            raise self._failed(error) from error
        if not _locked(self._file.fileno()):
            self._file.close()
            raise UsageError(f"--out: another gta discover is at work in {path.parent}")

    def replay(self) -> Iterator[Rows]:
        """What an earlier run left, batch by batch; then the journal ends there."""
        end, left = 0, self.path.stat().st_size
        self._file.seek(0)
        while head := self._file.read(_NUMBER.size):
            left -= len(head)
            size = self.kind.itemsize * _NUMBER.unpack(head)[0] if len(head) == _NUMBER.size else -1
            if not 0 <= size + _NUMBER.size <= left:
                break
            data, check = self._file.read(size), self._file.read(_NUMBER.size)
            left -= size + _NUMBER.size
            if check != _NUMBER.pack(zlib.crc32(data)):
                break
            end = self._file.tell()
            yield np.frombuffer(data, self.kind)
        self._cut(end)

    def append(self, rows: Rows) -> None:
        data = rows.tobytes()
        whole = _NUMBER.pack(len(rows)) + data + _NUMBER.pack(zlib.crc32(data))
        try:
            written = self._file.write(whole)
            if written != len(whole):  # the disk is full; the next call would say so
                raise OSError(f"{written} of {len(whole)} bytes written")
        except OSError as error:
            raise self._failed(error) from error

    def clear(self) -> None:
        self._cut(0)

    def close(self, remove: bool) -> None:
        """Let others have it, or remove it."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _cut(self, end: int) -> None:
        try:
            self._file.truncate(end)
            self._file.seek(end)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RunError:
        return RunError(f"--out: cannot write {self.path} ({error.strerror or error})")


def _locked(number: int) -> bool:
    """Whether the lock is ours; it ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing guards against a second run there
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
