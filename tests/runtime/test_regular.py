"""Tests of reading regular files only."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gtacli.runtime import regular

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no FIFOs")
READERS: tuple[Callable[[Path], Any], ...] = (
    regular.check_regular,
    regular.read_regular,
    regular.read_regular_text,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # a socket's path must be short
        yield Path(name)


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_opened(folder: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("fifo")
    kinds = {"fifo": "a FIFO", "link": "a FIFO", "socket": "a socket", "/dev/null": "a device"}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
        for name, kind in kinds.items():
            with pytest.raises(OSError, match=f"is {kind}, not a file") as caught:
                read(folder / name)
            assert str(folder / name) in str(caught.value)
    with pytest.raises(IsADirectoryError):
        read(folder)
    with pytest.raises(FileNotFoundError):
        read(folder / "missing")


def test_files_and_links_to_files_are_read(folder: Path) -> None:
    (folder / "file").write_bytes(b"\xc3\xa9\r\n")
    (folder / "link").symlink_to("file")
    assert regular.read_regular(folder / "link") == b"\xc3\xa9\r\n"
    assert regular.read_regular_text(folder / "file") == "é\n"
    with regular.open_regular_text(folder / "file", newline="") as file:
        assert file.read() == "é\r\n"
    (folder / "file").write_bytes(b"caf\xe9")
    with pytest.raises(OSError, match=r"^it is not UTF-8 text \(byte 3\)$"):
        regular.read_regular_text(folder / "file")


def test_file_that_becomes_a_fifo_does_not_block(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the opening; a writer that waits would block the reader."""
    os.mkfifo(folder / "fifo")
    monkeypatch.setattr(regular, "check_regular", lambda path: None)
    with pytest.raises(OSError, match="is a FIFO"):
        regular.read_regular(folder / "fifo")
