"""Reader `folder`: `train/ val/ test/` of class folders, or class folders alone (all train).

What is not read is listed in `ImageDataset.left_out`.
"""

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from gtacli.data.base import DatasetReader, ImageDataset, LeftOut, Record, require_folder
from gtacli.data.readers.loose import label_loose, list_tables
from gtacli.data.readers.split_folders import (
    SplitFolders,
    enter,
    find_splits,
    has_class_folders,
)
from gtacli.errors import GtaError
from gtacli.images.find import (
    has_images,
    list_folder,
    list_image_paths,
    list_subfolders,
    relative_keys,
)

log = logging.getLogger(__name__)
_LAYOUT = "expected train/ val/ test/ of class folders, or class folders"
Images = dict[str, list[str]]
"""Paths of images by class."""


class Folder(DatasetReader):
    """The reader of class folders."""

    help = "train/ val/ test/ of class folders, or class folders alone (all for training)"

    def read(self, root: Path | None) -> ImageDataset:
        root = require_folder(root, "folder")
        found = find_splits(root)
        notes = _Notes(root)
        by_split = _read_splits(found, notes)
        # Sorted by name like torchvision's ImageFolder, so that labels agree with other tools.
        classes = tuple(sorted({name for by_class in by_split.values() for name in by_class}))
        if not classes:
            text = "; left out: " + "; ".join(map(str, notes.left_out)) if notes.left_out else ""
            raise GtaError(f"there is no image in {root}{text}")
        labels = {name: label for label, name in enumerate(classes)}
        splits = {
            split: tuple(
                Record(key, labels[name], path)
                for name in sorted(by_class)
                for key, path in zip(
                    relative_keys(by_class[name], root), by_class[name], strict=True
                )
            )
            for split, by_class in by_split.items()
        }
        if found.root != root:
            log.info("reading %s, the only folder of images in %s", found.root, root)
        hint = _suggest_table(found.root) if len(classes) == 1 else ""
        name = root.resolve().name
        return ImageDataset(name, classes, splits, left_out=notes.left_out, hint=hint)


