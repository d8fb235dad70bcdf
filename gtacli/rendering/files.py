"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gtacli.errors import RunError


def write_whole(path: Path, write: Callable[[Path], object], option: str = "--out") -> str:
    """`write` to another name in the same folder, then rename: who watches the folder never sees
    half a file. Returns the path as text; its folder is made.

    Raises RunError, which names `option`, where it cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{option}: cannot write {path} ({error.strerror or error})") from error
    return str(path)
