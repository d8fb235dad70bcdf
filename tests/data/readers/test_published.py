"""Tests of the readers of published layouts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from numpy.lib.recfunctions import repack_fields
from PIL import Image
from scipy.io import loadmat, savemat

from gtacli.data import load_dataset
from gtacli.data.readers.aircraft import Aircraft
from gtacli.data.readers.cars import Cars
from gtacli.data.readers.cub import CUB
from gtacli.data.readers.dogs import Dogs
from gtacli.data.readers.pets import Pets
from gtacli.data.readers.published import PublishedReader, list_lines, read_mat
from gtacli.data.truth import read_record_truth
from gtacli.errors import GtaError

Layout = Callable[[str, Path], str]
TOPS = {
    "pets": "oxford-iiit-pet",
    "aircraft": "fgvc-aircraft-2013b",
    "cars": "stanford_cars",
    "cars-whole": ".",
    "dogs": ".",
}


def test_published_counts() -> None:
    """The numbers are those of the literature; the sum of CUB is 11,788."""
    table = {
        CUB: (5994, 5794, 200),
        Cars: (8144, 8041, 196),
        Aircraft: (6667, 3333, 100),
        Dogs: (12000, 8580, 120),
        Pets: (3680, 3669, 37),
    }
    for reader, (train, test, classes) in table.items():
        assert reader.published.counts == {"train": train, "test": test}
        assert reader.published.classes == classes


@pytest.mark.parametrize("name", TOPS)
def test_layout_of_a_folder_is_recognized(name: str, layout: Layout, tmp_path: Path) -> None:
    root = tmp_path / "any" / "name"
    layout(name, root)
    data = load_dataset(str(root / TOPS[name]))
    extra = 3 if name == "aircraft" else 0  # its val split is part of train
    assert [(split, len(part)) for split, part in data.splits.items()] == [
        ("train", 12 + extra),
        ("test", 6),
    ]
    assert len(data.classes) == 3
    by_name = load_dataset(f"{name.split('-')[0]}:{root}")
    assert by_name.fingerprint() == data.fingerprint()


def test_dogs(layout: Layout, tmp_path: Path) -> None:
    data = load_dataset(layout("dogs", tmp_path))
    assert data.classes == (
        "n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02085936-Maltese_dog",
    )  # fmt: skip
    for split, record in data.records():
        assert record.key.split("/")[0] == data.classes[record.label]
        assert record.path == tmp_path / "Images" / record.key
        assert record.key in [
            cell[0][0] for cell in loadmat(tmp_path / f"{split}_list.mat")["file_list"]
        ]
    lists = tmp_path / "lists"
    lists.mkdir()
    for split in ("train", "test"):
        (tmp_path / f"{split}_list.mat").rename(lists / f"{split}_list.mat")
    assert load_dataset(str(tmp_path)).fingerprint() == data.fingerprint()


def test_both_layouts_of_cars_agree(layout: Layout, tmp_path: Path) -> None:
    one, other = (load_dataset(layout(name, tmp_path / name)) for name in ("cars", "cars-whole"))
    assert one.classes == other.classes
    for split in ("train", "test"):
        assert [r.label for r in one[split]] == [r.label for r in other[split]]
    assert other["test"][0].key.startswith("car_ims/")


def test_cars_test_list_without_labels(layout: Layout, tmp_path: Path) -> None:
    layout("cars", tmp_path)
    test = tmp_path / "stanford_cars/cars_test_annos_withlabels.mat"
    rows = loadmat(test)["annotations"]
    savemat(test, {"annotations": repack_fields(rows[["bbox_x1", "fname"]])})
    with pytest.raises(GtaError, match=r"withlabels\.mat: .* no 'class' \(the test list without"):
        Cars().read(tmp_path)


def test_trimaps_of_pets_are_masks(layout: Layout, tmp_path: Path) -> None:
    layout("pets", tmp_path)
    trimaps = tmp_path / "oxford-iiit-pet/annotations/trimaps"
    trimaps.mkdir()
    first, second = Pets().read(tmp_path)["train"][:2]
    assert first.mask is None
    with Image.open(first.path) as photo:
        w, h = photo.size
    trimap = Image.new("L", (w, h), 2)
    trimap.putpixel((0, 0), 1)
    trimap.save(trimaps / Path(first.key).with_suffix(".png"))
    first, second = Pets().read(tmp_path)["train"][:2]
    truth = read_record_truth(first, (h, w))
    assert truth is not None
    assert truth.labels is not None
    assert truth.labels.sum() == truth.labels[0, 0] == 1
    assert second.mask is None


FILES = {
    "dogs": (Dogs, "test_list.mat"),
    "cars": (Cars, "stanford_cars/cars_test_annos_withlabels.mat"),
    "cars-whole": (Cars, "car_ims"),
    "aircraft": (Aircraft, "fgvc-aircraft-2013b/data/images_variant_test.txt"),
    "pets": (Pets, "oxford-iiit-pet/annotations/trainval.txt"),
}


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_reported(name: str, layout: Layout, tmp_path: Path) -> None:
    layout(name, tmp_path)
    reader, file = FILES[name]
    (tmp_path / file).rename(tmp_path / "away")
    with pytest.raises(GtaError) as caught:
        reader().read(tmp_path)
    assert file.rpartition("/")[2] in str(caught.value)
    assert reader.published.home in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reader", "layout_name", "file", "text", "message"),
    [
        (Pets, "pets", "annotations/test.txt", "x_1 1 1\n", "line 1: expected 'image class spec"),
        (Pets, "pets", "annotations/test.txt", "\nx_1 a 1 1\n", "line 2: class 'a' is not a numb"),
        (Aircraft, "aircraft", "data/images_variant_test.txt", "1 707\n", "line 1: '707' is not i"),
        (Aircraft, "aircraft", "data/images_variant_test.txt", "1\n", "line 1: expected 'image v"),
        (Cars, "cars", "devkit/cars_meta.mat", "x", "cars_meta.mat: not a readable MATLAB file"),
        (Dogs, "dogs", "test_list.mat", "x", "test_list.mat: not a readable MATLAB file"),
    ],
)
def test_invalid_lists_raise_one_line(
    reader: type[PublishedReader],
    layout_name: str,
    file: str,
    text: str,
    message: str,
    layout: Layout,
    tmp_path: Path,
) -> None:
    layout(layout_name, tmp_path)
    (tmp_path / TOPS[layout_name] / file).write_text(text)
    with pytest.raises(GtaError, match=message) as caught:
        reader().read(tmp_path)
    assert "\n" not in str(caught.value)


def test_inconsistent_lists(layout: Layout, tmp_path: Path) -> None:
    layout("dogs", tmp_path / "dogs")
    path = tmp_path / "dogs/test_list.mat"
    savemat(path, {"file_list": loadmat(path)["file_list"], "labels": [[1]]})
    with pytest.raises(GtaError, match="6 files and 1 labels"):
        Dogs().read(tmp_path / "dogs")
    layout("cars", tmp_path)
    savemat(tmp_path / "stanford_cars/devkit/cars_meta.mat", {"class_names": ["one"]})
    with pytest.raises(GtaError, match=r"cars_train/00002\.jpg has class 2, but there"):
        Cars().read(tmp_path)


def test_list_and_matlab_readers(tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="cannot read"):
        list(list_lines(tmp_path / "gone"))
    savemat(tmp_path / "x.mat", {"one": [[3]]})
    assert read_mat(tmp_path / "x.mat", "one") == [[3]]
    with pytest.raises(GtaError, match="has no variable 'two'"):
        read_mat(tmp_path / "x.mat", "two")
