"""Reader `cars`: Stanford Cars (Krause et al., 2013), in either of its published layouts.

`cars_train/`, `cars_test/`, `devkit/` (`cars_train_annos.mat`, `cars_meta.mat`) and
`cars_test_annos_withlabels.mat` (beside `devkit/`, as torchvision requires, or in it); or
`car_ims/` and `cars_annos.mat`, with all images in one folder and other numbers. Boxes are not
used.
"""

from pathlib import Path
from typing import Any

from gtacli.data.base import ImageDataset, Publication
from gtacli.data.readers.published import PublishedReader, read_mat
from gtacli.errors import GtaError

_TEST = "cars_test_annos_withlabels.mat"
_DEVKIT = ("cars_train", "cars_test", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat")


class Cars(PublishedReader):
    """The reader of Stanford Cars."""

    help = "Stanford Cars as published: cars_train/, cars_test/, devkit/, or car_ims/"
    name = "cars"
    published = Publication(
        "Stanford Cars",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (offline now; look for a copy)",
        {"train": 8144, "test": 8041},
        196,
    )
    tops = ("stanford_cars",)
    layouts = (
        (*_DEVKIT, _TEST),
        (*_DEVKIT, f"devkit/{_TEST}"),
        ("car_ims", "cars_annos.mat"),
    )

    def read_layout(self, root: Path) -> ImageDataset:
        rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        common = root / "cars_annos.mat"
        if common.exists() and (root / "car_ims").exists():
            annotations, names = read_mat(common, "annotations", "class_names")
            for row in annotations:
                split = "test" if _field(common, row, "test") else "train"
                rows[split].append(_row(common, row, "relative_im_path", len(names)))
        else:
            (names,) = read_mat(root / "devkit/cars_meta.mat", "class_names")
            test = root / _TEST
            tables = {
                "train": root / "devkit/cars_train_annos.mat",
                "test": test if test.exists() else root / "devkit" / _TEST,
            }
            for split, table in tables.items():
                (annotations,) = read_mat(table, "annotations")
                rows[split] = [
                    _row(table, row, "fname", len(names), f"cars_{split}/") for row in annotations
                ]
        return self.dataset(root, {i: str(n) for i, n in enumerate(names, start=1)}, rows, root)


def _row(table: Path, row: Any, column: str, classes: int, folder: str = "") -> tuple[str, int]:
    key = folder + str(_field(table, row, column))
    number = int(_field(table, row, "class"))
    if not 1 <= number <= classes:
        raise GtaError(f"{table}: {key} has class {number}, but there are {classes} classes")
    return key, number


def _field(table: Path, row: Any, column: str) -> Any:
    try:
        return row[column]
    except (IndexError, KeyError, ValueError) as error:
        hint = " (the test list without labels?)" if column == "class" else ""
        raise GtaError(f"{table}: its annotations have no '{column}'{hint}") from error
