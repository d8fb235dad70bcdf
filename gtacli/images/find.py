"""Find images on disk: suffixes, hidden files, links and loops of links."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gtacli.errors import GtaError
from gtacli.runtime.regular import check_name

_NAMES = (
    "jpg jpeg jpe jfif jif mpo png apng webp avif avifs heic heics heif heifs hif gif tif tiff "
    "bmp dib ppm pgm pbm pnm pfm jp2 j2k j2c jpc jpf jpx tga icb vda vst pcx dcx dds blp qoi psd "
    "sgi rgb rgba bw ras im msp pcd pxr fit fits fli flc ftc ftu gbr ico icns cur xbm xpm"
)
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""What Pillow decodes to pixels, and HEIC; without the containers that it only recognizes, such as
PDF and HDF5. Fixed, so that a folder has the same images wherever it is read."""


SYSTEM_NAMES = frozenset(
    {
        *("__MACOSX", "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot"),
        *("$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", "System Volume Information", "lost+found"),
        *("Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini"),
    }
)
"""Names of thumbnails, bins and settings of macOS, Windows, Linux, Synology and QNAP."""


class FolderContent(NamedTuple):
    """The content of one folder, sorted by name, without dot files.

    Attributes:
        folders, images: the visible ones.
        others: other files, and folders of the system (with a `/` at the end).
    """

    folders: list[Path]
    images: list[Path]
    others: list[str]


def is_hidden(name: str) -> bool:
    """Return whether a name is a dot file, or one of the operating system's own."""
    return name.startswith(".") or name in SYSTEM_NAMES


def is_image(name: str) -> bool:
    """Return whether a file name has an image's suffix and is not hidden."""
    return not is_hidden(name) and _has_image_suffix(name)


def _has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_image_file(path: str) -> bool:
    """Return whether a file is an image by its name, or by its content where it has no suffix.

    Only a file without a suffix is opened; one that cannot be read is none.
    """
    name = os.path.basename(path)
    if "." in name or is_hidden(name):
        return is_image(name)
    from gtacli.images.decode import is_readable  # Pillow, which few folders need to be listed

    return is_readable(Path(path))


def find_images(folder: Path, passed: list[str] | None = None) -> list[Path]:
    """List every image below `folder`, sorted; links are followed, each real folder once.

    Args:
        passed: gets the paths that are no images, see `list_image_paths`.
    """
    return [Path(path) for path in list_image_paths(folder, passed)]


def relative_keys(paths: Iterable[str | Path], folder: Path) -> list[str]:
    """Return paths of images relative to a folder that contains them, with `/`."""
    prefix = prefix_of(str(folder))
    return [str(path).removeprefix(prefix).replace(os.sep, "/") for path in paths]


def list_image_paths(folder: Path, passed: list[str] | None = None) -> list[str]:
    """Like `find_images`, but return strings: a hundred thousand files take a fraction of a second.

    The order is that of the paths' parts, folder by folder. No file is opened but those without a
    suffix, and none has its state read but links.

    Args:
        folder: where to begin.
        passed: gets the paths of files that are no images, and of the system's folders (with a `/`
            at the end); dot files and the system's files are left out of it.
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
            left += _list_entries(path, real, passed)
    return found


def has_images(folder: Path) -> bool:
    """Return whether there is an image below `folder`, without listing all of them."""
    left, entered = [str(folder)], set[str]()
    while left:
        path = left.pop()
        if left or entered or path != str(folder):  # most have an image directly in them
            real = os.path.realpath(path)
            if real in entered:
                continue
            entered.add(real)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if _is_folder(entry):
                        left.append(entry.path)
                    elif is_image_file(entry.path):
                        return True
        except OSError as error:
            raise _folder_error(error) from error
    return False


def prefix_of(folder: str) -> str:
    """Return what `Path(folder, name)` has before the name."""
    return "" if folder == os.curdir else os.path.join(folder, "")


def _list_entries(path: str, real: str, passed: list[str] | None) -> list[tuple[str, str | None]]:
    """List the folders and images directly in a folder, in reverse order."""
    named: list[tuple[str, str | None]] = []
    prefix = prefix_of(path)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if is_hidden(name):
                    if passed is not None and not name.startswith(".") and _is_folder(entry):
                        passed.append(f"{prefix}{name}/")
                elif _is_folder(entry):
                    link = entry.is_symlink()
                    named.append(
                        (name, os.path.realpath(entry) if link else f"{real}{os.sep}{name}")
                    )
                elif _has_image_suffix(name) or ("." not in name and is_image_file(entry.path)):
                    named.append((name, None))
                elif passed is not None:
                    passed.append(prefix + name)
    except OSError as error:
        raise _folder_error(error) from error
    named.sort(key=lambda one: os.path.normcase(one[0]), reverse=True)
    return [(prefix + name, kind) for name, kind in named]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere is reported when it is read
        return False


def list_folder(folder: Path) -> FolderContent:
    """List what lies directly in `folder`."""
    passed: list[str] = []
    found = _list_entries(str(folder), os.path.realpath(folder), passed)
    return FolderContent(
        sorted(Path(path) for path, real in found if real is not None),
        sorted(Path(path) for path, real in found if real is None),
        sorted(passed),
    )


def list_subfolders(folder: Path) -> list[Path]:
    """List the visible folders directly in `folder`, sorted by name."""
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry) and not is_hidden(entry.name):
                    found.append(folder / entry.name)
    except OSError as error:
        raise _folder_error(error) from error
    return sorted(found)


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