class _Notes:
    """A collection of what is left out, by kind and reason."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._found: dict[tuple[str, str, bool], list[str]] = {}
        self.passed: list[str] = []

    def add(
        self, kind: str, reason: str, paths: Iterable[str | Path], harmless: bool = False
    ) -> None:
        names = relative_keys(paths, self.root)
        if names:
            self._found.setdefault((kind, reason, harmless), []).extend(names)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        found = [LeftOut(k, why, tuple(n), harmless=h) for (k, why, h), n in self._found.items()]
        return (*found, *describe_passed(self.passed, self.root))


def describe_passed(passed: list[str], root: Path) -> tuple[LeftOut, ...]:
    """Describe paths that `list_image_paths` has passed over, by their names in `root`."""
    passed = sorted(passed)
    names = relative_keys((path.rstrip("/") for path in passed), root)
    pairs = list(zip(passed, names, strict=True))
    files = tuple(name for path, name in pairs if path[-1] != "/")
    system = tuple(name for path, name in pairs if path[-1] == "/")
    reasons = (
        LeftOut("files", "of no known image type", files, harmless=True),
        LeftOut("folders", "of the operating system or a network drive", system, harmless=True),
    )
    return tuple(one for one in reasons if one.names)


def _read_splits(found: SplitFolders, notes: _Notes) -> dict[str, Images]:
    """Read the images by split and class."""
    if not found.splits:
        return {"train": _read_classes(found.root, notes)}
    content = list_folder(found.root)
    notes.passed += content.others
    notes.add("images", "beside the folders of the splits", content.images)
    for other in found.others:
        images = list_image_paths(other, notes.passed)
        names = [folder.name + "/" for folder in found.splits.values()]
        notes.add("images", f"in neither of {', '.join(names)}", images)
    inner = {split: _enter_split(split, found.splits) for split in found.splits}
    loose = {split: folder for split, folder in inner.items() if not has_class_folders(folder)}
    by_split = {
        split: _read_classes(folder, notes) for split, folder in inner.items() if split not in loose
    }
    if not by_split or "train" in loose:
        folder = loose.get("train") or next(iter(loose.values()))
        raise _no_classes(folder, notes.root)
    classes = {name for by_class in by_split.values() for name in by_class}
    above = [one for one in found.root.parents if one.is_relative_to(notes.root)]
    tables = [table for one in (found.root, *above) for table in list_tables(one)]
    for split, folder in loose.items():
        images = list_image_paths(folder, notes.passed)
        if not images:
            notes.add("folders", "there is no image in it", [folder])
            continue
        labeled = label_loose(images, [*tables, *list_tables(found.splits[split])], classes)
        if labeled is not None:
            by_split[split] = labeled.images
            log.info("%s: labels of its %d images from %s", folder, labeled.labeled, labeled.table)
            images = labeled.rest
        notes.add("images", f"without labels: {folder.name}/ has no class folders", images)
    return {split: by_split[split] for split in found.splits if split in by_split}


def _enter_split(split: str, splits: dict[str, Path]) -> Path:
    """Return the folder of a split's classes: itself, or the only one in it.

    The only one is entered unless it is a class of the other splits; if it holds images, they have
    no class (`val/images/`).
    """
    folder = splits[split]
    filled = [*islice(_filled(folder), 2)]
    if len(filled) != 1 or list_folder(folder).images:
        return folder
    others = {one.name for other in splits.values() if other != folder for one in _filled(other)}
    known = filled[0].name in others
    if has_class_folders(filled[0]):
        return folder if known and len(others) > 1 else enter(filled[0])
    return filled[0] if split != "train" and len(others) > 1 and not known else folder


def _filled(folder: Path) -> Iterator[Path]:
    return (one for one in list_subfolders(folder) if has_images(one))


def _read_classes(folder: Path, notes: _Notes) -> Images:
    content = list_folder(folder)
    notes.passed += content.others
    if not content.folders:
        raise _no_classes(folder, notes.root)
    notes.add("images", "beside the class folders", content.images)
    copies = [one for one in content.folders if _is_copy(one, content.folders)]
    for copy in copies:
        notes.add(
            "images", f"in {copy.name}/{copy.name}/, a copy of the classes", list_image_paths(copy)
        )
    folders = [one for one in content.folders if one not in copies]
    found = {one.name: list_image_paths(one, notes.passed) for one in folders}
    empty = [one for one in folders if not found[one.name]]
    notes.add("folders", "there is no image in it", empty)
    filled = {one: found[one.name] for one in folders if found[one.name]}
    if not filled and content.images:
        raise _no_classes(folder, notes.root)
    _warn_of_inner_classes(filled)
    # Composed accents, as macOS writes them apart in one part and Linux together in the other.
    return {unicodedata.normalize("NFC", one.name): images for one, images in filled.items()}


def _is_copy(folder: Path, siblings: Sequence[Path]) -> bool:
    """Return whether a folder repeats the classes beside it, as in archives packed twice.

    It is named like the folder that holds it, and has folders named like those beside it alone.
    """
    if folder.name != folder.parent.name:
        return False
    content = list_folder(folder)
    beside = {one.name for one in siblings if one != folder}
    inner = {one.name for one in content.folders}
    return not content.images and len(inner) > 1 and inner <= beside


def _warn_of_inner_classes(images: dict[Path, list[str]]) -> None:
    """Say where all classes consist of folders, and warn where these may be the classes."""
    if len(images) < 2 or any(
        folder in (Path(i[0]).parent, Path(i[-1]).parent) for folder, i in images.items()
    ):
        return
    names = dict.fromkeys(tuple(one.name for one in _filled(folder)) for folder in images)
    classes = _list(folder.name for folder in images)
    if len(names) == 1:
        first = enter(next(iter(images)))
        log.warning(
            "the classes are %s: each has the folders %s; if these are the classes, give %s",
            classes, _list(*names), first,
        )  # fmt: skip
    else:
        inner = _list(name for of_class in names for name in of_class)
        log.info("the classes are %s; the folders in them, %s, are not told apart", classes, inner)


def _list(names: Iterable[str]) -> str:
    found = [f"{name}/" for name in names]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _no_classes(folder: Path, root: Path) -> GtaError:
    images = list_folder(folder).images
    state = "holds images but no class folder" if images else "is empty"
    if any("\\" in image.name for image in images):
        hint = "their names contain \\, as in a zip of Windows: unpack it again, with unzip or 7z"
        return GtaError(f"folder {folder} {state}: {hint}")
    hint = _suggest_table(folder) or _suggest_table(root)
    return GtaError(f"folder {folder} {state}: {hint or _LAYOUT}")


def _suggest_table(root: Path) -> str:
    tables = [str(table) for table in list_tables(root)]
    return f"did you mean {' or '.join(tables[:2])}?" if tables else ""
