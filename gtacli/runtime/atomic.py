"""Atomic writing of files, and JSON without NaN."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtacli.errors import RunError
from gtacli.runtime.drafts import draft_name, remove_dead_drafts
from gtacli.runtime.secrets import mask_secrets, mask_values

_swept: set[Path] = set()


def replace_atomic(
    path: Path,
    write: Callable[[Path], object],
    *,
    draft: Path | None = None,
    sync: bool = False,
    previous: Path | None = None,
) -> None:
    """Let `write` fill a draft, then rename the draft to `path`.

    Readers never see half a file, and an existing file stays if writing fails. The folder is
    created; at this process's first write into it, drafts that dead processes have left there are
    removed. The file has the mode that the user's umask gives to new files.

    Args:
        path: file to create or replace.
        write: called with the draft's path.
        draft: path of the draft, on the same disk and used by no other process. Default: a hidden
            file beside `path`, named after the process (see `drafts`).
        sync: flush the draft to the disk first, so that a power failure cannot leave an empty file.
        previous: another name that the file which is replaced keeps.

    Raises OSError, and whatever `write` raises.
    """
    draft = draft or path.with_name(draft_name(path.suffix))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _swept:
        _swept.add(path.parent)
        remove_dead_drafts(path.parent)
    try:
        mode = _create(draft)
        write(draft)
        if draft.stat().st_mode != mode:  # safetensors makes a private file of its own
            draft.chmod(mode & 0o777)
        if sync:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _keep(path: Path, previous: Path) -> None:
    """Give a file another name too; where the file system has no links, instead."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:
        path.replace(previous)


def _create(draft: Path) -> int:
    """Create an empty file, never through a link that is there already; return its mode."""
    draft.unlink(missing_ok=True)
    with draft.open("xb") as file:
        return os.fstat(file.fileno()).st_mode


def write_atomic(path: Path, write: Callable[[Path], object], option: str = "out") -> str:
    """Like `replace_atomic`, but return the path as text, and raise RunError about `option`."""
    try:
        replace_atomic(path, write)
    except BrokenPipeError:  # of stdout, where `write` prints too
        raise
    except OSError as error:
        raise _cannot_write(path, error, option) from error
    return str(path)


def check_writable(path: Path, option: str = "out") -> None:
    """Raise RunError about `option` if a file cannot be created at `path`, before it takes hours.

    Creates the folder, and leaves nothing else.
    """
    draft = path.with_name(draft_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(draft)
        draft.unlink()
    except OSError as error:
        raise _cannot_write(path, error, option) from error


def _cannot_write(path: Path, error: OSError, option: str) -> RunError:
    return RunError(f"cannot write {path} ({error.strerror or error})", option=option)


def to_json(value: Any, **options: Any) -> str:
    """Return `value` as JSON; non-finite numbers become null, and unknown types become strings.

    Credentials in URLs are masked (see `secrets`).
    Python would write NaN, which is not JSON and which other programs cannot read.
    """
    return json.dumps(mask_values(replace_nonfinite(value)), default=_as_text, **options)


def _as_text(value: object) -> str:
    return mask_secrets(str(value))


def replace_nonfinite(value: Any) -> Any:
    """Return `value` with None in place of every non-finite number, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): replace_nonfinite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(v) for v in value]
    return value
