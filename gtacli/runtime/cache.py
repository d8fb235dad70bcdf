"""The folder for files that the program can create again: $GTA_CACHE or the user's cache folder."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from gtacli.runtime.paths import user_path


def cache_dir() -> Path:
    """Return the cache folder, which need not exist yet."""
    own = os.environ.get("GTA_CACHE")
    return user_path(own) if own else user_cache_path("gta", appauthor=False)
