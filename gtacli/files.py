"""Files that are whole or not there. A leaf: whatever writes builds on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gtacli.errors import RunError


def replace_whole(
    path: Path,
    write: Callable[[Path], object],
    *,
    draft: Path | None = None,
    sync: bool = False,
) -> None:
    """Let `write` make a draft, then rename that to `path`: who watches the folder never sees half
    a file, and what was there stays if writing fails. The folder is made.

    Args:
        draft: on the same disk, nobody else's; default: hidden beside the file, this process's.
        sync: on the disk before it is renamed, so that no power failure leaves it empty.

    Raises OSError, and what `write` raises.
    """
    draft = draft or path.with_name(f".{os.getpid()}.{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(draft)
        if sync:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], object], option: str = "--out") -> str:
    """The same for what a command makes. Returns the path as text.

    Raises RunError, which names `option`, where it cannot be written.
    """
    try:
        replace_whole(path, write)
    except OSError as error:
        raise RunError(f"{option}: cannot write {path} ({error.strerror or error})") from error
    return str(path)
