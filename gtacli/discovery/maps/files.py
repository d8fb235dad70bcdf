"""Files that are named by the hash of their bytes: written whole, or not at all; a damaged one does
not fit its name.
"""

from __future__ import annotations

import io
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gtacli.discovery.maps.digests import SIZE, digest
from gtacli.errors import RunError
from gtacli.runtime.atomic import replace_atomic

Rows = NDArray[np.void]
MAPS, SEEN = "maps", "seen"  # folders of the cache
SEEN_TYPE = np.dtype([("sighting", np.uint8, SIZE), ("digest", np.uint8, SIZE)])


def maps_type(grid: tuple[int, int]) -> np.dtype[Any]:
    """A row of a file of maps."""
    return np.dtype([("digest", np.uint8, SIZE), ("map", np.uint8, grid)])


def save(folder: Path, rows: Rows, draft: Path) -> Path:
    """Write rows into `folder`, under the hash of the file.

    Args:
        draft: where it is written first, on the same disk; nobody else's.
    """
    buffer = io.BytesIO()
    np.save(buffer, rows)
    data = buffer.getvalue()
    return put(folder / f"{digest(data).hex()}.npy", data, draft)


def put(path: Path, data: bytes, draft: Path) -> Path:
    """Write a file whole. Raises RunError where it cannot be."""
    try:
        replace_atomic(path, lambda file: file.write_bytes(data), draft=draft, sync=True)
    except OSError as error:
        raise RunError(f"--out: cannot write {path} ({error.strerror or error})") from error
    return path


def files_in(folder: Path) -> list[Path]:
    """Sorted by name."""
    return sorted(folder.glob("*.npy"))


def load(path: Path, kind: np.dtype[Any], check: bool = True) -> Rows | None:
    """The rows of a file, mapped into memory; None: it is damaged.

    Args:
        check: read it all and compare with its name; else trust it.
    """
    try:
        if check and _hash(path) != path.stem:
            return None
        rows = np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError):
        return None
    return rows if rows.dtype == kind and rows.ndim == 1 else None


def _hash(path: Path) -> str:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return digest(data).hex()
