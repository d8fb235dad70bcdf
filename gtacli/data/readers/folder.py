"""Reader `folder`: `train/ val/ test/` of class folders, or class folders alone (all train)."""

import logging
from pathlib import Path

from gtacli.data.base import SPLIT_NAMES, DatasetReader, ImageDataset, Record, require_folder
from gtacli.errors import GtaError
from gtacli.images.find import find_images, is_image, list_subfolders, relative_keys

log = logging.getLogger(__name__)
_LAYOUT = "expected train/ val/ test/ of class folders, or class folders"


class Folder(DatasetReader):
    """The reader of class folders."""

    help = "train/ val/ test/ of class folders, or class folders alone (all for training)"

    def read(self, root: Path | None) -> ImageDataset:
        root = require_folder(root, "folder")
        found = {
            split: {folder.name: _class_images(folder) for folder in _class_folders(path)}
            for split, path in _split_folders(root).items()
        }
        # Sorted by name like torchvision's ImageFolder, so that labels agree with other tools.
        classes = tuple(sorted({name for by_class in found.values() for name in by_class}))
        labels = {name: label for label, name in enumerate(classes)}
        splits = {
            split: tuple(
                Record(key, labels[name], path)
                for name in sorted(by_class)
                for key, path in zip(
                    relative_keys(by_class[name], root), by_class[name], strict=True
                )
            )
            for split, by_class in found.items()
        }
        return ImageDataset(root.resolve().name, classes, splits)


def _split_folders(root: Path) -> dict[str, Path]:
    folders = list_subfolders(root)
    splits: dict[str, Path] = {}
    others: list[Path] = []
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None:
            others.append(folder)
        elif split in splits:
            raise GtaError(f"{root} holds both {splits[split].name}/ and {folder.name}/")
        else:
            splits[split] = folder
    if not splits:
        return {"train": root}
    if others and "train" not in splits:
        names = ", ".join(f"{path.name}/" for path in splits.values())
        raise GtaError(
            f"{root} mixes {names} with class folders such as {others[0].name}/, and has no train/"
        )
    for other in others:
        log.info("%s is not train, val or test: it is not read", other)
    return splits


def _class_folders(folder: Path) -> list[Path]:
    folders = list_subfolders(folder)
    if not folders:
        loose = any(is_image(path.name) for path in folder.iterdir())
        state = "holds images but no class folder" if loose else "is empty"
        raise GtaError(f"folder {folder} {state}: {_LAYOUT}")
    return folders


def _class_images(folder: Path) -> list[Path]:
    images = find_images(folder)
    if not images:
        raise GtaError(f"class folder {folder} holds no image")
    return images
