"""Find images on disk: suffixes, hidden files, links and loops of links."""

import os
from collections.abc import Iterable
from pathlib import Path

from gtacli.errors import GtaError
from gtacli.runtime.regular import check_name

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
    return [Path(path) for path in list_image_paths(folder)]


def relative_keys(paths: Iterable[Path], folder: Path) -> list[str]:
    """Return paths of `find_images` relative to a folder that contains them, with `/`."""
    prefix = _prefix(str(folder))
    return [str(path).removeprefix(prefix).replace(os.sep, "/") for path in paths]


def list_image_paths(folder: Path) -> list[str]:
    """Like `find_images`, but return strings: a hundred thousand files take a fraction of a second.

    The order is that of the paths' parts, folder by folder. No file is opened, and none has its
    state read but links.
    """
    top = str(folder)
    found: list[str] = []
    entered: set[str] = set()
    # What is left to do, in reverse order. Real path of a folder; None: an image.
    left: list[tuple[str, str | None]] = [(top, os.path.realpath(top))]
    while left:
        path, real = left.pop()
        if real is None:
            found.append(path)
        elif real not in entered:  # a link back to a parent would never end
            entered.add(real)
            left += _list_entries(path, real)
    return found


def _prefix(folder: str) -> str:
    """Return what `Path(folder, name)` has before the name."""
    return "" if folder == os.curdir else os.path.join(folder, "")


def _list_entries(path: str, real: str) -> list[tuple[str, str | None]]:
    """List the folders and images directly in a folder, in reverse order."""
    named: list[tuple[str, str | None]] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if is_hidden(name):
                    continue
                if _is_folder(entry):
                    link = entry.is_symlink()
                    named.append(
                        (name, os.path.realpath(entry) if link else f"{real}{os.sep}{name}")
                    )
                elif is_image(name):
                    named.append((name, None))
    except OSError as error:
        raise _folder_error(error) from error
    named.sort(key=lambda one: os.path.normcase(one[0]), reverse=True)
    prefix = _prefix(path)
    return [(prefix + name, kind) for name, kind in named]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere is reported when it is read
        return False


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
    check_name(path)
    stat = path.stat()
    return f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"


def _folder_error(error: OSError) -> GtaError:
    return GtaError(f"cannot read folder {error.filename}: {error.strerror}")
