"""Files of NumPy arrays whose type is known, read without trusting their headers.

`np.load` evaluates the header as a Python expression and believes its type and shape. Here the
header must be the one that NumPy writes for the expected type and for as many rows as the file has.
"""

from __future__ import annotations

import os
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.runtime.regular import open_regular

_START = 10
"""Bytes before the header's text: the magic string, the version, and the length of the text."""


def map_rows(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map the rows (n,) of a file of version 1.0 into memory, read-only.

    Raises OSError for a file that cannot be read, ValueError for one of another type or shape.
    """
    with open_regular(path) as file:
        start = file.read(_START)
        length = int.from_bytes(start[8:], "little")
        text = file.read(length).decode("latin1")
        offset = _START + length
        count, rest = divmod(os.fstat(file.fileno()).st_size - offset, dtype.itemsize)
        if len(text) != length or count < 0 or rest:
            raise ValueError("it does not hold whole rows")
        magic, header = _header(dtype, count)
        if start[:8] != magic or text.rstrip() != header:
            raise ValueError("it does not hold rows of this type")
        if not count:
            return np.empty(0, dtype)
        return np.asarray(np.memmap(file, dtype, "r", offset, (count,)))


@lru_cache(maxsize=256)
def size_of_rows(dtype: np.dtype[Any], count: int) -> int:
    """Return the bytes of a file of version 1.0 with so many rows."""
    return len(_write_header(dtype, count)) + count * dtype.itemsize


def _header(dtype: np.dtype[Any], count: int) -> tuple[bytes, str]:
    """Return what NumPy writes before the length, and after it without the padding."""
    data = _write_header(dtype, count)
    return data[:8], data[_START:].decode("latin1").rstrip()


def _write_header(dtype: np.dtype[Any], count: int) -> bytes:
    file = BytesIO()
    values = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count,),
    }
    np.lib.format.write_array_header_1_0(file, values)
    return file.getvalue()
