"""Reader `cub`: Caltech-UCSD Birds-200-2011 as published (Wah et al., 2011).

`images.txt` (id path), `image_class_labels.txt` (id class, from 1), `train_test_split.txt`
(id 1 = training), `classes.txt` (class name), the photographs in `images/`; masks in
`segmentations/` if that separate archive is unpacked beside them.
"""

from pathlib import Path

from gtacli.data.base import ImageDataset, Publication
from gtacli.data.readers.published import PublishedReader, list_fields
from gtacli.errors import GtaError


class CUB(PublishedReader):
    """The reader of CUB-200-2011."""

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
        listed = _table(root / "classes.txt") if (root / "classes.txt").is_file() else {}
        names: dict[str, str] = {}
        rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
        for image_id, relative in paths.items():
            class_id = class_ids[image_id]
            # Without classes.txt the image's folder is the name of its class.
            names.setdefault(class_id, listed.get(class_id, relative.split("/")[0]))
            rows["train" if training[image_id] == "1" else "test"].append((relative, class_id))
        names = {class_id: names[class_id] for class_id in sorted(names, key=_number)}
        return self.dataset(root, names, rows, root / "images", root / "segmentations")


def _table(path: Path, like: dict[str, str] | None = None) -> dict[str, str]:
    """Read lines `id value` as a dict, which must have all ids of `like`."""
    rows = {key: value for _, (key, value) in list_fields(path, "id value")}
    for image_id in like or ():
        if image_id not in rows:
            raise GtaError(f"{path} has no line for image {image_id} of images.txt")
    return rows


def _number(class_id: str) -> tuple[int, str]:
    return (int(class_id) if class_id.isdigit() else 0, class_id)
