"""Files that are whole or not there, and JSON that all can read. A leaf: whatever writes builds on
it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtacli.errors import RunError


def replace_atomic(
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


def write_atomic(path: Path, write: Callable[[Path], object], option: str = "out") -> str:
    """The same for what a command makes. Returns the path as text.

    Raises RunError, which names `option`, where it cannot be written.
    """
    try:
        replace_atomic(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"cannot write {path} ({reason})", option=option) from error
    return str(path)


def to_json(value: Any, **options: Any) -> str:
    """`json.dumps`, in which a number that is not finite becomes null and what JSON does not know
    a text: Python would write NaN, which nobody else reads."""
    return json.dumps(replace_nonfinite(value), default=str, **options)


def replace_nonfinite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): replace_nonfinite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(v) for v in value]
    return value
