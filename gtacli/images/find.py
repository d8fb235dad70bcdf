"""Finding images on disk: which suffixes count, hidden files, links, loops of links."""

import os
from pathlib import Path

from gtacli.errors import GtaError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
)


def is_hidden(name: str) -> bool:
    """Dot files, and the folder that macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def find_images(folder: Path) -> list[Path]:
    """Every image below `folder`, sorted; links are followed, each real folder entered once."""
    found: list[Path] = []
    entered: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(here)
        if real in entered:  # a link back to a parent would never end
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found.extend(Path(here, name) for name in files if is_image(name))
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders directly in `folder`, sorted by name."""
    try:
        return sorted(
            path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)
        )
    except OSError as error:
        raise _unreadable(error) from error


def file_state(path: Path) -> str:
    """Where a file lies and what changes with its bytes, found without reading them: size, and
    the times of the last change of the bytes and of the entry, which no program can set back.
    Raises OSError."""
    stat = path.stat()
    return f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"


def _refuse(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> GtaError:
    return GtaError(f"cannot read folder {error.filename}: {error.strerror}")
