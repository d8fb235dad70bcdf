"""The names of drafts (temporary files of atomic writes), and the removal of dead processes' ones.

A draft is named after its process, so that whoever finds one knows whether it is still written to.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from gtacli.runtime.process_identity import ProcessIdentity, own_identity

log = logging.getLogger(__name__)

LOCK_PREFIX = ".gta-lock"
"""The names of lock files begin with it, see `gtacli.runtime.ownership`."""
_DRAFT = re.compile(r"\.gta-draft-([0-9a-f]{8})-(\d+)-(\d+)-\d+(\.\w{1,16})?")
_numbers = count()
# Of a process on another machine one cannot ask whether it runs. Nothing is written for a day.
_DEAD_AFTER_SECONDS = 24 * 3600.0


def draft_name(suffix: str = "") -> str:
    """Return a name that no other draft has.

    Args:
        suffix: of the file's name, for writers that choose the format by it.
    """
    space, pid, started = own_identity()
    kept = suffix if re.fullmatch(r"\.\w{1,16}", suffix) else ""
    return f".gta-draft-{space}-{pid}-{started}-{next(_numbers)}{kept}"


def is_draft(name: str) -> bool:
    """Return whether a file of this name is a draft."""
    return _DRAFT.fullmatch(name) is not None


def is_housekeeping(name: str) -> bool:
    """Return whether a name is a draft's or a lock's, which is no content of a folder."""
    return name.startswith(LOCK_PREFIX) or is_draft(name)


def remove_dead_drafts(folder: Path, owned: bool = False) -> None:
    """Remove the drafts in a folder whose processes have ended.

    Args:
        folder: need not exist.
        owned: this process alone may write into the folder and the folders below it, so that those
            are included, and drafts of other machines are dead too.
    """
    try:
        entries = [*os.scandir(folder)]
    except OSError:
        return
    for entry in entries:
        if (found := _DRAFT.fullmatch(entry.name)) is not None:
            writer = ProcessIdentity(found[1], int(found[2]), int(found[3]))
            if _is_dead(entry, writer, owned):
                _remove(entry)
        elif owned and entry.is_dir(follow_symlinks=False) and not _is_locked(entry):
            remove_dead_drafts(Path(entry.path), owned=True)


def content(names: Iterable[str]) -> set[str]:
    """Return the names of a folder's content: neither drafts nor locks."""
    return {name for name in names if not is_housekeeping(name)}


def _is_dead(entry: os.DirEntry[str], writer: ProcessIdentity, owned: bool) -> bool:
    dead = writer.is_dead()
    if dead is not None or owned:
        return dead is not False
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _DEAD_AFTER_SECONDS
    except OSError:
        return False


def _is_locked(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder has an owner of its own, who removes the drafts in it."""
    return os.path.lexists(Path(folder.path) / LOCK_PREFIX)


def _remove(entry: os.DirEntry[str]) -> None:
    log.debug("removing %s, the draft of a process that has ended", entry.path)
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        Path(entry.path).unlink(missing_ok=True)
