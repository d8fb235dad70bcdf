"""Find images on disk: suffixes, hidden files, links and loops of links."""

import os
from pathlib import Path

from gtacli.errors import GtaError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
)


def is_hidden(name: str) -> bool:
    """Return whether a name is a dot file, or the folder that macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Return whether a file name has an image's suffix and is not hidden."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def find_images(folder: Path) -> list[Path]:
    """List every image below `folder`, sorted; links are followed, each real folder once."""
    found: list[Path] = []
    entered: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(here)
        if real in entered:  # a link back to a parent would never end
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found.extend(Path(here, name) for name in files if is_image(name))
    return sorted(found)


def list_subfolders(folder: Path) -> list[Path]:
    """List the visible folders directly in `folder`, sorted by name."""
    try:
        return sorted(
            path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)
        )
    except OSError as error:
        raise _folder_error(error) from error


def read_file_state(path: Path) -> str:
    """Return a string that changes with a file's place or bytes, without reading the file.

    It has the path, the size, and the times of the last change of the bytes and of the inode, of
    which no program can reset the latter. Raises OSError.
    """
    stat = path.stat()
    return f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"


def _raise(error: OSError) -> None:
    raise _folder_error(error) from error


def _folder_error(error: OSError) -> GtaError:
    return GtaError(f"cannot read folder {error.filename}: {error.strerror}")
