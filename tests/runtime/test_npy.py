"""Tests of mapping rows of a known type, against files that NumPy writes and others that lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtacli.runtime.npy import map_rows

KIND = np.dtype([("digest", np.uint8, 4), ("map", np.uint8, (2, 3))])


def rows(count: int) -> np.ndarray[Any, Any]:
    values = np.zeros(count, KIND)
    values["map"] = np.random.default_rng(0).integers(0, 255, (count, 2, 3))
    return values


@pytest.mark.parametrize("count", [0, 1, 5])
def test_rows_of_numpy_files(tmp_path: Path, count: int) -> None:
    np.save(tmp_path / "a.npy", rows(count))
    found = map_rows(tmp_path / "a.npy", KIND)
    assert found.dtype == KIND
    assert (found == rows(count)).all()
    assert not found.flags.writeable or not count


def header(text: str, data: bytes) -> bytes:
    line = text.encode("latin1").ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data


PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s,), }"
LIES = {
    "huge": header(PLAIN % 10**15, bytes(8)),
    "fewer": header(PLAIN % 4, bytes(8)),
    "negative": header(PLAIN % -8, bytes(8)),
    "object": header(PLAIN.replace("|u1", "|O") % 1, bytes(8)),
    "fortran": header(PLAIN.replace("False", "True") % 8, bytes(8)),
    "deep": header("(" * 3000 + ")" * 3000, bytes(8)),
    "call": header(PLAIN % "__import__('os').getpid()", bytes(8)),
    "version": b"\x93NUMPY\x03\x00" + header(PLAIN % 8, bytes(8))[8:],
    "length": b"\x93NUMPY\x01\x00\xff\xff" + bytes(8),
    "other": b"nothing",
    "empty": b"",
}


@pytest.mark.parametrize("kind", LIES)
def test_a_header_that_lies_is_a_value_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.npy").write_bytes(LIES[kind])
    with pytest.raises(ValueError, match="it does not hold"):
        map_rows(tmp_path / "a.npy", np.dtype(np.uint8))


def test_the_headers_of_these_tests_are_numpys(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(header(PLAIN % 8, bytes(range(8))))
    assert map_rows(tmp_path / "a.npy", np.dtype(np.uint8)).tolist() == list(range(8))
