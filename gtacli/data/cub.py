"""Reader `cub`: Caltech-UCSD Birds-200-2011 as published (Wah et al., 2011).

`images.txt` (id path), `image_class_labels.txt` (id class, from 1), `train_test_split.txt`
(id 1 = training), `classes.txt` (class name), the photographs in `images/`; masks in
`segmentations/` where that separate archive was unpacked beside them.
"""

from pathlib import Path

from gtacli.data.base import DatasetReader, ImageDataset, Record, require_folder
from gtacli.errors import GtaError

MARKERS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")


def is_cub(root: Path) -> bool:
    return all((root / name).is_file() for name in MARKERS)


class CUB(DatasetReader):
    help = "CUB-200-2011 as published: images.txt, image_class_labels.txt, train_test_split.txt"

    def read(self, root: Path | None) -> ImageDataset:
        root = require_folder(root, "cub")
        if not is_cub(root) and is_cub(root / "CUB_200_2011"):
            root = root / "CUB_200_2011"  # the archive's own top folder
        for name in MARKERS:
            if not (root / name).is_file():
                raise GtaError(f"{root} is not a CUB-200-2011 folder: no {name} in it")
        paths = _table(root / "images.txt")
        class_ids = _table(root / "image_class_labels.txt", like=paths)
        training = _table(root / "train_test_split.txt", like=paths)
        names = _class_names(root, paths, class_ids)
        labels = {class_id: label for label, class_id in enumerate(sorted(names, key=_number))}

        splits: dict[str, list[Record]] = {"train": [], "test": []}
        for image_id, relative in paths.items():
            path = root / "images" / relative
            if not path.is_file():
                raise GtaError(f"{root / 'images.txt'} names images/{relative}, which is missing")
            mask = (root / "segmentations" / relative).with_suffix(".png")
            split = "train" if training[image_id] == "1" else "test"
            splits[split].append(
                Record(relative, labels[class_ids[image_id]], path, mask if mask.exists() else None)
            )
        classes = tuple(names[class_id] for class_id in labels)
        parts = {split: tuple(records) for split, records in splits.items() if records}
        return ImageDataset(root.resolve().name, classes, parts)


def _table(path: Path, like: dict[str, str] | None = None) -> dict[str, str]:
    """`id value` lines as a dict; with `like`, every id of it must be there."""
    rows: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GtaError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not value:
            raise GtaError(f"{path}, line {number}: expected 'id value', got '{line.strip()}'")
        rows[key] = value.strip()
    for image_id in like or ():
        if image_id not in rows:
            raise GtaError(f"{path} has no line for image {image_id} of images.txt")
    return rows


def _class_names(root: Path, paths: dict[str, str], class_ids: dict[str, str]) -> dict[str, str]:
    """Names of the classes that occur; without classes.txt the image's folder names its class."""
    listed = _table(root / "classes.txt") if (root / "classes.txt").is_file() else {}
    names: dict[str, str] = {}
    for image_id, relative in paths.items():
        class_id = class_ids[image_id]
        names.setdefault(class_id, listed.get(class_id, relative.split("/")[0]))
    return names


def _number(class_id: str) -> tuple[int, str]:
    return (int(class_id) if class_id.isdigit() else 0, class_id)
