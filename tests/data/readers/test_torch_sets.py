"""Tests of the reader of torchvision's datasets against torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets as tv

from gtacli.data import load_dataset
from gtacli.data.spec import read_dataset
from gtacli.errors import GtaError
from gtacli.images.decode import decode

Layout = Callable[[str, Path], str]
PARTS: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "pets": (tv.OxfordIIITPet, {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "aircraft": (tv.FGVCAircraft, {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "cars": (tv.StanfordCars, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "flowers": (tv.Flowers102, {s: {"split": s} for s in ("train", "val", "test")}),
    "food101": (tv.Food101, {s: {"split": s} for s in ("train", "test")}),
    "dtd": (tv.DTD, {s: {"split": s} for s in ("train", "val", "test")}),
    "country211": (
        tv.Country211,
        {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
    ),
    "gtsrb": (tv.GTSRB, {s: {"split": s} for s in ("train", "test")}),
    "cifar10": (tv.CIFAR10, {s: {"train": s == "train"} for s in ("train", "test")}),
    "cifar100": (tv.CIFAR100, {s: {"train": s == "train"} for s in ("train", "test")}),
    "stl10": (tv.STL10, {s: {"split": s} for s in ("train", "test")}),
    "svhn": (tv.SVHN, {s: {"split": s} for s in ("train", "test")}),
    "mnist": (tv.MNIST, {s: {"train": s == "train"} for s in ("train", "test")}),
    "fashionmnist": (tv.FashionMNIST, {s: {"train": s == "train"} for s in ("train", "test")}),
}


@pytest.mark.parametrize("name", PARTS)
def test_images_and_labels_equal_torchvisions(name: str, layout: Layout, tmp_path: Path) -> None:
    data = load_dataset(layout(name, tmp_path))
    cls, parts = PARTS[name]
    assert set(data.splits) == set(parts)
    for split, options in parts.items():
        theirs = cls(tmp_path, **options)
        assert len(data[split]) == len(theirs)
        for record, (image, label) in zip(data[split], theirs, strict=True):
            assert record.label == label
            assert np.array_equal(decode(record.path), image.convert("RGB"))
        if hasattr(theirs, "classes"):
            assert data.classes == tuple(theirs.classes)
    assert data.published is not None
    assert set(data.published.counts) == set(parts)


@pytest.mark.parametrize("name", [name for name in PARTS if name != "svhn"])
def test_root_is_the_datasets_folder(name: str, layout: Layout, tmp_path: Path) -> None:
    spec = layout(name, tmp_path)
    (own,) = (path for path in tmp_path.iterdir() if path.is_dir())
    word = spec.partition(":")[0]
    assert load_dataset(f"{word}:{own}").fingerprint() == load_dataset(spec).fingerprint()


@pytest.mark.parametrize("word", ["CIFAR10", "cifar-10", "Cifar_10"])
def test_spelling_of_names(word: str, layout: Layout, tmp_path: Path) -> None:
    layout("cifar10", tmp_path)
    assert len(load_dataset(f"torch/{word}:{tmp_path}")["train"]) == 12


FILES = {
    "pets": "oxford-iiit-pet/annotations/test.txt",
    "aircraft": "fgvc-aircraft-2013b/data/variants.txt",
    "cars": "stanford_cars/devkit/cars_meta.mat",
    "flowers": "flowers-102/setid.mat",
    "food101": "food-101/meta/test.json",
    "dtd": "dtd/dtd/labels/val1.txt",
    "country211": "country211/valid",
    "gtsrb": "gtsrb/GT-final_test.csv",
    "cifar10": "cifar-10-batches-py/data_batch_3",
    "cifar100": "cifar-100-python/meta",
    "stl10": "stl10_binary/train_y.bin",
    "svhn": "test_32x32.mat",
    "mnist": "MNIST/raw/t10k-labels-idx1-ubyte",
    "fashionmnist": "FashionMNIST/raw/train-images-idx3-ubyte",
}


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_reported(name: str, layout: Layout, tmp_path: Path) -> None:
    spec = layout(name, tmp_path)
    published = load_dataset(spec).published
    assert published is not None
    (tmp_path / FILES[name]).rename(tmp_path / "away")
    with pytest.raises(GtaError) as caught:
        load_dataset(spec)
    assert FILES[name].rpartition("/")[2] in str(caught.value)
    assert published.home in str(caught.value)


@pytest.mark.parametrize("name", ["pets", "aircraft", "cars", "flowers", "food101", "dtd"])
def test_missing_image_is_reported(name: str, layout: Layout, tmp_path: Path) -> None:
    spec = layout(name, tmp_path)
    first, second = read_dataset(spec)["test"][:2]
    first.path.unlink()
    with pytest.raises(GtaError, match=rf"{first.path.name} of .* missing; published at http"):
        load_dataset(spec)
    second.path.unlink()
    with pytest.raises(GtaError, match=r"and 1 more of "):
        load_dataset(spec)
    assert len(read_dataset(spec)["test"]) == 6


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_2"),
        ("cifar10", "cifar-10-batches-py/batches.meta"),
        ("stl10", "stl10_binary/test_X.bin"),
        ("svhn", "train_32x32.mat"),
        ("flowers", "flowers-102/imagelabels.mat"),
    ],
)
def test_modified_file_is_reported(name: str, file: str, layout: Layout, tmp_path: Path) -> None:
    spec = layout(name, tmp_path)
    with (tmp_path / file).open("ab") as altered:
        altered.write(b"!")
    with pytest.raises(GtaError, match=f"{file} is not the published file .* get it again from"):
        load_dataset(spec)


def test_broken_lists_raise(layout: Layout, tmp_path: Path) -> None:
    spec = layout("food101", tmp_path)
    (tmp_path / "food-101/meta/test.json").write_text("{")
    with pytest.raises(
        GtaError, match=r"torchvision cannot read Food-101 in .*\(Expecting property"
    ):
        load_dataset(spec)


def test_splits_with_different_classes(layout: Layout, tmp_path: Path) -> None:
    spec = layout("food101", tmp_path)
    (tmp_path / "food-101/meta/test.json").write_text('{"pizza": []}')
    with pytest.raises(GtaError, match="its test and train splits have different classes"):
        load_dataset(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "torch/cifar11:x",
            r"no labeled dataset 'cifar11'; did you mean 'torch/cifar1.*known: ai",
        ),
        ("torch/:x", "no labeled dataset ''; known: "),
        ("torch/pets", "write torch/pets:FOLDER"),
        ("torch/pets:gone", "no such folder: gone"),
        ("torch", "write torch/NAME:ROOT"),
    ],
)
def test_invalid_specs_raise_one_line(spec: str, message: str) -> None:
    with pytest.raises(GtaError, match=message) as caught:
        load_dataset(spec)
    assert "\n" not in str(caught.value)


def test_fingerprint_depends_on_an_arrays_pixels(layout: Layout, tmp_path: Path) -> None:
    data = load_dataset(layout("cifar10", tmp_path))
    before = data.fingerprint()
    data["test"][3].path.images.setflags(write=True)
    data["test"][3].path.images[3, 0, 0, 0] ^= 1
    assert data.fingerprint() != before
