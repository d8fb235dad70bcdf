"""Atomically written files named by the hash of their bytes, so that damage is detected."""

from __future__ import annotations

import io
import re
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import SIZE, digest
from gtacli.errors import RunError
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.npy import map_rows
from gtacli.runtime.regular import open_regular

RowArray = NDArray[np.void]
MAPS, SEEN, SHARDS = "maps", "seen", "shards"  # folders of the cache
SEEN_TYPE = np.dtype([("sighting", np.uint8, SIZE), ("digest", np.uint8, SIZE)])


def maps_type(grid: tuple[int, int]) -> np.dtype[Any]:
    """Return the dtype of a row of a file of maps."""
    return np.dtype([("digest", np.uint8, SIZE), ("map", np.uint8, grid)])


def save(folder: Path, rows: RowArray, draft: Path) -> Path:
    """Write rows to a file in `folder`, named by its hash.

    Args:
        draft: temporary file on the same disk, used by this process only.
    """
    buffer = io.BytesIO()
    np.save(buffer, rows)
    data = buffer.getvalue()
    return put(folder / f"{digest(data).hex()}.npy", data, draft)


def put(path: Path, data: bytes, draft: Path) -> Path:
    """Write a file atomically; raise RunError (option "out") if that fails."""
    try:
        replace_atomic(path, lambda file: file.write_bytes(data), draft=draft, sync=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def write_error(path: Path, error: OSError) -> RunError:
    """Return the error for a file that cannot be written."""
    return RunError(f"cannot write {path} ({error.strerror or error})", option="out")


NAMED = re.compile(rf"[0-9a-f]{{{2 * SIZE}}}\.npy")
"""A name that `save` gives; a file of another name in a cache is not ours."""


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that `save` has written, sorted by name."""
    return sorted(path for path in folder.glob("*.npy") if NAMED.fullmatch(path.name))


def load(path: Path, dtype: np.dtype[Any], check: bool = True) -> RowArray | None:
    """Map the rows of a file into memory; return None if it is damaged.

    Args:
        check: compare the hash of the file with its name.
    """
    try:
        if check and _hash(path) != path.stem:
            return None
        return map_rows(path, dtype)
    except (OSError, ValueError):
        return None


def _hash(path: Path) -> str:
    with open_regular(path) as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return digest(data).hex()
