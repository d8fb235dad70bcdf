"""Reader `cub`: Caltech-UCSD Birds-200-2011 as published (Wah et al., 2011).

`images.txt` (id path), `image_class_labels.txt` (id class, from 1), `train_test_split.txt`
(id 1 = training), `classes.txt` (class name), the photographs in `images/`; masks in
`segmentations/` where that separate archive was unpacked beside them.
"""

from pathlib import Path

from gtacli.data.base import ImageDataset, Publication, Record
from gtacli.data.readers.published import PublishedReader, list_fields
from gtacli.errors import GtaError


class CUB(PublishedReader):
    help = "CUB-200-2011 as published: images.txt, image_class_labels.txt, train_test_split.txt"
    name = "cub"
    published = Publication(
        "CUB-200-2011",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        {"train": 5994, "test": 5794},
        200,
    )
    tops = ("CUB_200_2011",)
    layouts = (("images.txt", "image_class_labels.txt", "train_test_split.txt"),)

    def read_layout(self, root: Path) -> ImageDataset:
        paths = _table(root / "images.txt")
        class_ids = _table(root / "image_class_labels.txt", like=paths)
        training = _table(root / "train_test_split.txt", like=paths)
        names = _class_names(root, paths, class_ids)
        labels = {class_id: label for label, class_id in enumerate(sorted(names, key=_number))}

        splits: dict[str, list[Record]] = {"train": [], "test": []}
        for image_id, relative in paths.items():
            path = root / "images" / relative
            mask = (root / "segmentations" / relative).with_suffix(".png")
            split = "train" if training[image_id] == "1" else "test"
            splits[split].append(
                Record(relative, labels[class_ids[image_id]], path, mask if mask.exists() else None)
            )
        return self.dataset(root, tuple(names[class_id] for class_id in labels), splits)


def _table(path: Path, like: dict[str, str] | None = None) -> dict[str, str]:
    """`id value` lines as a dict; with `like`, every id of it must be there."""
    rows = {key: value for _, (key, value) in list_fields(path, "id value")}
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
