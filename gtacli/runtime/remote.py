"""The content of a URL, read without a copy on the disk: from its start to its end, or in ranges.

A connection that ends early is continued where it was, by a range, or from the start, of which the
bytes that were read are then dropped. What has changed meanwhile is an error: bytes of two versions
never meet.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from gtacli.errors import GtaError, reason_of_library
from gtacli.runtime.download import open_url
from gtacli.runtime.secrets import mask_secrets

T = TypeVar("T")
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt, until a byte has come again."""
BLOCK = 1 << 18
"""Bytes that are asked of a connection at a time."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_PARTIAL = 206
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class RemoteFile:
    """The content of a URL.

    Args:
        url: of a scheme that may be opened, see `gtacli.runtime.download`.
        whole: whether the content is read to its end; the connection is then opened at once.
        start: bytes that are passed over.

    Attributes:
        shown: the URL without credentials.
        position: bytes that were read or passed over.
        length: bytes of the content; None if the server does not say it.

    Raises GtaError, here and in every read, for whatever a further attempt does not mend.
    """

    def __init__(self, url: str, whole: bool = True, start: int = 0) -> None:
        self.url, self.shown = url, mask_secrets(url)
        self.position = start
        self.length: int | None = None
        self._answer: Any = None
        self._failures = 0
        self._version: tuple[str | None, ...] | None = None
        if whole:
            self._retry(self._open)

    @property
    def state(self) -> str | None:
        """A string that changes with the content; None if the server does not say enough.

        Without the URL's query, where signatures change from day to day.
        """
        tag, changed = self._version or (None, None)
        if tag is None and (changed is None or self.length is None):
            return None
        parts = urlsplit(self.url)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return "\0".join((place, tag or "", changed or "", str(self.length)))

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer only at the end."""
        blocks, left = [], size
        while left and (block := self._retry(partial(self._read_block, min(left, BLOCK)))):
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)

    def read_range(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on; fewer only at the end."""
        if not size:
            return b""
        return self._retry(partial(self._ask_range, start, size))

    def close(self) -> None:
        """End the connection."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _retry(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, called again after failures that may pass."""
        while True:
            try:
                found = work()
            except HTTPError as error:
                reason = f"the server answers {error.code}"
                if error.code not in _AGAIN:
                    raise GtaError(f"cannot read {self.shown}: {reason}") from error
            except (OSError, HTTPException) as error:
                reason = mask_secrets(reason_of_library(error))
            else:
                self._failures = 0
                return found
            self.close()
            if self._failures == len(WAITS):
                text = f"cannot read {self.shown}: {reason}, tried {len(WAITS) + 1} times"
                raise GtaError(text)
            time.sleep(WAITS[self._failures])
            self._failures += 1

    def _read_block(self, size: int) -> bytes:
        if self._answer is None:
            self._open()
        block: bytes = self._answer.read(size)
        if not block and self.length is not None and self.position < self.length:
            raise OSError(f"it ended after {self.position:,} of {self.length:,} bytes")
        self.position += len(block)
        return block

    def _open(self) -> None:
        """Connect, and go on where the reading was."""
        start = self.position
        answer = self._ask({"Range": f"bytes={start}-"} if start else {})
        self._answer = answer
        partial = answer.status == _PARTIAL
        total = _total(answer, start) if partial else _length(answer)
        self._check(answer, total)
        if start and not partial:
            left = start
            while left:
                block = answer.read(min(left, BLOCK))
                if not block:
                    raise OSError("it ended early")
                left -= len(block)

    def _ask_range(self, start: int, size: int) -> bytes:
        with self._ask({"Range": f"bytes={start}-{start + size - 1}"}) as answer:
            if answer.status != _PARTIAL:
                text = f"cannot read {self.shown}: its server sends no parts of a file"
                raise GtaError(f"{text}; download it, and give the local copy")
            total = _total(answer, start)
            self._check(answer, total)
            wanted = size if total is None else min(size, total - start)
            blocks, left = [], wanted
            while left and (block := answer.read(min(left, BLOCK))):
                blocks.append(block)
                left -= len(block)
        if left:
            raise OSError("it ended early")
        return b"".join(blocks)

    def _ask(self, headers: Mapping[str, str]) -> Any:
        # The bytes as they are: a server may else compress them, and count others.
        return open_url(self.url, {"Accept-Encoding": "identity", **headers})

    def _check(self, answer: Any, total: int | None) -> None:
        """Remember the version of the content. Raises GtaError if it is another one by now."""
        version = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        first = self._version is None
        if not first and (version, total) != (self._version, self.length):
            raise GtaError(f"{self.shown} has changed while it was read")
        self._version, self.length = version, total


def _length(answer: Any) -> int | None:
    text = answer.headers.get("Content-Length")
    return int(text) if text is not None and text.isdecimal() else None


def _total(answer: Any, start: int) -> int | None:
    """Return the size of the whole content. Raises OSError for another part than was asked for."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range") or "")
    if found is None or int(found[1]) != start:
        raise OSError("it sends another part than it was asked for")
    return None if found[3] == "*" else int(found[3])
