"""Where the program keeps what it can make again: $GTA_CACHE, else gta/ in the user's cache."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder (not created)."""
    own = os.environ.get("GTA_CACHE")
    if own:
        return Path(own).expanduser()
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "gta"
