"""Reader `cars`: Stanford Cars (Krause et al., 2013), in either of its published layouts.

`cars_train/`, `cars_test/`, `devkit/` (`cars_train_annos.mat`, `cars_meta.mat`) and
`cars_test_annos_withlabels.mat` (beside `devkit/`, as torchvision wants it, or in it); or
`car_ims/` and `cars_annos.mat`, all images in one, numbered otherwise. Boxes are not used.
"""

from pathlib import Path
from typing import Any

from gtacli.data.base import ImageDataset, Publication, Record
from gtacli.data.readers.published import PublishedReader, read_mat
from gtacli.errors import GtaError

_TEST = "cars_test_annos_withlabels.mat"
_DEVKIT = ("cars_train", "cars_test", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat")


class Cars(PublishedReader):
    help = "Stanford Cars as published: cars_train/, cars_test/, devkit/, or car_ims/"
    name = "cars"
    published = Publication(
        "Stanford Cars",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (offline since; seek a copy)",
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
        splits: dict[str, list[Record]] = {"train": [], "test": []}
        whole = root / "cars_annos.mat"
        if whole.exists() and (root / "car_ims").exists():
            rows, names = read_mat(whole, "annotations", "class_names")
            for row in rows:
                split = "test" if _field(whole, row, "test") else "train"
                splits[split].append(_record(root, whole, row, "relative_im_path", len(names)))
        else:
            (names,) = read_mat(root / "devkit/cars_meta.mat", "class_names")
            test = root / _TEST
            tables = {
                "train": root / "devkit/cars_train_annos.mat",
                "test": test if test.exists() else root / "devkit" / _TEST,
            }
            for split, table in tables.items():
                (rows,) = read_mat(table, "annotations")
                folder = f"cars_{split}/"
                splits[split] = [
                    _record(root, table, row, "fname", len(names), folder) for row in rows
                ]
        return self.dataset(root, tuple(str(name) for name in names), splits)


def _record(
    root: Path, table: Path, row: Any, column: str, classes: int, folder: str = ""
) -> Record:
    key = folder + str(_field(table, row, column))
    number = int(_field(table, row, "class"))
    if not 1 <= number <= classes:
        raise GtaError(f"{table}: {key} has class {number}, of {classes}")
    return Record(key, number - 1, root / key)


def _field(table: Path, row: Any, column: str) -> Any:
    try:
        return row[column]
    except (IndexError, KeyError, ValueError) as error:
        hint = " (the test list without labels?)" if column == "class" else ""
        raise GtaError(f"{table}: its annotations have no '{column}'{hint}") from error
