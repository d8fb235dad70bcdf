"""Paths in texts of users and of records."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """Return the path that a text names, with the home folder for `~`.

    A text stays as it is where it names no user of this machine.
    """
    return Path(os.path.expanduser(text))
