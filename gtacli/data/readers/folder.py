"""Reader `folder`: `train/ val/ test/` of class folders, or bare class folders (all train)."""

import logging
from pathlib import Path

from gtacli.data.base import SPLIT_NAMES, DatasetReader, ImageDataset, Record, require_folder
from gtacli.errors import GtaError
from gtacli.images.find import find_images, is_image, list_subfolders

log = logging.getLogger(__name__)
_LAYOUT = "expected train/ val/ test/ of class folders, or class folders"


class Folder(DatasetReader):
    help = "train/ val/ test/ of class folders, or bare class folders (all of them training)"

    def read(self, root: Path | None) -> ImageDataset:
        root = require_folder(root, "folder")
        found = {
            split: {folder.name: _class_images(folder) for folder in _class_folders(part)}
            for split, part in _parts(root).items()
        }
        # Sorted by name, as torchvision's ImageFolder: labels then agree with other tools'.
        classes = tuple(sorted({name for by_class in found.values() for name in by_class}))
        labels = {name: label for label, name in enumerate(classes)}
        splits = {
            split: tuple(
                Record(path.relative_to(root).as_posix(), labels[name], path)
                for name in sorted(by_class)
                for path in by_class[name]
            )
            for split, by_class in found.items()
        }
        return ImageDataset(root.resolve().name, classes, splits)


def _parts(root: Path) -> dict[str, Path]:
    folders = list_subfolders(root)
    parts: dict[str, Path] = {}
    others: list[Path] = []
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None:
            others.append(folder)
        elif split in parts:
            raise GtaError(f"{root} holds both {parts[split].name}/ and {folder.name}/")
        else:
            parts[split] = folder
    if not parts:
        return {"train": root}
    if others and "train" not in parts:
        names = ", ".join(f"{part.name}/" for part in parts.values())
        raise GtaError(
            f"{root} mixes {names} with class folders such as {others[0].name}/, and has no train/"
        )
    for other in others:
        log.info("%s: not train, val or test: not read", other)
    return parts


def _class_folders(part: Path) -> list[Path]:
    folders = list_subfolders(part)
    if not folders:
        loose = any(is_image(path.name) for path in part.iterdir())
        state = "holds images but no class folder" if loose else "is empty"
        raise GtaError(f"folder {part} {state}: {_LAYOUT}")
    return folders


def _class_images(folder: Path) -> list[Path]:
    images = find_images(folder)
    if not images:
        raise GtaError(f"class folder {folder} holds no image")
    return images
