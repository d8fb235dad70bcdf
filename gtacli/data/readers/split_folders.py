"""Which folders of a dataset are splits and which are classes.

A folder is a split if it is named as one and holds class folders, or if its images lie loose in it
while another split has class folders. A single folder `train` of images beside two or more other
folders of images is a class. Words within a name count (`images_test`, `seg_train`) where they tell
at least two splits apart: `bullet_train` beside `car` is a class.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gtacli.data.base import SPLIT_NAMES, split_in_name
from gtacli.errors import GtaError
from gtacli.images.find import has_images, list_folder, list_subfolders

log = logging.getLogger(__name__)


class SplitFolders(NamedTuple):
    """The folders of a dataset.

    Attributes:
        root: the folder that holds them: the given one, or the only one in it.
        splits: folder of each split; none where the class folders lie in `root`.
        others: folders beside those of the splits.
    """

    root: Path
    splits: dict[str, Path]
    others: Sequence[Path] = ()


def find_splits(root: Path) -> SplitFolders:
    """Find the split folders in `root`, or in the only folder of images in it.

    Raises GtaError where two folders have the name of the same split.
    """
    inner = enter(root, also_splits=False)
    content = list_folder(inner)
    folders = content.folders
    exact = _unique(inner, {f: SPLIT_NAMES.get(f.name.lower()) for f in folders})
    rest = [folder for folder in folders if folder not in exact.values()]
    splits = exact | {
        split: folder for split, folder in _by_word(inner, rest).items() if split not in exact
    }
    if len(splits) < 2 and len(folders) > len(splits):
        splits = exact
    others = [folder for folder in folders if folder not in splits.values()]
    if not splits:
        return SplitFolders(inner, {})
    classes = [one for one in others if has_images(one)]
    loose = not any(map(has_class_folders, splits.values()))
    if loose and len(splits) == 1 and len(classes) > 1 and not content.images:
        log.warning(
            "%s is read as a class: like the folders beside it, it holds images and no class "
            "folders",
            *splits.values(),
        )
        return SplitFolders(inner, {})
    if classes and "train" not in splits:
        names = ", ".join(f"{path.name}/" for path in splits.values())
        raise GtaError(
            f"{inner} mixes {names} with class folders such as {classes[0].name}/, and has no "
            "train/"
        )
    return SplitFolders(inner, splits, others)


def enter(folder: Path, also_splits: bool = True) -> Path:
    """Return the innermost folder of class folders, through folders that hold nothing else.

    Args:
        folder: where to begin.
        also_splits: enter folders that are named as splits.
    """
    while True:
        content = list_folder(folder)
        filled = [one for one in content.folders if has_images(one)]
        if len(filled) != 1 or content.images or not has_class_folders(filled[0]):
            return folder
        if not also_splits and split_in_name(filled[0].name):
            return folder
        folder = filled[0]


def has_class_folders(folder: Path) -> bool:
    """Return whether a folder of images is directly in `folder`."""
    return any(map(has_images, list_subfolders(folder)))


def _unique(root: Path, names: dict[Path, str | None]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder, split in names.items():
        if split in found:
            raise GtaError(f"{root} holds both {found[split].name}/ and {folder.name}/")
        if split is not None:
            found[split] = folder
    return found


def _by_word(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folders that alone have a split's word in their names."""
    words = {folder: split_in_name(folder.name) for folder in folders}
    splits = list(words.values())
    return {s: folder for folder, s in words.items() if s is not None and splits.count(s) == 1}
